# SPDX-License-Identifier: BSD-3-Clause
"""fctm_like: its tools, sequences, foreign and damaged files, bad input, its training."""

import io
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from changed import changed
from fctm_like_tiny import CONFIG, tiny_model, tiny_weights
from reduction_checks import (
    makes_a_round_trip,
    refuses_damaged_files,
    refuses_features_that_the_weights_do_not_fit,
    refuses_weights_files_that_are_none,
)
from vfcn_tiny import pyramid

from anchors.fctm_like import FctmLikeCodec, Tools
from anchors.fctm_networks import (
    CELLS,
    UNIT,
    Fctm,
    export,
    inverse_transform,
    transform,
)
from anchors.fctm_packing import half, layout, pack, unpack
from anchors.reduction import relative_step
from vcm_plugin import bitstream
from vcm_plugin.bitstream import MAX_INPUT_PIXELS, FctmLikePayload, Timing, Unit
from vcm_plugin.ctc.codecs import (
    codec_of,
    codec_rate_points,
    describe_bitstream,
    load_condition,
    make_codec,
)
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.training.fctm_like import _start_linear, importance_order, loss_terms, start, train
from vcm_plugin.training.feature_loss import near_objects
from vcm_plugin.training.schedules import FctmTraining

SCHEDULE = FctmTraining(iterations=4, batch_size=2, warmup=2, checkpoint_every=2, task_weight=0.5)
GOLDEN = Path(__file__).parents[1] / "golden"
EVERY = Tools(zscore=True)
NOTHING = Tools(zscore=False, removal=False, ordering=False, resampling=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("fctm_like") / "tiny.safetensors")


@pytest.fixture(scope="module")
def codec(weights):
    return FctmLikeCodec(weights)


@pytest.fixture(scope="module")
def data(codec):
    return codec.encode(pyramid((200, 300)), "32")


def payload_of(data: bytes) -> FctmLikePayload:
    return FctmLikePayload.from_bytes(bitstream.read(data).units[0].payload)


def odd_grids() -> FeaturePyramid:
    shapes = {"p2": (25, 19), "p3": (13, 10), "p4": (7, 5), "p5": (4, 3)}
    layers = {name: torch.randn(8, *grid) for name, grid in shapes.items()}
    return FeaturePyramid(layers, (122, 180), (97, 75))


# --- packing --------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(1, 1), (8, 11), (3, 2), (10, 8)])
@pytest.mark.parametrize(("count", "whole"), [(1, 0), (1, 1), (7, 7), (13, 5), (12, 0)])
def test_packed_channels_come_back(count, whole, grid):
    torch.manual_seed(count)
    wanted = torch.zeros(count, *grid)
    wanted[:whole] = torch.rand(whole, *grid) - 0.5
    rows, columns = half(grid)
    wanted[whole:, :rows, :columns] = 0.1 * (torch.rand(count - whole, rows, columns) - 0.5)
    b = torch.cat((wanted[:whole], inverse_transform(wanted[whole:])))
    picture = pack(b, whole, (-1.0, 1.0))
    assert picture.shape == layout(count, whole, grid)[0] and picture.dtype == np.uint16
    found = unpack(picture, count, whole, grid, (-1.0, 1.0))
    torch.testing.assert_close(found, b, rtol=0.0, atol=0.004)  # of 10 bits, summed by a transform


def test_half_the_channels_at_half_size_make_a_smaller_picture():
    (height, width), _ = layout(96, 96, (8, 10))
    (lower, narrower), _ = layout(96, 48, (8, 10))
    assert lower * narrower < 0.7 * height * width


# --- the codec ------------------------------------------------------------------------------


@pytest.mark.parametrize("tools", [Tools(), EVERY, NOTHING, Tools(most=3)])
@pytest.mark.parametrize("features", [pyramid((1, 1)), pyramid((61, 90)), odd_grids()])
def test_round_trip(weights, tools, features):
    makes_a_round_trip(FctmLikeCodec(weights, tools=tools), features)


def test_at_a_low_qp_the_decoder_sees_what_the_reduction_made(codec):
    features = pyramid((200, 300))
    layers = {name: x[None] for name, x in features.layers.items()}
    with torch.no_grad():
        b = codec.model.reduce(codec.model.standard(layers)).clamp(*codec.value_range)
        grids = {n: x.shape[1:] for n, x in features.layers.items()}
        exact = codec.model.features(codec.model.restore(b, grids))
    errors = []
    for qp in ("0", "27", "47"):
        decoded = codec.decode(codec.encode(features, qp)).layers
        errors.append(max((decoded[n] - exact[n][0]).abs().max().item() for n in decoded))
    assert errors == sorted(errors) and errors[0] < 0.15 * errors[-1]


