# SPDX-License-Identifier: BSD-3-Clause
"""Do pictures that share a process have the bytes, and the samples, that each has alone?"""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.process import ProcessError
from vcm_plugin.vvc import VVenC, coded_size
from vcm_plugin.vvc import vvenc as vvenc_module
from vcm_plugin.vvc.planes import to_planes
from vcm_plugin.vvc.vvenc import PRESETS, TOGETHER

SIZES = [(64, 96), (62, 90), (128, 160)]  # the second one is no multiple of the smallest block


def pictures(size, count=TOGETHER + 2):
    """Planes of parts of photographs, as vvc_remote codes them."""
    folder = os.environ.get("VCM_DATA")
    if not folder:
        pytest.skip("set VCM_DATA to a folder with kodak/kodim01.png")
    photograph = np.array(Image.open(Path(folder, "kodak", "kodim01.png")).convert("RGB"))
    height, width = size
    parts = [photograph[40 * n :, 70 * n :][:height, :width] for n in range(count)]
    return [to_planes(part, coded_size(*size), resized=False) for part in parts]


def same(batch, alone):
    return all(
        np.array_equal(x, y)
        for a, b in zip(batch, alone, strict=True)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("qp", [22, 37])
def test_the_bytes_and_samples_of_a_batch_are_those_of_each_picture_alone(size, qp):
    encoder, planes = VVenC(), pictures(size)
    alone = [encoder.encode(one, qp) for one in planes]
    assert len(set(alone)) == len(planes)
    assert encoder.encode_batch(planes, qp) == alone
    assert same(encoder.decode_batch(alone), map(encoder.decode, alone))


@pytest.mark.parametrize("preset", PRESETS)
def test_at_every_preset_in_colour_and_in_luma(preset):
    encoder = VVenC(preset, parameters=(("LoopFilterDisable", 1), ("EncDbOpt", 0)))
    for planes in (pictures((64, 96), 3), [one[:1] for one in pictures((64, 96), 3)]):
        alone = [encoder.encode(one, 32) for one in planes]
        assert encoder.encode_batch(planes, 32) == alone
        assert same(encoder.decode_batch(alone), map(encoder.decode, alone))


@pytest.mark.parametrize("count", range(1, TOGETHER + 1))
def test_any_number_with_any_number_of_threads(count):
    planes = pictures((64, 96), count)
    coded = {threads: VVenC(threads=threads).encode_batch(planes, 37) for threads in (1, 2, 4)}
    assert coded[1] == coded[2] == coded[4] and len(coded[1]) == count
    assert same(VVenC(threads=4).decode_batch(coded[1]), VVenC().decode_batch(coded[1]))


def test_a_perceptual_encoder_adapts_to_each_picture_alone():
    encoder, planes = VVenC(perceptual=True), pictures((128, 160), 3)
    assert encoder.encode_batch(planes, 32) == [encoder.encode(one, 32) for one in planes]


def test_large_pictures_are_coded_alone(monkeypatch):
    monkeypatch.setattr(vvenc_module, "TOGETHER_SAMPLES", 2 * 64 * 96)
    encoder, planes = VVenC(), pictures((64, 96), 5)
    assert encoder.encode_batch(planes, 37) == [encoder.encode(one, 37) for one in planes]


def test_a_batch_of_two_sizes_or_with_a_damaged_stream_is_refused():
    encoder, planes = VVenC(), pictures((64, 96), 2)
    with pytest.raises(InputError, match="frames of one size"):
        encoder.encode_batch([planes[0], *pictures((128, 160), 1)], 37)
    first, second = encoder.encode_batch(planes, 37)
    other = encoder.encode(pictures((128, 160), 1)[0], 37)
    for streams in ([first + second, second], [first, other], [first, second[:60]]):
        with pytest.raises(BitstreamError):
            encoder.decode_batch(streams)


def test_an_encoder_that_leaves_pictures_out_is_found(monkeypatch):
    monkeypatch.setattr(vvenc_module, "TOGETHER", 8)  # what FFmpeg's wrapper writes nothing for
    with pytest.raises(ProcessError):
        VVenC().encode_batch(pictures((64, 96), 8), 37)
