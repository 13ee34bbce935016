# SPDX-License-Identifier: BSD-3-Clause
"""Training of the inter networks: what is prepared, exact resumption, what is refused."""

import numpy as np
import pytest
import torch
from interrupted import interrupted

from vcm_plugin.conditions import bundled_weights, model_path
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.diff_fchm.machine.inter import export
from vcm_plugin.diff_fchm.machine.inter_config import InterConfig
from vcm_plugin.environment import PACKAGE
from vcm_plugin.errors import InputError
from vcm_plugin.split import load_split_model
from vcm_plugin.testsets import minictc_tracking
from vcm_plugin.testsets.minictc_sequences import draw_sequence
from vcm_plugin.training.inter import InterModel, code_intra, float_networks, loss_terms, train
from vcm_plugin.training.inter_samples import InterStore, prepare
from vcm_plugin.training.schedules import InterTraining

SCHEDULE = InterTraining(
    iterations=3, batch_size=1, warmup=1, checkpoint_every=1, frames=3, scales=(2.0, 6.0)
)
SIZES = InterConfig(temporal_width=8, temporal_features=8, prior_width=8)


@pytest.fixture(scope="module")
def machine():
    return MachineCodec(PACKAGE / "weights" / "minictc_vfcn.safetensors")


@pytest.fixture(scope="module")
def detector():
    weights = bundled_weights("minictc_mask_rcnn")
    return load_split_model(model_path("minictc_mask_rcnn"), weights, runtime="torchvision")


@pytest.fixture(scope="module")
def store(machine, detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    assert list(prepare(folder, machine, detector, sequences=1, frames=3)) == [1]
    return InterStore(folder, detector, 1)


def same(first, second) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values())
    return all(torch.equal(a, b) for a, b in pairs)


def test_what_is_prepared_is_what_the_codec_codes(store, machine, detector, tmp_path):
    y, ranges = store.draw(1, 3, np.random.default_rng(0))
    picture, _ = next(draw_sequence("train", 0, count=1))
    analysed = machine.analyse(detector.nn_part1(picture))
    assert torch.allclose(y[0, 0], analysed.y[0], atol=2e-2, rtol=2e-3)
    assert ranges[0].tolist() == pytest.approx(analysed.value_range)
    layer = machine.code_intra(analysed, 0.7)
    scaled = torch.tensor([layer.payload.value_range])
    with torch.no_grad():
        z = machine.model.h_a(analysed.y * machine.model.done(scaled))
        coded = code_intra(
            float_networks(machine), z, analysed.y * machine.model.done(scaled),
            machine.model.octaves(scaled),
        )  # fmt: skip
    assert coded.bits.item() == pytest.approx(8 * len(layer.payload.data), rel=0.05)


def test_others_latents_are_refused(store, machine, detector, tmp_path):
    assert list(prepare(tmp_path, machine, detector, sequences=0, frames=3)) == []
    with pytest.raises(InputError, match="expected the latents of this detector"):
        list(prepare(tmp_path, machine, detector, sequences=0, frames=4))


def test_a_tracker_has_latents_of_the_tracking_set(machine, tmp_path):
    """From frames to inter networks that its codec loads; the other detector's codec is refused."""
    jde = MachineCodec(PACKAGE / "weights" / "minictc_jde_vfcn.safetensors")
    weights, split_point = bundled_weights("minictc_jde"), jde.config.split_point
    tracker = load_split_model(model_path("minictc_jde"), weights, split_point)
    assert list(prepare(tmp_path / "latents", jde, tracker, sequences=1, frames=3)) == [1]
    store = InterStore(tmp_path / "latents", tracker, 1)
    y, ranges = store.draw(1, 3, np.random.default_rng(0))
    picture, _ = next(minictc_tracking.draw_sequence("train", 0, count=1))
    analysed = jde.analyse(tracker.nn_part1(picture))
    assert torch.allclose(y[0, 0], analysed.y[0], atol=2e-2, rtol=2e-3)
    assert ranges[0].tolist() == pytest.approx(analysed.value_range)
    sizes = SIZES.over(jde.config)
    networks = train(sizes, jde, store, SCHEDULE, tmp_path / "out")
    path = export(networks, sizes, jde.sha256, {}, tmp_path / "inter.safetensors")
    assert MachineCodec(PACKAGE / "weights/minictc_jde_vfcn.safetensors", inter=path).inter
    with pytest.raises(InputError, match="--vfcn: expected weights for the detector 48c1e9f1"):
        list(prepare(tmp_path / "others", machine, tracker, sequences=1, frames=3))


def test_a_step_makes_the_loss_smaller(store, machine):
    torch.manual_seed(1)
    model = InterModel(SIZES.over(machine.config), machine, float_networks(machine))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        loss = sum(loss_terms(model, store, SCHEDULE, 0, False).values())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_resumed_training_equals_an_undisturbed_one(store, machine, tmp_path):
    sizes = SIZES.over(machine.config)
    whole = train(sizes, machine, store, SCHEDULE, tmp_path / "whole", print)
    with interrupted(store, "draw", 3):
        train(sizes, machine, store, SCHEDULE, tmp_path / "parts", print)
    parts = train(sizes, machine, store, SCHEDULE, tmp_path / "parts", print)
    assert same(whole, parts)
    path = export(parts, sizes, machine.sha256, {}, tmp_path / "inter.safetensors")
    assert MachineCodec(
        PACKAGE / "weights" / "minictc_vfcn.safetensors", inter=path
    ).inter.parameters


def test_bad_settings():
    with pytest.raises(InputError, match="frames: expected at least 2, found 1"):
        InterTraining(frames=1)
    with pytest.raises(InputError, match="scales: expected two"):
        InterTraining(scales=(2.0, 1.0))
