# SPDX-License-Identifier: BSD-3-Clause
"""The reduction anchor: round trips, foreign and damaged files, bad input, its training."""

from dataclasses import replace

import pytest
import torch
from changed import changed
from interrupted import interrupted
from reduction_checks import (
    makes_a_round_trip,
    refuses_damaged_files,
    refuses_features_that_the_weights_do_not_fit,
    refuses_weights_files_that_are_none,
)
from vfcn_tiny import pyramid

from anchors.msfc import MsfcCodec
from anchors.msfc_networks import Msfc, MsfcConfig, export
from anchors.reduction import relative_step
from vcm_plugin import bitstream
from vcm_plugin.bitstream import MAX_INPUT_PIXELS
from vcm_plugin.ctc.codecs import (
    codec_of,
    codec_rate_points,
    describe_bitstream,
    load_condition,
    make_codec,
)
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training.loop import read_average
from vcm_plugin.training.msfc import loss_terms, train
from vcm_plugin.training.schedules import MsfcTraining

CONFIG = MsfcConfig(
    channels=8, fused_width=16, reduced=10, squeezed=4, width4=8, width3=8, width2=8
)
SCHEDULE = MsfcTraining(iterations=4, batch_size=2, warmup=2, checkpoint_every=2, task_weight=0.5)


def tiny_weights(path, seed=0, detector="0" * 64):
    torch.manual_seed(seed)
    model = Msfc(CONFIG)
    model.mean.copy_(torch.randn(4, 8))
    model.std.copy_(torch.rand(4, 8) + 0.5)
    return export(model, detector, {}, path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("msfc") / "tiny.safetensors")


@pytest.fixture(scope="module")
def codec(weights):
    return MsfcCodec(weights)


@pytest.fixture(scope="module")
def data(codec):
    return codec.encode(pyramid(), "32")


def odd_grids() -> FeaturePyramid:
    shapes = {"p2": (25, 19), "p3": (13, 10), "p4": (7, 5), "p5": (4, 3)}
    layers = {name: torch.randn(8, *grid) for name, grid in shapes.items()}
    return FeaturePyramid(layers, (122, 180), (97, 75))


# --- the codec ------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [pyramid((1, 1)), pyramid((61, 90)), odd_grids()])
def test_round_trip(codec, features):
    makes_a_round_trip(codec, features)


def test_at_a_low_qp_the_decoder_sees_what_the_reduction_made(codec):
    features = pyramid((200, 300))
    layers = {name: x[None] for name, x in features.layers.items()}
    with torch.no_grad():
        b = codec.model.reduction(layers)
        exact = codec.model.restoration(b, {n: x.shape[1:] for n, x in features.layers.items()})
    errors = []
    for qp in ("0", "27", "47"):
        decoded = codec.decode(codec.encode(features, qp)).layers
        errors.append(max((decoded[n] - exact[n][0]).abs().max().item() for n in decoded))
    assert errors == sorted(errors) and errors[0] < 0.1 * errors[-1]


def test_bits_fall_as_the_qp_rises(codec):
    sizes = [len(codec.encode(pyramid((200, 300)), qp)) for qp in ("12", "27", "42")]
    assert sizes == sorted(sizes, reverse=True)


def test_the_file_explains_itself_and_costs_little_beside_vvc(codec, data):
    text = "\n".join(describe_bitstream(data))
    assert codec_of(data) == "msfc"
    assert f"weights id {codec.weights_id:08x}" in text
    assert "layer p5: channels of the weights x 2 x 3" in text
    assert "samples 0 .. 1023 stand for" in text
    assert len(data) - len(bitstream.read(data).units[0].payload) <= 36


def test_settings(codec, weights):
    identity = codec.identity()
    assert identity == MsfcCodec(weights, threads=2).identity()
    assert identity["inner"] != MsfcCodec(weights, preset="fast").identity()["inner"]
    with pytest.raises(InputError, match="expected a preset"):
        MsfcCodec(weights, preset="placebo")
    with pytest.raises(InputError, match="QP from 0 to 63"):
        codec.encode(pyramid(), "0.5")


# --- foreign and damaged files --------------------------------------------------------------


