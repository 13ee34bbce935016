# SPDX-License-Identifier: BSD-3-Clause
"""Do the VVC encoders code pictures, deterministically, and refuse what they cannot code?"""

import json
import os

import numpy as np
import pytest

from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.process import ProcessError, run
from vcm_plugin.rate_points import parse_qp
from vcm_plugin.vvc import VVenC, coded_size
from vcm_plugin.vvc.stream import PictureFormat, nal_unit, nal_units, read_format


def smooth(height, width, seed=0):
    """A smooth random picture of 10 bits."""
    coarse = np.random.default_rng(seed).normal(0, 180, (height // 4 + 2, width // 4 + 2))
    rows, columns = np.arange(height) / 4, np.arange(width) / 4
    plane = np.stack([np.interp(columns, np.arange(len(row)), row) for row in coarse])
    plane = np.stack([np.interp(rows, np.arange(len(c)), c) for c in plane.T]).T
    return np.clip(plane + 512, 0, 1023).astype(np.uint16)


def psnr(a, b):
    return 10 * np.log10(1023**2 / np.mean((a.astype(float) - b) ** 2))


LUMA = (smooth(48, 80),)
COLOUR = (smooth(48, 80), smooth(24, 40, 1), smooth(24, 40, 2))


@pytest.mark.parametrize("planes", [LUMA, COLOUR])
@pytest.mark.parametrize("preset", ["faster", "fast", "medium", "slower"])
def test_round_trip_within_the_loss_of_the_qp(planes, preset):
    codec = VVenC(preset)
    data = codec.encode(planes, 12)
    decoded = codec.decode(data)
    assert read_format(data) == PictureFormat(48, 80, len(planes))
    assert [plane.shape for plane in decoded] == [plane.shape for plane in planes]
    assert all(psnr(a, b) > 40 for a, b in zip(planes, decoded, strict=True))


def test_rate_and_quality_fall_as_qp_rises():
    codec = VVenC()
    streams = [codec.encode(LUMA, qp) for qp in (22, 32, 42)]
    quality = [psnr(codec.decode(data)[0], LUMA[0]) for data in streams]
    assert sorted(map(len, streams), reverse=True) == list(map(len, streams))
    assert sorted(quality, reverse=True) == quality


@pytest.mark.parametrize("size", [(32, 32), (34, 38), (32, 200), (46, 66)])
def test_small_and_unaligned_sizes(size):
    planes = (smooth(*size), *[smooth(size[0] // 2, size[1] // 2)] * 2)
    codec = VVenC()
    for given in (planes, planes[:1]):
        assert codec.decode(codec.encode(given, 30))[0].shape == size


def test_the_stream_does_not_depend_on_threads_and_repeats():
    picture = (smooth(256, 320),)
    streams = {VVenC("fast", threads).encode(picture, 32) for threads in (1, 2, 2, 4)}
    assert len(streams) == 1


def test_no_bits_are_spent_beside_the_picture():
    """Parameter sets (SPS 15, PPS 16, APS 17) and one slice: no AUD, SEI, DPS or HRD."""
    units = nal_units(VVenC("medium").encode(COLOUR, 32))
    assert {kind for kind, _ in units} <= {8, 15, 16, 17}
    assert sum(len(payload) for kind, payload in units if kind in (15, 16)) < 50


@pytest.mark.parametrize("planes", [LUMA, COLOUR])
@pytest.mark.parametrize("preset", ["faster", "fast", "medium", "slow", "slower"])
def test_the_stream_ends_with_the_picture(planes, preset):
    """A message of the encoder on stdout would stand behind the picture, and count as rate."""
    codec = VVenC(preset)
    data = codec.encode(planes, 32)
    complete = codec.decode(data)
    try:
        cut = codec.decode(data[:-8])
    except BitstreamError:
        return
    assert any((a != b).any() for a, b in zip(complete, cut, strict=True))


def test_luma_alone_is_coded_as_400_and_costs_less_than_with_flat_chroma():
    flat = [np.full((24, 40), 512, np.uint16)] * 2
    codec = VVenC()
    assert len(codec.encode(LUMA, 32)) < len(codec.encode((*LUMA, *flat), 32))


def test_a_unit_of_unspecified_type_is_skipped_by_the_decoder():
    data = VVenC().encode(COLOUR, 32)
    marked = nal_unit(28, b"\x85\x03") + data
    assert nal_units(marked)[0] == (28, b"\x85\x03")
    for a, b in zip(VVenC().decode(data), VVenC().decode(marked), strict=True):
        assert np.array_equal(a, b)


def test_truncated_and_foreign_streams():
    codec = VVenC()
    data = codec.encode((smooth(128, 160),), 22)
    for size in (4, 12, 30, 60, len(data) // 4, len(data) // 2, len(data) - 40):
        with pytest.raises(BitstreamError) as caught:
            codec.decode(data[:size])
        assert "\n" not in str(caught.value)
    with pytest.raises(BitstreamError, match="not a VVC byte stream.*found 89 50 4e 47"):
        codec.decode(b"\x89PNG\r\n")
    with pytest.raises(BitstreamError, match="found an empty file"):
        codec.decode(b"")
    with pytest.raises(BitstreamError, match="no sequence parameter set"):
        codec.decode(data[data.index(b"\0\0\1", 8) :])
    with pytest.raises(BitstreamError, match="one decoded picture|corrupt"):
        codec.decode(data + data)


def test_another_bit_depth_is_refused():
    """An 8-bit stream, made by the same encoder."""
    command = VVenC().encode_command(48, 80, 32, luma_only=False)
    place = command.index("-vvenc-params") + 1
    command[place] += ":InternalBitDepth=8"
    from vcm_plugin.process import ffmpeg_program

    raw = b"".join(plane.tobytes() for plane in COLOUR)
    data = run([ffmpeg_program(), *command], stdin=raw).stdout
    with pytest.raises(BitstreamError, match="10-bit picture.*8 bits"):
        VVenC().decode(data)


@pytest.mark.parametrize(
    "planes, qp, message",
    [
        ((smooth(47, 80),), 32, "pad the picture to coded_size"),
        ((smooth(16, 80),), 32, "at least 32"),
        (COLOUR[:2], 32, "two chroma planes"),
        ((LUMA[0].astype(np.int32),), 32, "10-bit samples"),
        ((LUMA[0] * 2,), 32, "10-bit samples"),
        (LUMA, 64, "QP from 0 to 63"),
    ],
)
def test_pictures_that_cannot_be_coded(planes, qp, message):
    with pytest.raises(InputError, match=message):
        VVenC().encode(planes, qp)


def test_an_encoder_that_fails_is_quoted():
    with pytest.raises(ProcessError, match="VVenC could not code.*exit status"):
        VVenC(parameters=(("CTUSize", 17),)).encode(LUMA, 32)
    with pytest.raises(InputError, match="expected a preset of faster, fast"):
        VVenC("placebo")
    with pytest.raises(InputError, match="one encoder thread"):
        VVenC(threads=0)


def test_a_message_of_the_encoder_in_its_stream_is_no_rate():
    with pytest.raises(ProcessError, match="message into its stream: .*ALFSpeed"):
        VVenC(parameters=(("ALFSpeed", 1),)).encode(LUMA, 32)


def test_an_ffmpeg_that_is_missing_names_the_repair(monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "ffmpeg"))
    with pytest.raises(ProcessError, match="was not found; install imageio-ffmpeg"):
        VVenC().encode(LUMA, 32)
    with pytest.raises(ProcessError, match="was not found; install imageio-ffmpeg"):
        VVenC().identity(luma_only=True)


def test_identity_has_versions_and_command_but_no_path_and_no_thread_count():
    identity = VVenC("medium", threads=2).identity(luma_only=True)
    assert identity == VVenC("medium", threads=1).identity(luma_only=True)
    assert identity == json.loads(json.dumps(identity))
    assert identity["chroma_format"] == "4:0:0" and "ChromaFormatIDC=400" in identity["command"]
    assert identity["encoder"].startswith("VVenC 1.")
    assert "-qpa 0" in identity["command"] and "-preset medium" in identity["command"]
    assert os.sep not in json.dumps({k: v for k, v in identity.items() if k != "ffmpeg"})


def test_coded_sizes_are_even_and_not_too_small():
    assert coded_size(4250, 4864) == (4250, 4864)
    assert coded_size(1, 33) == (32, 34)


@pytest.mark.parametrize("text", ["", "-1", "64", "3.5", "22@", "qp22", " 22", "२२"])
def test_rate_points_that_are_no_qp(text):
    with pytest.raises(InputError, match="QP from 0 to 63"):
        parse_qp(text)
