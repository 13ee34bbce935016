# SPDX-License-Identifier: BSD-3-Clause
"""Frames that are coded after others: round trips, the same latents everywhere, damaged files."""

import io
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from inter_tiny import moving, tiny_inter, tiny_networks
from test_machine_codec import mutated, same_latents
from vfcn_tiny import pyramid, tiny_model, tiny_weights

from vcm_plugin import bitstream
from vcm_plugin.bitstream import FrameReader, Timing
from vcm_plugin.conditions import bundled_weights
from vcm_plugin.diff_fchm.machine import ivn
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.diff_fchm.machine.layer import Lost
from vcm_plugin.entropy.integer import integer_networks, integer_weights
from vcm_plugin.entropy.latent_coder import LatentCoder, gaussian_tables
from vcm_plugin.entropy.rans import Encoder
from vcm_plugin.entropy.symbols import symbol_costs
from vcm_plugin.entropy.temporal_coder import TemporalCoder, gated
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.features import FeaturePyramid

GOLDEN = Path(__file__).parents[1] / "golden"
MUTATIONS = 300


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inter")
    machine = tiny_weights(folder)
    return machine, tiny_inter(folder, machine)


@pytest.fixture(scope="module")
def codec(paths):
    return MachineCodec(paths[0], inter=paths[1], intra_period=4)


def written(folder, codec, frames, rate_point="1"):
    path = folder / "sequence.fcm"
    with path.open("wb") as file:
        sizes = codec.encode_frames(iter(frames), rate_point, Timing(len(frames), (30, 1)), file)
    assert sum(sizes) == path.stat().st_size and len(sizes) == len(frames)
    return path


