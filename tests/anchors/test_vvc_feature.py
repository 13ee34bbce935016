# SPDX-License-Identifier: BSD-3-Clause
"""Does the feature anchor carry features of every split point in a file that explains itself?"""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anchors import packing
from anchors.vvc_feature import VvcFeatureCodec, picture_range
from vcm_plugin import bitstream
from vcm_plugin.bitstream import Unit
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.process import ProcessError
from vcm_plugin.split_points import SPLIT_POINTS


def smooth_features(split_point="fpn", channels=(8, 8, 8, 8), grid=(16, 24), input_size=None):
    """Random layers, smooth like those of a network."""
    strides = SPLIT_POINTS[split_point]
    first = next(iter(strides.values()))
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for count, (name, stride) in zip(channels, strides.items(), strict=False):
        h, w = (-(-n * first // stride) for n in grid)
        noise = torch.randn(count, h + 4, w + 4, generator=generator)
        layers[name] = 5 * F.avg_pool2d(noise, 5, 1)
    size = tuple(n * first for n in grid)
    return FeaturePyramid(layers, source_size=(40, 60), input_size=input_size or size)


def worst_error(a, b):
    return max((a.layers[name] - b.layers[name]).abs().max().item() for name in a.layers)


@pytest.mark.parametrize(
    "features",
    [
        smooth_features(),
        smooth_features(channels=(7, 7, 7, 7), grid=(17, 11)),
        smooth_features("c2", channels=(4, 8, 16, 32), grid=(16, 8)),
        smooth_features("r2", channels=(12,), grid=(9, 13)),
        smooth_features(grid=(16, 24), input_size=(50, 90)),
    ],
)
def test_names_shapes_and_sizes_come_back(features):
    codec = VvcFeatureCodec()
    decoded = codec.decode(codec.encode(features, "12"))
    assert list(decoded.layers) == list(features.layers)
    for name, layer in features.layers.items():
        assert decoded.layers[name].shape == layer.shape
        assert decoded.layers[name].dtype == torch.float32
    assert decoded.source_size == features.source_size
    assert decoded.input_size == features.input_size
    assert worst_error(features, decoded) < 0.25


@pytest.mark.parametrize("preset", ["faster", "fast", "medium", "slow", "slower"])
def test_every_preset(preset):
    features, codec = smooth_features(), VvcFeatureCodec(preset)
    assert worst_error(features, codec.decode(codec.encode(features, "12"))) < 0.25


def test_rate_falls_and_error_rises_with_qp():
    features, codec = smooth_features(grid=(32, 40)), VvcFeatureCodec()
    files = [codec.encode(features, qp) for qp in ("12", "27", "42")]
    errors = [worst_error(features, codec.decode(data)) for data in files]
    assert sorted(map(len, files), reverse=True) == list(map(len, files))
    assert sorted(errors) == errors


def test_the_file_explains_itself_and_costs_little_beside_vvc():
    features = smooth_features()
    data = VvcFeatureCodec().encode(features, "32")
    stream = bitstream.read(data)
    assert stream.header.shapes() == {n: tuple(x.shape) for n, x in features.layers.items()}
    assert len(data) - len(stream.units[0].payload) <= 32
    assert "profile vvc_feature" in "\n".join(bitstream.describe(data))


def test_the_range_of_each_picture_clips_nothing():
    layers = {"p2": np.float32([[-3.14159, 2.71828]])}
    low, high = picture_range(layers)
    assert -3.145 < low <= -3.14159 and 2.71828 <= high < 2.721
    for value in (0.0, 1.0, -12.3, 1e-8):
        low, high = picture_range({"p2": np.float32([[value]])})
        assert low <= np.float32(value) and low < high


def test_a_range_of_the_data_set_is_that_of_the_test_conditions_to_the_bit():
    """Sample for sample what the harness packs; the encoder in between is left out here."""
    features = smooth_features()
    codec = VvcFeatureCodec(value_range=(-23.0919, 20.2466))
    header = bitstream.read(codec.encode(features, "32")).header
    assert header.value_range == (np.float32(-23.0919), np.float32(20.2466))
    samples = packing.quantise(features.layers["p2"].numpy(), header.value_range)
    assert np.array_equal(
        samples, packing.quantise(features.layers["p2"].numpy(), (-23.0919, 20.2466))
    )


def test_features_without_variation_or_out_of_range():
    flat = smooth_features()
    zeros = {name: torch.zeros_like(layer) for name, layer in flat.layers.items()}
    codec = VvcFeatureCodec()
    pyramid = FeaturePyramid(zeros, (40, 60), (64, 96))
    assert worst_error(pyramid, codec.decode(codec.encode(pyramid, "32"))) < 1e-3
    bad = {name: layer * float("nan") for name, layer in flat.layers.items()}
    with pytest.raises(InputError, match="NaN"):
        codec.encode(FeaturePyramid(bad, (40, 60), (64, 96)), "32")
    large = {name: layer * 1e6 for name, layer in flat.layers.items()}
    with pytest.raises(InputError, match="does not fit a 16-bit float"):
        codec.encode(FeaturePyramid(large, (40, 60), (64, 96)), "32")


def test_files_that_are_no_feature_anchor():
    codec = VvcFeatureCodec()
    data = codec.encode(smooth_features(), "32")
    for size in (0, 3, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(BitstreamError):
            codec.decode(data[:size])
    other = bitstream.Header("diff_fchm", "r2", (8, 8), (8, 8), weights_id=1)
    with pytest.raises(BitstreamError, match="profile diff_fchm: decode it with the codec"):
        codec.decode(bitstream.write(other, [Unit("machine", 0, b"")]))
    stream = bitstream.read(data)
    for payload, message in (
        (b"no VVC", "not a VVC byte stream"),
        (stream.units[0].payload[:-30], "truncated or corrupt"),
    ):
        with pytest.raises(BitstreamError, match=message):
            codec.decode(bitstream.write(stream.header, [Unit("private", 0, payload)]))


def test_a_picture_that_does_not_fit_the_header_is_refused_before_it_is_decoded():
    codec = VvcFeatureCodec()
    small = bitstream.read(codec.encode(smooth_features(), "32"))
    large = bitstream.read(codec.encode(smooth_features(grid=(32, 32)), "32"))
    with pytest.raises(BitstreamError, match="expected a VVC picture of .* for the layers"):
        codec.decode(bitstream.write(small.header, large.units))


def test_settings():
    assert (VvcFeatureCodec().name, VvcFeatureCodec().kind) == ("vvc_feature", "feature")
    assert VvcFeatureCodec(backend="vtm").name == "vtm_feature"
    identity = VvcFeatureCodec("fast", value_range=(-1, 2), threads=2).identity()
    assert identity == json.loads(json.dumps(identity))
    assert identity == VvcFeatureCodec("fast", value_range=(-1, 2), threads=1).identity()
    assert identity["value_range"] == [-1.0, 2.0]
    assert identity != VvcFeatureCodec("fast").identity()
    with pytest.raises(InputError, match="backend vvenc or vtm"):
        VvcFeatureCodec(backend="x266")
    with pytest.raises(InputError, match="expected a preset"):
        VvcFeatureCodec("placebo")
    with pytest.raises(InputError, match="low < high"):
        VvcFeatureCodec(value_range=(2, 1))
    with pytest.raises(InputError, match="QP from 0 to 63"):
        VvcFeatureCodec().encode(smooth_features(), "0.5")


def test_vtm_without_its_paths(monkeypatch):
    monkeypatch.delenv("VCM_VTM_ENCODER", raising=False)
    with pytest.raises(ProcessError, match="set VCM_VTM_ENCODER"):
        VvcFeatureCodec(backend="vtm").encode(smooth_features(), "32")
