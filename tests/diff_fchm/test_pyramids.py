# SPDX-License-Identifier: BSD-3-Clause
"""Do the codecs carry any pyramid of the table of split points, and refuse those of others?"""

import numpy as np
import pytest
import torch
from pyramids import CHANNELS, config, pyramid
from vfcn_tiny import tiny_model, tiny_weights

from anchors.packing import dequantise, layout, pack, quantise, unpack
from anchors.vvc_feature import picture_range
from vcm_plugin import bitstream
from vcm_plugin.bitstream.syntax import SPLIT_CODES
from vcm_plugin.diff_fchm.machine import ivn
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.diff_fchm.machine.config import VfcnConfig
from vcm_plugin.diff_fchm.machine.folded import FoldedVfcn
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.split_points import SPLIT_POINTS, split_point_of


def test_the_table_has_its_places_for_ever():
    """A file names a split point by its place."""
    assert list(SPLIT_POINTS)[:8] == list(CHANNELS)
    assert SPLIT_CODES[4] == "jde_tvd"
    assert split_point_of([str(n) for n in (105, 90, 75)]) == "jde_hieve"


@pytest.mark.parametrize("split_point", SPLIT_POINTS)
def test_vfcn_codes_a_pyramid(split_point, tmp_path):
    features = pyramid(split_point)
    assert features.split_point == split_point
    codec = MachineCodec(tiny_weights(tmp_path, config(split_point)))
    data = codec.encode(features, "1")
    decoded = codec.decode(data)
    assert list(decoded.layers) == list(features.layers)
    assert [x.shape for x in decoded.layers.values()] == [x.shape for x in features.layers.values()]
    assert decoded.source_size == features.source_size
    header = bitstream.read(data).header
    assert header.split_point == split_point and header.channels == ()
    assert codec.encode(features, "0.5") != data


@pytest.mark.parametrize("split_point", ["jde_tvd", "r2"])
def test_the_codec_computes_what_the_training_does(split_point):
    """FoldedVfcn against Vfcn: another order of the same arithmetic."""
    model = tiny_model(config(split_point)).eval()
    features = pyramid(split_point)
    levels = {level: features.layers[name] for level, name in model.config.levels.items()}
    low, high = ivn.feature_range(features.layers, features.input_size)
    ranges = torch.tensor([[low, high]])
    with torch.no_grad():
        normal = {level: (x[None] - low) / (high - low) for level, x in levels.items()}
        y = model.analysis(normal, ranges)
        folded = FoldedVfcn(model)
        assert torch.allclose(folded.analysis(levels) * model.done(ranges), y, atol=1e-4)
        restored = model.synthesis(y, ranges)
        found = folded.synthesis(y * model.undone(ranges))
    assert list(found) == list(levels)
    for level, x in found.items():
        wanted = restored[level][0] * (high - low) + low
        assert torch.allclose(x, wanted, atol=1e-3), level


@pytest.mark.parametrize("split_point", SPLIT_POINTS)
def test_packing_carries_a_pyramid(split_point):
    layers = {name: x.numpy() for name, x in pyramid(split_point).layers.items()}
    value_range = picture_range(layers)
    shapes = {name: x.shape for name, x in layers.items()}
    found = unpack(pack(layers, value_range), shapes, value_range)
    assert list(found) == list(layers)
    for name, layer in layers.items():
        wanted = dequantise(quantise(layer, value_range), value_range)
        assert np.array_equal(found[name], wanted)


def test_jde_is_packed_as_the_harness_packs_it():
    """Sizes of the packed pictures as CompressAI-Vision makes them of these layers."""
    tvd = {"36": (256, 76, 136), "61": (512, 38, 68), "74": (1024, 19, 34)}
    hieve = {"105": (128, 76, 136), "90": (256, 38, 68), "75": (512, 19, 34)}
    assert (layout(tvd).width, layout(tvd).height) == (2176, 2128)
    assert (layout(hieve).width, layout(hieve).height) == (1088, 2128)


def test_weights_of_other_layers_are_refused_by_name(tmp_path):
    codec = MachineCodec(tiny_weights(tmp_path, config("jde_tvd")))
    with pytest.raises(InputError, match="code the layers 36, 61, 74 .*found 105, 90, 75; set spl"):
        codec.encode(pyramid("jde_hieve"), "1")
    with pytest.raises(InputError, match="found p2, p3, p4, p5"):
        codec.require_layers(["p2", "p3", "p4", "p5"])
    other = MachineCodec(tiny_weights(tmp_path, config("fpn")))
    with pytest.raises(BitstreamError, match="split point jde_tvd; found .* split point fpn"):
        codec.decode(other.encode(pyramid("fpn"), "1"))


def test_layers_of_no_split_point_are_refused_by_name():
    with pytest.raises(InputError, match=r"36, 61, 74 \(jde_tvd\).*found fpn0, fpn1, fpn_pool"):
        split_point_of(["fpn0", "fpn1", "fpn_pool"])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"split_point": "p7"}, "split_point: expected one of up to 4 layers.*found 'p7'"),
        ({"layer_channels": (3, 4)}, "expected 4 counts, one a layer of fpn.*found .3, 4."),
    ],
)
def test_sizes_that_cannot_be(changes, line):
    with pytest.raises(ValueError, match=line):
        VfcnConfig(**changes)