def changing(count: int) -> list[FeaturePyramid]:
    """The same features, with a little of others that grows from frame to frame."""
    still, other = pyramid((96, 128)), pyramid((96, 128), seed=2)
    return [
        FeaturePyramid(
            {k: x + 0.3 * n * other.layers[k] for k, x in still.layers.items()},
            still.source_size,
            still.input_size,
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("s", ["0.25", "1", "4"])
def test_round_trip(tmp_path, codec, s):
    frames = moving(6)
    path = written(tmp_path, codec, frames, s)
    again = path.read_bytes()
    assert written(tmp_path, codec, frames, s).read_bytes() == again
    decoded = list(codec.decode_frames(path))
    assert len(decoded) == 6
    for features, found in zip(frames, decoded):
        found.require_finite()
        assert {k: x.shape for k, x in found.layers.items()} == {
            k: x.shape for k, x in features.layers.items()
        }


def test_an_intra_period_begins_with_the_bytes_of_a_picture(tmp_path, codec):
    frames = [pyramid((96, 128))] * 6
    path = written(tmp_path, codec, frames)
    stream = bitstream.read(path.read_bytes())
    assert [unit.type for unit in stream.units] == ["machine", *["inter"] * 3, "machine", "inter"]
    assert [unit.frame for unit in stream.units] == list(range(6))
    picture = bitstream.read(codec.encode(frames[0], "1")).units[0].payload
    assert stream.units[0].payload == picture == stream.units[4].payload


def test_what_hardly_moves_costs_less(tmp_path, codec):
    path = written(tmp_path, codec, changing(4))
    lengths = [len(unit.payload) for unit in bitstream.read(path.read_bytes()).units]
    assert 0 < max(lengths[1:]) < 0.9 * lengths[0]


def test_an_inter_unit_has_eight_bytes_at_most_beside_its_data():
    unit = bitstream.Unit("inter", (1 << 24) - 1, bytes(16_000), 0xFFFFFFFF)
    assert len(bitstream.write_unit(unit)) - 16_000 <= 8


def test_a_period_of_one_codes_pictures(tmp_path, paths):
    frames = moving(3)
    intra = written(tmp_path, MachineCodec(paths[0]), frames).read_bytes()
    for period in (1, None):
        inter = None if period is None else paths[1]
        codec = MachineCodec(paths[0], inter=inter, intra_period=period)
        assert written(tmp_path, codec, frames).read_bytes() == intra


def test_a_period_of_no_frames_is_refused(paths):
    with pytest.raises(InputError, match="intra_period: expected 1 .* or more frames, found 0"):
        MachineCodec(paths[0], inter=paths[1], intra_period=0)


def test_a_frame_is_intra_where_that_is_smaller(tmp_path, codec):
    """After a cut to another scene, nothing of the earlier frames helps."""
    frames = [pyramid((96, 128), seed=1)] * 2 + [pyramid((96, 128), seed=2)] * 2
    path = written(tmp_path, codec, frames, "0.25")
    unit = bitstream.read(path.read_bytes()).units[2]
    picture = bitstream.read(codec.encode(frames[2], "0.25")).units[0]
    assert len(bitstream.write_unit(unit)) <= len(bitstream.write_unit(picture)) + 1
    assert len(list(codec.decode_frames(path))) == 4


def test_one_frame_is_decoded_from_the_nearest_intra_frame(tmp_path, codec):
    path = written(tmp_path, codec, moving(7))
    decoded = list(codec.decode_frames(path))
    reader = FrameReader.open(path)
    assert [reader.intra_before(n) for n in (0, 3, 4, 6)] == [0, 0, 4, 4]
    data = bytearray(path.read_bytes())
    data[reader.starts[1] + 3] ^= 1  # a frame of another intra period
    path.write_bytes(data)
    for frame in (0, 4, 6):
        found = codec.decode_frame(path, frame)
        assert all(torch.equal(x, found.layers[k]) for k, x in decoded[frame].layers.items())
    with pytest.raises(IndexError, match="expected a frame from 0 to 6, found 7"):
        codec.decode_frame(path, 7)


# --- exactness ------------------------------------------------------------------------------


def test_latents_do_not_depend_on_threads_and_precision(tmp_path, codec, paths):
    path = written(tmp_path, codec, moving(4))
    expected = list(codec.read_layers(path))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found = MachineCodec(paths[0], dtype=torch.float64, inter=paths[1]).read_layers(path)
            assert all(map(same_latents, found, expected))
    finally:
        torch.set_num_threads(threads)


def test_a_gate_reaches_both_ends():
    mean, predicted = np.array([7, -300], np.int32), np.array([-9, 12], np.int32)
    assert (gated(mean, np.int32(0), predicted) == mean).all()
    assert (gated(mean, np.int32(256), predicted) == predicted).all()
    limit = np.int32(2048 * 16)
    assert gated(limit, np.int32(128), -limit) == 0  # within 32 bits


def test_the_integer_coder_is_what_training_estimates():
    from vcm_plugin.training.inter import code_inter, code_intra

    model, networks = tiny_model().eval(), tiny_networks().eval()
    tables = gaussian_tables()
    intra = LatentCoder(integer_networks(model.entropy, integer_weights(model.entropy)), tables)
    inter = TemporalCoder(integer_networks(networks, integer_weights(networks)), tables)
    value_range = (-8.0, 8.0)
    ranges = torch.tensor([value_range])
    octaves = ivn.log2_code(value_range) - ivn.log2_code((0.0, model.typical_width.item()))
    spent, estimated, errors = 0, 0.0, []
    with torch.no_grad():
        layers = [{k: x[None] for k, x in f.layers.items()} for f in moving(4)]
        y = [model.analysis(ivn.normalise(x, value_range), ranges) for x in layers]
        z = [model.h_a(x) for x in y]
        last = code_intra(model.entropy, z[0], y[0], model.octaves(ranges))
        _, exact = intra.encode(z[0][0], y[0][0], octaves)
        before, exact_before = last, exact
        for frame in range(1, 4):
            coded = code_inter(networks, z[frame], y[frame], model.octaves(ranges), last, before)
            data, found, _ = inter.encode(z[frame][0], y[frame][0], octaves, exact, exact_before)
            spent, estimated = spent + 8 * len(data), estimated + coded.bits.item()
            errors.append(np.abs(found.y / 16 - coded.y_hat[0].numpy()))
            before, last, exact_before, exact = last, coded, exact, found
    assert estimated == pytest.approx(spent, rel=0.03)
    assert np.mean(errors) < 0.1


def test_bits_are_weighed_against_errors(codec):
    layers = [codec.analyse(features) for features in moving(2)]
    value_range = ivn.scaled_range(layers[0].value_range, 0.5)
    earlier = codec.code_intra(layers[0], 0.5).latents
    z, y = codec.latents_at(layers[1], value_range)
    sizes = []
    for weight in (math.inf, 8.0, 2.0):
        coder, octaves = codec.inter.coder, codec.octaves(value_range)
        data, latents, _ = coder.encode(z, y, octaves, earlier, earlier, weight)
        decoded = coder.decode(data, octaves, earlier, earlier)
        assert np.array_equal(decoded.y, latents.y) and np.array_equal(decoded.z, latents.z)
        assert np.abs(latents.y / 16 - y.numpy()).max() <= (0.5 if weight == math.inf else 1.5)
        sizes.append(len(data))
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < sizes[0]


@pytest.mark.parametrize("shift", [-8, 0, 5, 47])
def test_scales_are_shifted_alike_on_both_sides(codec, shift):
    layers = [codec.analyse(features) for features in moving(2)]
    value_range = ivn.scaled_range(layers[0].value_range, 1.0)
    earlier = codec.code_intra(layers[0], 1.0).latents
    z, y = codec.latents_at(layers[1], value_range)
    coder, octaves = codec.inter.coder, codec.octaves(value_range)
    data, latents, best = coder.encode(z, y, octaves, earlier, earlier, 8.0, shift)
    decoded = coder.decode(data, octaves, earlier, earlier)
    assert np.array_equal(decoded.y, latents.y) and np.array_equal(decoded.z, latents.z)
    again, _, _ = coder.encode(z, y, octaves, earlier, earlier, 8.0, best)
    assert len(again) <= len(data) + 1


def test_what_stands_still_takes_a_unit_without_a_payload(tmp_path, codec):
    path = written(tmp_path, codec, [pyramid((96, 128))] * 3)
    units = bitstream.read(path.read_bytes()).units
    assert [len(unit.payload) for unit in units[1:]] == [0, 0]
    assert len(bitstream.write_unit(units[1])) == 6
    first, *others = codec.read_layers(path)
    assert all(same_latents(first, layer) for layer in others)


def test_a_cost_is_what_the_entropy_coder_spends():
    tables = gaussian_tables()
    costs = symbol_costs(tables)
    rng = np.random.default_rng(1)
    for level in (1, 12, 30, 47):
        q = np.rint(rng.normal(0.0, 3.0, 4000)).astype(np.int32)
        encoder = Encoder(tables)
        encoder.add(q, np.full(q.shape, level))
        expected = costs[level, np.minimum(np.abs(q), costs.shape[1] - 1)].sum()
        assert 8 * len(encoder.finish()) == pytest.approx(expected, rel=0.002, abs=40)


# --- damaged files, bad input ---------------------------------------------------------------


def test_a_damaged_frame_takes_those_up_to_the_next_intra_frame(tmp_path, codec):
    path = written(tmp_path, codec, changing(6))
    expected = list(codec.read_layers(path))
    data = bytearray(path.read_bytes())
    data[FrameReader.open(path).starts[3] - 1] ^= 1  # the check of frame 2
    path.write_bytes(data)
    frames = codec.decode_frames(path)
    for _ in range(2):
        next(frames).require_finite()
    with pytest.raises(BitstreamError, match=r"frame 2: the inter unit and .*up to 3 are gone"):
        next(frames)
    found = list(codec.read_sound_layers(path))
    assert [isinstance(layer, Lost) for layer in found] == [False, False, True, True, False, False]
    assert "frame 2" in found[3].reason
    assert all(same_latents(found[n], expected[n]) for n in (0, 1, 4, 5))


def test_a_cut_file_says_which_frames_are_gone(tmp_path, codec):
    path = written(tmp_path, codec, moving(6))
    starts = FrameReader.open(path).starts
    for end in (starts[3], starts[3] + 2):
        path.write_bytes(path.read_bytes()[:end])
        with pytest.raises(BitstreamError, match="truncated.*; frames 3 to 5 are gone"):
            list(codec.decode_frames(path))
        found = list(codec.read_sound_layers(path))
        assert [isinstance(layer, Lost) for layer in found] == [False] * 3 + [True] * 3
        path = written(tmp_path, codec, moving(6))


def test_a_lost_unit_is_seen(tmp_path, codec):
    """An inter unit has no number, but the frame's is part of its check."""
    path = written(tmp_path, codec, changing(4))
    data, starts = path.read_bytes(), FrameReader.open(path).starts
    swapped = data[starts[2] : starts[3]] + data[starts[1] : starts[2]]
    path.write_bytes(data[: starts[1]] + swapped + data[starts[3] :])
    with pytest.raises(BitstreamError, match="frame 1: "):
        list(codec.decode_frames(path))


def test_inter_frames_without_inter_weights(tmp_path, codec, paths):
    path = written(tmp_path, codec, changing(3))
    with pytest.raises(InputError, match="frame 1 is coded after others: expected inter weights"):
        list(MachineCodec(paths[0]).decode_frames(path))
    other = tiny_inter(tmp_path, paths[0], seed=5)
    with pytest.raises(BitstreamError, match="or was coded with other inter weights"):
        list(MachineCodec(paths[0], inter=other).decode_frames(path))


def test_inter_weights_of_another_machine_layer(tmp_path, paths):
    other = tiny_weights(tmp_path, seed=7)
    with pytest.raises(InputError, match="these inter weights are for the machine layer"):
        MachineCodec(other, inter=paths[1])
    broken = tmp_path / "broken.inter"
    broken.write_bytes(paths[1].read_bytes()[:-9])
    with pytest.raises(InputError, match="expected INTER weights"):
        MachineCodec(paths[0], inter=broken)


def test_frames_of_another_size_are_refused(tmp_path, codec):
    with pytest.raises(BitstreamError, match="frame 1: expected the sizes and layers of frame 0"):
        written(tmp_path, codec, [pyramid((96, 128)), pyramid((61, 90))])


def test_memory_does_not_grow_with_the_sequence(tmp_path, codec):
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.fcm"
        tracemalloc.start()
        with path.open("wb") as file:
            frames = (pyramid((96, 128), seed=seed % 3) for seed in range(count))
            codec.encode_frames(frames, "1", Timing(count, (50, 1)), file)
        for features in codec.decode_frames(path):
            features.require_finite()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(6)  # what is allocated once
    assert peak(36) < peak(6) + 40_000


def test_frames_are_written_as_they_come(codec):
    taken, file = [], io.BytesIO()

    def frames():
        for features in moving(3):
            taken.append(file.tell())
            yield features

    codec.encode_frames(frames(), "1", Timing(3, (50, 1)), file)
    assert taken[0] == 0 and taken[0] < taken[1] < taken[2]


def test_mutated_sequences_are_refused_or_decode_to_their_checksums(tmp_path, codec):
    files = [
        written(tmp_path, codec, frames, s).read_bytes()
        for frames, s in ((changing(4), "2"), (changing(5), "1"))
    ]
    rng, path, refused = np.random.default_rng(3), tmp_path / "mutated.fcm", 0
    for number in range(MUTATIONS // 3):
        path.write_bytes(mutated(files[number % 2], rng, files))
        try:
            for layer in codec.read_layers(path):
                assert layer.latents.checksum() == layer.payload.checksum
        except BitstreamError as error:
            refused += 1
            assert "\n" not in str(error)
        for layer in codec.read_sound_layers(path) if _has_a_header(path) else ():
            assert isinstance(layer, Lost) or layer.latents.checksum() == layer.payload.checksum
    assert refused > MUTATIONS // 6


def _has_a_header(path) -> bool:
    try:
        return FrameReader.open(path, whole=False).header.profile == "diff_fchm"
    except BitstreamError:
        return False


# --- in words, and files of the past --------------------------------------------------------


def test_info_says_how_frames_refer_to_each_other(tmp_path, codec):
    path = written(tmp_path, codec, [pyramid((96, 128))] * 6)
    text = "\n".join(bitstream.describe(path.read_bytes()))
    assert "2 intra frames (0, 4), 4 inter frames" in text
    assert "structural delay 0 frames" in text
    assert "inter unit of frame 1: " in text


@pytest.mark.parametrize("name", ["tiny_sequence", "minictc_inter"])
def test_golden_sequences_decode_to_their_checksums_for_ever(name):
    weights = (GOLDEN / "tiny.vfcn", GOLDEN / "tiny.inter")
    if name == "minictc_inter":
        names = ("minictc_vfcn.safetensors", "minictc_inter.safetensors")
        weights = tuple(Path(bundled_weights(name)) for name in names)
    codec = MachineCodec(weights[0], inter=weights[1])
    layers = list(codec.read_layers(GOLDEN / f"{name}.fcm"))
    assert [layer.latents.checksum() for layer in layers] == CHECKSUMS[name]


CHECKSUMS = {
    "tiny_sequence": [0xDD4810A5, 0x2A07FD8D, 0x61857EB9, 0x0EAB0FE3, 0xDD4810A5, 0xDD4810A5],
    "minictc_inter": [
        0x1C7FD2C6, 0xD5CC4B67, 0x3C68C695, 0x66487937,
        0x16DBED36, 0x92894094, 0x3120B6DE, 0xDF808651,
    ],
}  # fmt: skip
