# SPDX-License-Identifier: BSD-3-Clause
"""What must a codec do that reduces p2..p5, with weights for 8 channels? (msfc, fctm_like)"""

import math

import pytest
from vfcn_tiny import pyramid

from vcm_plugin import bitstream
from vcm_plugin.bitstream import Unit
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.features import FeaturePyramid


def makes_a_round_trip(codec, features):
    coded = codec.encode(features, "22")
    decoded = codec.decode(coded)
    assert decoded.source_size == features.source_size
    assert decoded.input_size == features.input_size
    assert {k: v.shape for k, v in decoded.layers.items()} == {
        k: v.shape for k, v in features.layers.items()
    }
    decoded.require_finite()
    assert codec.encode(features, "22") == coded


def refuses_damaged_files(codec, data):
    for size in (0, 3, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(BitstreamError):
            codec.decode(data[:size])
    stream = bitstream.read(data)
    for payload in (b"", b"no VVC", stream.units[0].payload[:-20]):
        with pytest.raises(BitstreamError):
            codec.decode(bitstream.write(stream.header, [Unit("private", 0, payload)]))


def refuses_features_that_the_weights_do_not_fit(codec):
    with pytest.raises(InputError, match="for 8 channels, found 4"):
        codec.encode(pyramid(channels=4), "32")
    layer = pyramid().layers["p2"]
    with pytest.raises(InputError, match="split point fpn, found r2"):
        codec.encode(FeaturePyramid({"r2": layer}, (122, 180), (61, 90)), "32")
    features = pyramid()
    features.layers["p4"][0, 0, 0] = math.nan
    with pytest.raises(InputError, match="p4: expected finite features, found NaN"):
        codec.encode(features, "32")


def refuses_weights_files_that_are_none(codec_class, kind, weights, folder):
    with pytest.raises(InputError, match=f"cannot read the {kind} weights"):
        codec_class(folder / "missing.safetensors")
    for number, content in enumerate((b"", b"FCM", weights.read_bytes()[:-9])):
        path = folder / f"{number}.safetensors"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"expected {kind} weights") as caught:
            codec_class(path)
        assert "\n" not in str(caught.value)
