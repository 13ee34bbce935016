# SPDX-License-Identifier: BSD-3-Clause
"""Are the frames of a sequence coded one by one, found one by one, and never held together?"""

import io
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_vvc_feature import smooth_features, worst_error
from vfcn_tiny import pyramid, tiny_weights

from anchors.vvc_feature import VvcFeatureCodec
from anchors.vvc_remote import VvcRemoteCodec
from vcm_plugin import bitstream
from vcm_plugin.bitstream import FrameReader, Timing, write_frames
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.vvc import stream as vvc_stream

RANGE = (-8.0, 8.0)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return MachineCodec(tiny_weights(tmp_path_factory.mktemp("vfcn")))


def written(tmp_path, codec, frames, rate_point, count=None):
    path = tmp_path / f"{codec.name}.bin"
    with path.open("wb") as file:
        timing = Timing(count or len(frames), (30000, 1001))
        sizes = codec.encode_frames(iter(frames), rate_point, timing, file)
    assert sum(sizes) == path.stat().st_size and len(sizes) == len(frames)
    return path


def moved(count):
    """Smooth features that move by one cell of the finest layer from frame to frame."""
    features = smooth_features()
    return [
        FeaturePyramid(
            {name: torch.roll(x, n, dims=2) for name, x in features.layers.items()},
            features.source_size,
            features.input_size,
        )
        for n in range(count)
    ]


def equal(a: FeaturePyramid, b: FeaturePyramid) -> bool:
    return all(torch.equal(a.layers[name], b.layers[name]) for name in a.layers)


# --- the machine layer ----------------------------------------------------------------------


def test_frames_of_a_sequence_are_those_of_pictures(tmp_path, machine):
    frames = [pyramid(seed=seed) for seed in range(4)]
    path = written(tmp_path, machine, frames, "1")
    stream = bitstream.read(path.read_bytes())
    assert (stream.header.frames, stream.header.frame_rate) == (4, (30000, 1001))
    pictures = [machine.encode(features, "1") for features in frames]
    for unit, picture in zip(stream.units, pictures, strict=True):
        assert unit.payload == bitstream.read(picture).units[0].payload
    decoded = list(machine.decode_frames(path))
    assert all(equal(a, machine.decode(b)) for a, b in zip(decoded, pictures, strict=True))
    assert equal(machine.decode_frame(path, 2), decoded[2])