def test_weights_that_did_not_make_the_file(codec, data, tmp_path):
    other = MsfcCodec(tiny_weights(tmp_path / "other.safetensors", seed=9))
    with pytest.raises(BitstreamError, match=f"made with the weights {codec.weights_id:08x}"):
        other.decode(data)


def test_damaged_files(codec, data):
    refuses_damaged_files(codec, data)


def test_files_that_fit_other_codecs_or_pictures(codec, data):
    stream = bitstream.read(data)
    for change, message in (
        ({"profile": "vvc_feature", "channels": (8,)}, "expected a file of profile msfc"),
        ({"channels": (8,)}, "to follow from the weights id"),
        ({"input_size": (4096, 4096)}, f"at most {MAX_INPUT_PIXELS} pixels"),
        ({"input_size": (200, 300)}, "expected a VVC picture of"),
    ):
        changed = bitstream.write(replace(stream.header, **change), stream.units)
        with pytest.raises(BitstreamError, match=message):
            codec.decode(changed)


# --- bad input ------------------------------------------------------------------------------


def test_features_that_the_weights_do_not_fit(codec):
    refuses_features_that_the_weights_do_not_fit(codec)


def test_weights_files_that_are_none(tmp_path, weights):
    refuses_weights_files_that_are_none(MsfcCodec, "MSFC", weights, tmp_path)


def test_weights_of_other_networks(tmp_path):
    model = Msfc(CONFIG)
    model.config = replace(CONFIG, reduced=12)
    with pytest.raises(InputError, match="the weights file is damaged") as caught:
        MsfcCodec(export(model, "0" * 64, {}, tmp_path / "odd.safetensors"))
    assert "\n" not in str(caught.value)


def test_a_condition_names_the_weights(tiny_condition, weights):
    condition = load_condition(tiny_condition)
    with pytest.raises(InputError, match="name them in the key msfc_weights"):
        make_codec("msfc", condition)
    named = changed(condition, msfc_weights=str(weights), msfc_qps=(22, 37), msfc_preset="fast")
    with pytest.raises(InputError, match="trained for a detector with the SHA-256 000000000000"):
        make_codec("msfc", named)
    assert make_codec("msfc", changed(named, weights=None)).inner.preset == "fast"
    assert codec_rate_points("msfc", named) == ["22", "37"]


# --- training -------------------------------------------------------------------------------


def test_steps_are_those_of_vvc():
    steps = relative_step(torch.tensor([4.0, 22.0, 34.0])) * 1023
    torch.testing.assert_close(steps, torch.tensor([4.0, 32.0, 128.0]))


def test_resumed_training_equals_an_undisturbed_one(store, tmp_path):
    whole = train(CONFIG, store, SCHEDULE, tmp_path / "whole")
    with interrupted(store, "features", 35):  # after the statistics, 32 batches, and two iterations
        train(CONFIG, store, SCHEDULE, tmp_path / "killed")
    resumed = train(CONFIG, store, SCHEDULE, tmp_path / "killed")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_loss_falls_and_every_weight_has_a_part_in_it(store, tmp_path):
    schedule = replace(SCHEDULE, iterations=40, warmup=5, ema_decay=0.5, task_weight=0.0)
    trained = train(CONFIG, store, schedule, tmp_path)
    fresh = Msfc(CONFIG)
    fresh.mean.copy_(trained.mean)
    fresh.std.copy_(trained.std)
    before, after = (
        sum(sum(loss_terms(m, store, schedule, 1000 + i, False).values()) for i in range(4))
        for m in (fresh, trained)
    )
    assert after < 0.9 * before
    after.backward()
    for name, parameter in trained.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_the_export_codes_features(store, tmp_path):
    train(CONFIG, store, SCHEDULE, tmp_path)
    sizes, state = read_average(tmp_path / "msfc_state.pth")
    model = Msfc(MsfcConfig(**sizes))
    model.load_state_dict(state)
    codec = MsfcCodec(export(model, "0" * 64, {}, tmp_path / "w.safetensors"))
    features = store.detector.nn_part1(read_picture(store.dataset.pictures[0].path))
    assert store.detector.nn_part2(codec.decode(codec.encode(features, "32"))) is not None