def test_bits_and_channels_fall_as_the_qp_rises(codec):
    files = [codec.encode(pyramid((200, 300)), qp) for qp in ("12", "27", "42")]
    sizes = [len(file) for file in files]
    channels = [payload_of(file).channels for file in files]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert channels == sorted(channels, reverse=True) and channels[0] > channels[-1]


def test_each_tool_can_be_switched_off_and_is_told_from_the_file(weights):
    features = pyramid((200, 300))
    plain = payload_of(FctmLikeCodec(weights, tools=NOTHING).encode(features, "32"))
    assert (plain.channels, plain.whole, plain.ordered) == (CONFIG.reduced, CONFIG.reduced, False)
    assert plain.statistics is None
    every = payload_of(FctmLikeCodec(weights, tools=EVERY).encode(features, "32"))
    assert every.channels < CONFIG.reduced and every.ordered and len(every.statistics) == 8
    assert every.whole < every.channels
    fewer = payload_of(FctmLikeCodec(weights, tools=Tools(most=2)).encode(features, "12"))
    assert fewer.channels == 2


def test_one_decoder_reads_the_files_of_every_setting(weights, codec):
    features = pyramid((200, 300))
    for tools in (EVERY, NOTHING, Tools(most=2)):
        other = FctmLikeCodec(weights, tools=tools)
        data = other.encode(features, "27")
        for name, layer in codec.decode(data).layers.items():
            assert torch.equal(layer, other.decode(data).layers[name])


def test_mean_and_spread_of_each_layer_are_restored(weights):
    features = pyramid((200, 300))
    found = {}
    for tools in (Tools(zscore=True), Tools()):
        codec = FctmLikeCodec(weights, tools=tools)
        decoded = codec.decode(codec.encode(features, "47"))
        for kind, pyramid_ in (("in", features), ("out", decoded)):
            layers = {n: x[None] for n, x in pyramid_.layers.items()}
            found[kind] = codec.model.standard(layers)
        close = [
            abs(found["in"][n].std() - found["out"][n].std()) < 0.05 * found["in"][n].std()
            and abs(found["in"][n].mean() - found["out"][n].mean()) < 0.05
            for n in found["in"]
        ]
        assert all(close) == tools.zscore


def test_the_file_explains_itself_and_costs_little_beside_vvc(codec, data):
    text = "\n".join(describe_bitstream(data))
    assert codec_of(data) == "fctm_like"
    assert f"weights id {codec.weights_id:08x}" in text
    assert "channels by importance" in text and "at full size" in text
    assert len(data) - len(payload_of(data).data) <= 40


def test_settings(codec, weights):
    identity = codec.identity()
    assert identity == FctmLikeCodec(weights, threads=2).identity()
    for other in ({"preset": "fast"}, {"tools": EVERY}, {"low_delay": True}):
        assert identity != FctmLikeCodec(weights, **other).identity()
    with pytest.raises(InputError, match="expected a preset"):
        FctmLikeCodec(weights, preset="placebo")
    with pytest.raises(InputError, match="QP from 0 to 63"):
        codec.encode(pyramid(), "0.5")
    with pytest.raises(InputError, match="fctm_like_channels: expected 1 to 12"):
        FctmLikeCodec(weights, tools=Tools(most=13))


# --- sequences ------------------------------------------------------------------------------