def test_a_damaged_frame_harms_no_other(tmp_path, machine):
    path = written(tmp_path, machine, [pyramid(seed=seed) for seed in range(3)], "1")
    starts = FrameReader.open(path).starts
    data = bytearray(path.read_bytes())
    data[(starts[1] + starts[2]) // 2] ^= 1
    path.write_bytes(data)
    frames = machine.decode_frames(path)
    next(frames).require_finite()
    with pytest.raises(BitstreamError, match="frame 1: corrupt"):
        next(frames)
    machine.decode_frame(path, 2).require_finite()


def test_memory_does_not_grow_with_the_sequence(tmp_path, machine):
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.fcm"
        tracemalloc.start()
        with path.open("wb") as file:
            frames = (pyramid(seed=seed) for seed in range(count))
            machine.encode_frames(frames, "1", Timing(count, (50, 1)), file)
        for features in machine.decode_frames(path):
            features.require_finite()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(2)  # what is allocated once
    assert peak(24) < peak(4) + 20_000  # one frame in a file takes more than 1,000 bytes


def test_frames_are_taken_one_at_a_time(machine):
    taken, file = [], io.BytesIO()

    def frames():
        for seed in range(3):
            taken.append(file.tell())
            yield pyramid(seed=seed)

    machine.encode_frames(frames(), "1", Timing(3, (50, 1)), file)
    assert taken[0] == 0 and taken[0] < taken[1] < taken[2]  # each is written before the next


def test_the_number_of_frames_must_be_what_was_said(tmp_path, machine):
    frames = [pyramid(seed=seed) for seed in range(2)]
    for count in (1, 3):
        with pytest.raises(BitstreamError, match=f"expected {count} frames, found 2"):
            written(tmp_path, machine, frames, "1", count)
    with pytest.raises(BitstreamError, match="at least one frames, found 0"):
        written(tmp_path, machine, [], "1", 2)


def test_frames_of_another_size_are_refused(tmp_path, machine):
    frames = [pyramid((61, 90)), pyramid((100, 90))]
    with pytest.raises(BitstreamError, match="frame 1: expected the sizes and layers of frame 0"):
        written(tmp_path, machine, frames, "1")


def test_a_sequence_is_no_picture(tmp_path, machine):
    path = written(tmp_path, machine, [pyramid(), pyramid()], "1")
    with pytest.raises(BitstreamError, match="one picture, found a sequence of 2 frames"):
        machine.decode(path.read_bytes())
    with pytest.raises(IndexError, match="from 0 to 1, found 2"):
        machine.decode_frame(path, 2)


def test_a_reader_of_frames_sees_the_human_layer_and_a_cut(tmp_path):
    header = bitstream.Header("diff_fchm", "fpn", (9, 9), (32, 32), weights_id=1)
    header = replace(header, frames=2, frame_rate=(25, 1))
    file = io.BytesIO()
    write_frames(file, [(header, b"first"), (header, b"second")])
    human = b"".join(bitstream.write_unit(bitstream.Unit("human", n, b"human")) for n in (0, 1))
    for data in (file.getvalue(), file.getvalue() + human):
        reader = FrameReader(data)
        assert [reader[n] for n in range(len(reader))] == [b"first", b"second"]
        assert reader.machine_bytes == len(file.getvalue())
    path = tmp_path / "cut.fcm"
    for size in (0, 5, len(file.getvalue()) - 1):
        path.write_bytes(file.getvalue()[:size])
        with pytest.raises(BitstreamError):
            FrameReader.open(path)


# --- the feature anchor ---------------------------------------------------------------------


def test_all_intra_frames_are_those_of_pictures_with_parameter_sets_sent_once(tmp_path):
    codec, frames = VvcFeatureCodec(value_range=RANGE), moved(3)
    path = written(tmp_path, codec, frames, "27")
    decoded = list(codec.decode_frames(path))
    pictures = [codec.encode(features, "27") for features in frames]
    for n, picture in enumerate(pictures):
        assert equal(decoded[n], codec.decode(picture))
        assert equal(decoded[n], codec.decode_frame(path, n))
    units = [unit.payload for unit in bitstream.read(path.read_bytes()).units]
    alone = [bitstream.read(picture).units[0].payload for picture in pictures]
    assert units[0] == alone[0]
    sets = vvc_stream.parameter_sets(units[0])
    assert len(sets) > 20
    assert [sets + unit for unit in units[1:]] == alone[1:]


def test_random_access_saves_bits_where_frames_resemble_each_other(tmp_path):
    still = [smooth_features()] * 5
    intra = VvcFeatureCodec(value_range=RANGE)
    inter = VvcFeatureCodec(value_range=RANGE, random_access=True)
    path = written(tmp_path, inter, still, "27")
    decoded = list(inter.decode_frames(path))
    assert len(decoded) == 5
    assert all(worst_error(still[0], features) < 2 for features in decoded)
    assert equal(inter.decode_frame(path, 3), decoded[3])
    size = path.stat().st_size
    path = written(tmp_path, intra, still, "27")
    assert size < 0.5 * path.stat().st_size
    assert inter.identity() != intra.identity()


def test_a_moving_sequence_comes_back_in_the_order_of_display(tmp_path):
    frames = moved(9)
    codec = VvcFeatureCodec(value_range=RANGE, random_access=True)
    decoded = list(codec.decode_frames(written(tmp_path, codec, frames, "12")))
    for n, features in enumerate(decoded):
        errors = [(features.layers["p2"] - other.layers["p2"]).square().mean() for other in frames]
        assert int(np.argmin(errors)) == n


def test_what_a_sequence_of_features_needs(tmp_path):
    with pytest.raises(InputError, match=r"set vvc_feature_range to \[low, high\]"):
        written(tmp_path, VvcFeatureCodec(), moved(2), "32")
    codec = VvcFeatureCodec(value_range=RANGE)
    odd = [smooth_features(), smooth_features(grid=(32, 32))]
    with pytest.raises(InputError, match="frames of one size"):
        written(tmp_path, codec, odd, "32")


def test_a_feature_stream_that_lacks_a_frame(tmp_path):
    codec = VvcFeatureCodec(value_range=RANGE)
    stream = bitstream.read(written(tmp_path, codec, moved(3), "32").read_bytes())
    units = [*stream.units[:2], replace(stream.units[2], payload=b"")]
    path = tmp_path / "lacking.fcm"
    path.write_bytes(bitstream.write(stream.header, units))
    with pytest.raises(BitstreamError, match="expected 3 frames, the VVC stream holds 2"):
        list(codec.decode_frames(path))


# --- the remote-inference anchor ------------------------------------------------------------


def pictures(count: int, size=(70, 90)) -> list[np.ndarray]:
    """A gradient that moves by two pixels a frame."""
    y, x = np.mgrid[: size[0], : size[1]]
    planes = [[(x + 2 * n) * 2, y * 3, (x - y) * 2] for n in range(count)]
    return [np.stack(p, axis=-1).clip(0, 255).astype(np.uint8) for p in planes]


@pytest.mark.parametrize("rate_point", ["17", "17@50"])
@pytest.mark.parametrize("random_access", [False, True])
def test_a_sequence_of_pictures(tmp_path, rate_point, random_access):
    codec = VvcRemoteCodec(random_access=random_access)
    frames = pictures(4)
    path = written(tmp_path, codec, frames, rate_point)
    decoded = list(codec.decode_frames(path))
    assert len(decoded) == 4
    for found, expected in zip(decoded, frames, strict=True):
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 6
    if not random_access:
        assert np.array_equal(decoded[2], codec.decode(codec.encode(frames[2], rate_point)))


def test_pictures_of_two_sizes(tmp_path):
    with pytest.raises(InputError, match="frames of one size"):
        written(tmp_path, VvcRemoteCodec(), pictures(1) + pictures(1, (70, 92)), "32")
