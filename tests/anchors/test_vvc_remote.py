# SPDX-License-Identifier: BSD-3-Clause
"""Does the remote-inference anchor send pictures of any size, at the sizes that VCM asks for?"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchors.vvc_remote import VvcRemoteCodec, coded_size, source_size_nal
from vcm_plugin import vvc
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.rate_points import parse_sized_qp
from vcm_plugin.vvc import stream as vvc_stream
from vcm_plugin.vvc.planes import to_picture, to_planes


def natural_like(height, width):
    """Smooth colour with texture and edges: what a photograph gives a codec to do."""
    draw = np.random.default_rng(0)
    picture = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((4, 90), (16, 30), (64, 8)):
        noise = draw.normal(0, weight, (cells, cells, 3)).astype(np.float32)
        for c in range(3):
            image = Image.fromarray(noise[..., c])
            picture[..., c] += np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    rows, columns = np.mgrid[:height, :width]
    picture[(rows - height / 3) ** 2 + (columns - width / 2) ** 2 < (height / 5) ** 2] += 40
    return np.clip(picture + 120, 0, 255).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


PICTURE = natural_like(128, 160)


def test_fine_quantisation_leaves_a_small_loss():
    codec = VvcRemoteCodec()
    decoded = codec.decode(codec.encode(PICTURE, "10"))
    assert decoded.shape == PICTURE.shape and decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous and psnr(decoded, PICTURE) > 38


def test_colour_conversion_alone():
    planes = to_planes(PICTURE, (128, 160), resized=False)
    assert psnr(to_picture(planes, (128, 160), resized=False), PICTURE) > 42
    grey = np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(32, 32)
    grey = np.stack([grey] * 3, axis=-1)
    planes = to_planes(grey, (32, 32), resized=False)
    assert np.array_equal(to_picture(planes, (32, 32), resized=False), grey)


@pytest.mark.parametrize(
    "rgb, expected",
    [
        ((255, 255, 255), (940, 512, 512)),
        ((0, 0, 0), (64, 512, 512)),
        ((255, 0, 0), (250, 409, 960)),
        ((0, 255, 0), (691, 167, 105)),
        ((0, 0, 255), (127, 960, 471)),
    ],
)
def test_levels_of_bt709(rgb, expected):
    """10-bit limited-range levels of Rec. ITU-R BT.709."""
    planes = to_planes(np.full((32, 32, 3), rgb, np.uint8), (32, 32), resized=False)
    assert tuple(int(plane[5, 5]) for plane in planes) == expected


@pytest.mark.parametrize("percent", [100, 75, 50, 25])
@pytest.mark.parametrize("size", [(128, 160), (97, 131), (61, 40), (5, 3)])
def test_the_source_size_comes_back(size, percent):
    picture = natural_like(*size)
    codec = VvcRemoteCodec()
    data = codec.encode(picture, f"22@{percent}")
    assert codec.decode(data).shape == picture.shape
    found = vvc_stream.read_format(data)
    assert (found.height, found.width, found.planes) == (*coded_size(size, percent), 3)


def test_rate_falls_with_size_and_quality_with_it():
    codec = VvcRemoteCodec()
    files = [codec.encode(PICTURE, f"27@{percent}") for percent in (100, 75, 50, 25)]
    quality = [psnr(codec.decode(data), PICTURE) for data in files]
    assert sorted(map(len, files), reverse=True) == list(map(len, files))
    assert sorted(quality, reverse=True) == quality and quality[-1] > 18


def test_the_source_size_costs_nothing_where_it_is_the_coded_size():
    codec = VvcRemoteCodec()
    kinds = [kind for kind, _ in vvc_stream.nal_units(codec.encode(PICTURE, "32"))]
    assert vvc_stream.UNSPECIFIED_NAL not in kinds
    odd = codec.encode(PICTURE[:-1], "32")
    assert vvc_stream.nal_units(odd)[0][0] == vvc_stream.UNSPECIFIED_NAL
    assert len(source_size_nal((127, 160), resized=False)) == 9


def test_a_decoder_that_does_not_know_the_size_unit_plays_the_stream():
    data = VvcRemoteCodec().encode(PICTURE, "32@50")
    assert vvc.VVenC().decode(data)[0].shape == (64, 80)


def test_no_byte_of_the_size_unit_needs_an_escape():
    for height in (1, 63, 64, 127, 128, 8191, 8192, 16384, 65535):
        for resized in (False, True):
            unit = source_size_nal((height, height), resized)
            assert 0 not in unit[5:]


def test_truncated_foreign_and_inconsistent_streams():
    codec = VvcRemoteCodec()
    for rate_point in ("22", "22@50"):
        data = codec.encode(PICTURE, rate_point)
        for size in (0, 3, 6, 20, 50, len(data) // 2, len(data) - 20):
            with pytest.raises(BitstreamError):
                codec.decode(data[:size])
    data = codec.encode(PICTURE, "22")
    with pytest.raises(BitstreamError, match="not a VVC byte stream"):
        codec.decode(b"RIFF....WEBP")
    with pytest.raises(BitstreamError, match="cannot be cropped"):
        codec.decode(source_size_nal((300, 300), resized=False) + data)
    for payload in (b"\x81", b"\x01", b"\x80\x80\x80\x80\x80\x7f\x01", b"\x04\x04\x04"):
        with pytest.raises(BitstreamError, match="size of the source picture is corrupt"):
            codec.decode(vvc_stream.nal_unit(vvc_stream.UNSPECIFIED_NAL, payload) + data)
    luma = vvc.VVenC().encode((np.full((32, 32), 512, np.uint16),), 32)
    with pytest.raises(BitstreamError, match="4:2:0, found luma only"):
        codec.decode(luma)


@pytest.mark.parametrize("text", ["", "64", "32@", "32@60", "32@100@50", "a@50", "0.5"])
def test_rate_points_that_are_none(text):
    with pytest.raises(InputError, match="expected a (QP|rate point)"):
        parse_sized_qp(text)


def test_pictures_that_are_none():
    for bad in (PICTURE[..., 0], PICTURE.astype(np.float32), PICTURE[..., :2]):
        with pytest.raises(InputError, match="expected a uint8 picture"):
            VvcRemoteCodec().encode(bad, "32")


def test_settings():
    assert (VvcRemoteCodec().name, VvcRemoteCodec().kind) == ("vvc_remote", "picture")
    assert VvcRemoteCodec(backend="vtm").name == "vtm_remote"
    identity = VvcRemoteCodec("fast", threads=2).identity()
    assert identity == VvcRemoteCodec("fast").identity() == json.loads(json.dumps(identity))
    with pytest.raises(InputError, match="backend vvenc or vtm"):
        VvcRemoteCodec(backend="x266")
    with pytest.raises(InputError, match="expected a preset"):
        VvcRemoteCodec("placebo")


@pytest.mark.skipif("VCM_DATA" not in os.environ, reason="VCM_DATA names no real pictures")
def test_a_real_picture():
    path = Path(os.environ["VCM_DATA"], "kodak/kodim05.png")
    picture = np.asarray(Image.open(path).convert("RGB"))[100:356, 200:520]
    codec = VvcRemoteCodec("fast")
    assert psnr(codec.decode(codec.encode(picture, "10")), picture) > 38
