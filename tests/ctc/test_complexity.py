# SPDX-License-Identifier: BSD-3-Clause
"""Does the count of the arithmetic hold against torch's own, and say what it cannot count?"""

import math
import sys

import fctm_like_tiny
import heads_tiny
import numpy as np
import picture_tiny
import pytest
import torch
from hvcn_tiny import picture, tiny_codec
from restorer_tiny import tiny_learned_codec
from torch.utils.flop_counter import FlopCounterMode
from vfcn_tiny import pyramid, tiny_weights

from anchors.fctm_like import FctmLikeCodec, Tools
from anchors.msfc import MsfcCodec
from anchors.msfc_networks import Msfc, MsfcConfig, export
from anchors.vvc_feature import VvcFeatureCodec
from vcm_plugin.ctc import complexity
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.coding import Source
from vcm_plugin.ctc.detector import load_detector
from vcm_plugin.diff_fchm.machine.codec import MachineCodec

PRODUCTS = ("conv", "matmul", "linear", "addmm", "addmm_", "bmm", "mm")


def of_a_vector(matrix, vector, *_, out_shape=None, **__) -> int:
    """Operations of a matrix by a vector, which torch's own table leaves out."""
    return 2 * matrix[0] * matrix[1]


def of_a_sum(total, first, second, *_, out_shape=None, **__) -> int:
    """Operations of a product that is added in place, which torch's own table leaves out, too."""
    return 2 * first[0] * first[1] * second[1]


LEFT_OUT = {torch.ops.aten.mv: of_a_vector, torch.ops.aten.addmm_: of_a_sum}


def machine(folder):
    return MachineCodec(tiny_weights(folder)), (pyramid((61, 90)), "1")


def odd_size(folder):
    return MachineCodec(tiny_weights(folder)), (pyramid((64, 33)), "2")


def human(folder):
    return tiny_codec(folder), (picture(), pyramid(), "1", "1")


def msfc(folder):
    torch.manual_seed(0)
    path = export(Msfc(MsfcConfig(channels=8)), "0" * 64, {}, folder / "tiny.safetensors")
    return MsfcCodec(path), (pyramid(), "37")


def fctm_like(folder):
    path = fctm_like_tiny.tiny_weights(folder / "tiny.safetensors")
    return FctmLikeCodec(path, tools=Tools(zscore=True)), (pyramid(), "22")


def learned_picture(folder):
    return picture_tiny.tiny_codec(folder), (picture_tiny.picture(), "37")


def scalable(folder):
    return heads_tiny.tiny_codecs(folder)["latent_scalable"], (picture_tiny.picture(), "37")


@pytest.mark.parametrize(
    "make", (machine, odd_size, human, msfc, fctm_like, learned_picture, scalable)
)
def test_products_are_those_that_torch_counts_as_they_run(tmp_path, make):
    codec, arguments = make(tmp_path)
    data = codec.encode(*arguments)
    for function, given in ((codec.encode, arguments), (codec.decode, (data,))):
        macs = complexity.count(function, *given)
        with FlopCounterMode(display=False, custom_mapping=LEFT_OUT) as counter:
            function(*given)
        products = sum(macs.by_operation.get(name, 0) for name in PRODUCTS)
        assert products == counter.get_total_flops() / 2 > 0  # torch counts 2 for a multiply-add
        assert not macs.unknown and 0 < macs.total - products < products
    assert codec.encode(*arguments) == data  # counting leaves the codec as it was


def test_matrix_products_count_every_matrix_of_a_batch():
    macs = complexity.count(torch.matmul, torch.ones(5, 7), torch.ones(2, 3, 7, 4))
    assert macs.by_operation == {"matmul": 2 * 3 * 5 * 7 * 4}


def test_what_leaves_torch_is_counted():
    def function(x):
        return int(np.sum((2 * x).numpy()))

    assert complexity.count(function, torch.ones(2, 3)).by_operation == {"mul": 6}


def test_the_restorer_of_a_decoded_picture_is_counted(tmp_path):
    codec = tiny_learned_codec(tmp_path, MachineCodec(tiny_weights(tmp_path)))
    arguments = (picture(), pyramid(), "1", "37")
    data = codec.encode(*arguments)
    macs = complexity.count(codec.encode, *arguments)
    assert not macs.unknown and macs.by_operation["addcmul"] > 0
    assert not complexity.count(codec.decode, data).unknown


def test_an_operation_without_a_count_is_named_and_not_zero(tmp_path):
    class Odd(MachineCodec):
        def decode(self, data):
            return torch.cumsum(torch.ones(2, 3), 1) * 2

    macs = complexity.count(Odd(tiny_weights(tmp_path)).decode, b"")
    assert macs.unknown == {"aten::cumsum": 1} and math.isnan(macs.total)
    assert macs.by_operation["mul"] == 6
    cost = complexity.measure(Odd(tiny_weights(tmp_path)), Source(None, pyramid()), "1", 100)
    assert cost.decode_kmac == "n/a: no count of aten::cumsum"
    assert cost.encode_kmac > 0


def test_without_fvcore_the_cost_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fvcore.nn", None)
    codec, (features, _) = machine(tmp_path)
    cost = complexity.measure(codec, Source(None, features), "1", 100)
    assert cost.encode_kmac == cost.decode_kmac == "n/a: pip install fvcore"
    assert cost.parameters == codec.parameters and cost.peak_memory_bytes > 1 << 20


def test_a_codec_without_networks_has_no_count():
    cost = complexity.measure(VvcFeatureCodec("faster"), Source(None, pyramid()), "37", 100)
    assert cost.encode_kmac is cost.decode_kmac is cost.parameters is None


def test_the_detector_costs_what_its_layers_say():
    """Counted once more, layer by layer, from the shapes that pass through."""
    condition = load_condition("minictc")
    model, macs = load_detector(condition), []

    def note(layer, _, output):
        of_one = layer.weight.numel() / output.shape[1]  # a weight for each input of an output
        if isinstance(layer, torch.nn.ConvTranspose2d):  # each weight meets every input place
            of_one = layer.weight.numel() / output.shape[1] / math.prod(layer.stride)
        macs.append(output.numel() * of_one)

    kinds = torch.nn.Conv2d | torch.nn.Linear | torch.nn.ConvTranspose2d
    layers = [layer for layer in model.model.modules() if isinstance(layer, kinds)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    scene = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    features = model.nn_part1(scene)
    first = sum(macs)
    model.nn_part2(features)
    second = sum(macs) - first
    for hook in hooks:
        hook.remove()
    kmac = complexity.of_detector(model, scene, scene[..., 0].size)
    assert kmac == pytest.approx((first / 1000 / 96 / 128, second / 1000 / 96 / 128), rel=1e-9)
    assert min(kmac) > 1