def moving(frames: int) -> list[FeaturePyramid]:
    """Features whose content moves by a cell of p5 from frame to frame."""
    whole = pyramid((200, 300 + 32 * frames)).layers
    return [
        FeaturePyramid(
            {n: x[..., k * (32 // s) :][..., : 320 // s].contiguous()
             for (n, x), s in zip(whole.items(), (4, 8, 16, 32))},
            (200, 300), (200, 300),
        )
        for k in range(frames)
    ]  # fmt: skip


@pytest.mark.parametrize("low_delay", [False, True])
def test_sequences(weights, tmp_path, low_delay):
    codec = FctmLikeCodec(weights, tools=EVERY, low_delay=low_delay)
    frames, file = moving(4), io.BytesIO()
    sizes = codec.encode_frames(iter(frames), "22", Timing(4, (25, 1)), file)
    assert sum(sizes) == len(file.getvalue()) and len(sizes) == 4
    path = tmp_path / "sequence.fcm"
    path.write_bytes(file.getvalue())
    decoded = list(codec.decode_frames(path))
    assert len(decoded) == 4
    third = codec.decode_frame(path, 2)
    alone = [codec.decode(codec.encode(frame, "22")) for frame in frames]
    for name, layer in decoded[2].layers.items():
        assert torch.equal(layer, third.layers[name])
        near, far = ((layer - alone[k].layers[name]).square().mean() for k in (2, 0))
        assert near < 0.5 * far
    if not low_delay:
        assert torch.equal(alone[0].layers["p5"], decoded[0].layers["p5"])


def test_frames_of_other_channels_than_the_first(weights, tmp_path):
    codec = FctmLikeCodec(weights)
    file = io.BytesIO()
    codec.encode_frames(iter(moving(2)), "22", Timing(2, (25, 1)), file)
    stream = bitstream.read(file.getvalue())
    second = FctmLikePayload.from_bytes(stream.units[1].payload)
    units = [stream.units[0], replace(stream.units[1], payload=replace(second, whole=0).to_bytes())]
    path = tmp_path / "odd.fcm"
    path.write_bytes(bitstream.write(stream.header, units))
    with pytest.raises(BitstreamError, match="frame 1: expected the channels of frame 0"):
        list(codec.decode_frames(path))


# --- golden files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "places", "checksum"),
    [("qp22", (5, 2, True), 3377339792), ("qp37_zscore", (2, 0, True), 561719261)],
)
def test_golden_files_decode_to_the_same_samples_for_ever(name, places, checksum):
    codec = FctmLikeCodec(GOLDEN / "tiny.fctm_like")
    data = (GOLDEN / f"tiny_fctm_like_{name}.fcm").read_bytes()
    payload = payload_of(data)
    assert payload.packing == places and (payload.statistics is not None) == ("zscore" in name)
    (picture,) = codec.encoder.decode(payload.data)
    assert zlib.crc32(picture.astype("<u2").tobytes()) == checksum
    decoded = codec.decode(data).require_finite()
    assert decoded.layers["p2"].shape == (8, 56, 80)


# --- foreign and damaged files --------------------------------------------------------------


def test_weights_that_did_not_make_the_file(codec, data, tmp_path):
    other = FctmLikeCodec(tiny_weights(tmp_path / "other.safetensors", seed=9))
    with pytest.raises(BitstreamError, match=f"made with the weights {codec.weights_id:08x}"):
        other.decode(data)


def test_damaged_files(codec, data):
    refuses_damaged_files(codec, data)


def test_payloads_that_no_encoder_writes(codec, data):
    stream, payload = bitstream.read(data), payload_of(data)
    for change, message in (
        ({"channels": 13}, "at most 12 channels, which the weights have"),
        ({"channels": 12, "whole": 12}, "expected a VVC picture of"),
        ({"data": b""}, "not a VVC byte stream"),
    ):
        other = Unit("private", 0, replace(payload, **change).to_bytes())
        with pytest.raises(BitstreamError, match=message):
            codec.decode(bitstream.write(stream.header, [other]))
    for change in ({"whole": payload.channels + 1}, {"statistics": (1, 2)}, {"channels": 0}):
        with pytest.raises(BitstreamError, match="expected"):
            replace(payload, **change).to_bytes()


def test_files_that_fit_other_codecs_or_pictures(codec, data):
    stream = bitstream.read(data)
    for change, message in (
        ({"profile": "vvc_feature", "channels": (8,)}, "expected a file of profile fctm_like"),
        ({"channels": (8,)}, "to follow from the weights id"),
        ({"input_size": (4096, 4096)}, f"at most {MAX_INPUT_PIXELS} pixels"),
        ({"input_size": (800, 1200)}, "expected a VVC picture of"),
    ):
        other = bitstream.write(replace(stream.header, **change), stream.units)
        with pytest.raises(BitstreamError, match=message):
            codec.decode(other)


# --- bad input ------------------------------------------------------------------------------


def test_features_that_the_weights_do_not_fit(codec):
    refuses_features_that_the_weights_do_not_fit(codec)


def test_weights_files_that_are_none(tmp_path, weights):
    refuses_weights_files_that_are_none(FctmLikeCodec, "FCTM_LIKE", weights, tmp_path)


@pytest.mark.parametrize("change", [{"reduced": 11}, {"reduced": 0}, {"hidden": 9}])
def test_weights_of_other_networks(tmp_path, change):
    model = tiny_model()
    model.config = CONFIG
    path = export(model, "0" * 64, {}, tmp_path / "odd.safetensors")
    odd = path.read_bytes()
    ((name, value),) = change.items()
    old = f'\\"{name}\\": {getattr(CONFIG, name)}'.encode()
    assert old in odd
    path.write_bytes(
        odd.replace(old, f'\\"{name}\\": {value:<{len(str(getattr(CONFIG, name)))}}'.encode())
    )
    with pytest.raises(InputError, match="the weights file is damaged") as caught:
        FctmLikeCodec(path)
    assert "\n" not in str(caught.value)


def test_a_weights_file_without_a_range(tmp_path):
    model = tiny_model()
    model.value_range.fill_(1.0)
    with pytest.raises(InputError, match="expected a value range low < high"):
        FctmLikeCodec(export(model, "0" * 64, {}, tmp_path / "flat.safetensors"))


def test_a_condition_names_the_weights_and_the_tools(tiny_condition, weights):
    condition = load_condition(tiny_condition)
    with pytest.raises(InputError, match="name them in the key fctm_like_weights"):
        make_codec("fctm_like", changed(condition, fctm_like_weights=None))
    named = changed(
        condition, fctm_like_weights=str(weights), fctm_like_qps=(22, 37),
        fctm_like_preset="fast", fctm_like_resampling=False, fctm_like_channels=9,
    )  # fmt: skip
    with pytest.raises(InputError, match="trained for a detector with the SHA-256 000000000000"):
        make_codec("fctm_like", named)
    codec = make_codec("fctm_like", changed(named, weights=None))
    assert codec.tools == Tools(resampling=False, most=9) and codec.encoder.preset == "fast"
    assert codec_rate_points("fctm_like", named) == ["22", "37"]
    with pytest.raises(InputError, match="all-intra or with low delay"):
        make_codec("fctm_like", changed(named, weights=None, vvc_random_access=True))


# --- training -------------------------------------------------------------------------------


def test_steps_are_those_of_vvc():
    steps = relative_step(torch.tensor([4.0, 22.0, 34.0])) * 1023
    torch.testing.assert_close(steps, torch.tensor([4.0, 32.0, 128.0]))


def test_the_transform_keeps_lengths():
    x = torch.randn(2, 3, 8, 11)
    torch.testing.assert_close(transform(x).square().sum(), x.square().sum())


def test_training_begins_at_the_best_linear_code():
    """Against numpy's decomposition: nothing linear restores these cells better."""
    torch.manual_seed(0)
    features = CONFIG.channels * sum(n**2 for n in CELLS.values())
    cells = torch.randn(400, features) * 0.9 ** torch.arange(features)
    cells = cells @ torch.linalg.qr(torch.randn(features, features))[0]
    model = Fctm(CONFIG)
    with torch.no_grad():
        weights = {name: torch.full((CONFIG.channels,), 1 / n) for name, n in CELLS.items()}
        _start_linear(model, cells, weights, seed=0)
    code = torch.cat([x.weight.flatten(1) for x in model.reduce.pools], dim=1) * UNIT
    back = torch.cat([x.weight[:, :, 0, 0] for x in model.restore.spread]) * UNIT
    torch.testing.assert_close(code @ back, torch.eye(CONFIG.reduced), atol=1e-4, rtol=0.0)
    left = (cells - cells @ code.T @ back.T).square().sum()
    best = np.square(np.linalg.svd(cells.numpy(), compute_uv=False)[CONFIG.reduced :]).sum()
    assert best <= left * 1.0001 and left < 1.05 * best


def test_the_start_is_the_linear_code_with_a_gate(store):
    model = Fctm(replace(CONFIG, channels=store.channels))
    start(model, store, SCHEDULE)
    size, pictures = store.draw(2, np.random.default_rng(0))
    layers = store.features(size, pictures)
    with torch.no_grad():
        standard = model.standard(layers)
        b = model.reduce.linear(standard)
        gates = model.reduce.gates(model.reduce.seen(b))
        torch.testing.assert_close(model.reduce(standard), gates * b)
    low, high = model.value_range
    assert low < b.min() and b.max() < high
    near = near_objects(store.boxes(size, pictures), standard["p2"].shape[-2:])
    near = torch.nn.functional.adaptive_max_pool2d(near, b.shape[-2:]).bool().expand_as(gates)
    assert gates[near].mean() > 1.3 * gates[~near].mean()


def test_resumed_training_equals_an_undisturbed_one(store, tmp_path, monkeypatch):
    config = replace(CONFIG, channels=store.channels)
    whole = train(config, store, SCHEDULE, tmp_path / "whole")
    train(config, store, replace(SCHEDULE, iterations=2), tmp_path / "killed")
    state = tmp_path / "killed" / "fctm_like_state.pth"
    saved = torch.load(state, weights_only=True)
    saved["schedule"]["iterations"] = SCHEDULE.iterations
    torch.save(saved, state)
    resumed = train(config, store, SCHEDULE, tmp_path / "killed")
    for name in ("value_range", "mean", "reduce.pools.0.weight"):
        assert whole.state_dict()[name].shape == resumed.state_dict()[name].shape
    assert torch.equal(whole.value_range, resumed.value_range)


def test_every_weight_has_a_part_in_the_loss(store):
    model = Fctm(replace(CONFIG, channels=store.channels))
    start(model, store, SCHEDULE)
    for layer in (model.reduce.gate, model.reduce.correct, model.restore.correct.body[-1],
                  *(block.body[-1] for block in model.restore.refine)):  # fmt: skip
        layer.weight.data.normal_(0.0, 0.01)
    sum(loss_terms(model, store, SCHEDULE, 0, True).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    order = importance_order(model, store, SCHEDULE)
    assert sorted(order.tolist()) == list(range(CONFIG.reduced))
