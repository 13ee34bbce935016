# SPDX-License-Identifier: BSD-3-Clause
"""Training VFCN: the loss falls, a killed training resumes exactly, the export codes features."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from interrupted import interrupted
from vfcn_tiny import CONFIG

from vcm_plugin.diff_fchm.machine.codec import MachineCodec, export
from vcm_plugin.diff_fchm.machine.vfcn import GAIN_OCTAVES, Vfcn, gains_of_ivn
from vcm_plugin.errors import InputError
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training.feature_loss import near_objects
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.schedules import VfcnTraining
from vcm_plugin.training.vfcn import loss_terms, read_average, train

SCHEDULE = VfcnTraining(
    iterations=4, batch_size=2, warmup=2, checkpoint_every=2, task_weight=0.5, task_from=0.5
)


def test_kept_features_are_those_of_nn_part1(store):
    size, group = next(iter(store.groups.items()))
    first, again = (store.features(size, group[:2]) for _ in range(2))
    pyramid = store.detector.nn_part1(read_picture(store.dataset.pictures[group[0]].path))
    for name, layer in pyramid.layers.items():
        assert torch.equal(first[name], again[name])
        torch.testing.assert_close(first[name][0], layer, atol=2e-3, rtol=2e-3)


def test_targets_lie_in_the_network_input(store):
    for size, group in store.groups.items():
        for target, boxes in zip(store.targets(size, group), store.boxes(size, group)):
            assert target["masks"].shape[1:] == size
            if len(target["boxes"]) == len(boxes):
                np.testing.assert_allclose(target["boxes"].numpy(), boxes, atol=3.0)


def test_cells_near_objects():
    near = near_objects([np.array([[40.0, 20.0, 60.0, 36.0]]), np.zeros((0, 4))], (16, 24))
    assert near[0, 0, 2:12, 7:18].all() and near.sum() == 10 * 11
    assert near[0, 0, 2, 7] == 1 and near[0, 0, 1, 7] == 0


def test_resumed_training_equals_an_undisturbed_one(store, tmp_path):
    whole = train(CONFIG, store, SCHEDULE, tmp_path / "whole")
    with interrupted(store, "features", 35):  # after the statistics, 32 batches, and two iterations
        train(CONFIG, store, SCHEDULE, tmp_path / "killed")
    resumed = train(CONFIG, store, SCHEDULE, tmp_path / "killed")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("variant", ["robust", "plain", "gain"])
def test_every_trained_parameter_gets_a_gradient(store, variant):
    """Else training on several processes stops."""
    model = Vfcn(replace(CONFIG, variant=variant))
    sum(loss_terms(model, store, SCHEDULE, 0, with_task=True).values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_gain_units_that_start_from_ivn_are_it_at_their_levels(store, tmp_path):
    ivn = train(CONFIG, store, replace(SCHEDULE, iterations=2), tmp_path / "ivn")
    gain = Vfcn(replace(CONFIG, variant="gain"))
    gain.load_state_dict(ivn.state_dict() | {"log_gains": gains_of_ivn(ivn.shrink)})
    width = ivn.typical_width * 2.0**GAIN_OCTAVES
    ranges = torch.stack((torch.zeros(8), width), dim=1)
    for what in ("done", "undone"):
        expected = getattr(ivn, what)(ranges).expand(8, CONFIG.latents, 1, 1)
        torch.testing.assert_close(getattr(gain, what)(ranges), expected, rtol=0.01, atol=0)
    init, config = tmp_path / "ivn" / "vfcn_state.pth", gain.config
    train(config, store, replace(SCHEDULE, iterations=1), tmp_path / "gain", init)


def test_a_folder_of_another_training_is_refused(store, tmp_path):
    train(CONFIG, store, replace(SCHEDULE, iterations=2), tmp_path)
    with pytest.raises(InputError, match="checkpoint with fuse False, found True"):
        train(replace(CONFIG, fuse=False), store, SCHEDULE, tmp_path)
    with pytest.raises(InputError, match="checkpoint with lmbda 9.0, found"):
        train(CONFIG, store, replace(SCHEDULE, lmbda=9.0), tmp_path)
    with pytest.raises(InputError, match="at most 1 iterations, found 2"):
        train(CONFIG, store, replace(SCHEDULE, iterations=1), tmp_path)
    (tmp_path / "damaged.pth").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="expected a checkpoint of a training"):
        read_average(tmp_path / "damaged.pth")


def test_a_feature_folder_of_another_detector_is_refused(store, tmp_path):
    (tmp_path / "features.json").write_text('{"detector": "another", "pictures": "others"}')
    with pytest.raises(InputError, match="those of others; give another folder"):
        FeatureStore(store.detector, store.dataset, tmp_path)


def test_the_loss_falls(store, tmp_path):
    schedule = replace(SCHEDULE, iterations=60, task_weight=0.0, warmup=5, ema_decay=0.5)
    model = train(CONFIG, store, schedule, tmp_path)
    start = Vfcn(CONFIG)
    start.load_state_dict(model.state_dict())
    torch.manual_seed(schedule.seed)
    fresh = Vfcn(CONFIG)
    for name in ("mean", "std", "typical_width"):
        getattr(fresh, name).copy_(getattr(model, name))
    with torch.no_grad():
        before, after = (
            sum(sum(loss_terms(m, store, schedule, 1000 + i, False).values()) for i in range(4))
            for m in (fresh, start)
        )
    assert after < 0.8 * before


def test_the_export_codes_features(store, tmp_path):
    train(CONFIG, store, SCHEDULE, tmp_path)
    config, weights = read_average(tmp_path / "vfcn_state.pth")
    model = Vfcn(config)
    model.load_state_dict(weights)
    codec = MachineCodec(export(model, "0" * 64, ["1"], {}, tmp_path / "w.vfcn"))
    features = store.detector.nn_part1(read_picture(store.dataset.pictures[0].path))
    assert store.detector.nn_part2(codec.decode(codec.encode(features, "1"))) is not None


def test_a_training_begins_with_a_weights_file(store, tmp_path):
    first = train(CONFIG, store, SCHEDULE, tmp_path / "first")
    path = export(first, "0" * 64, ["1"], {}, tmp_path / "first.safetensors")
    short = replace(SCHEDULE, iterations=1, checkpoint_every=1, learning_rate=1e-9)
    second = train(CONFIG, store, short, tmp_path / "second", path)
    for (
        name,
        x,
    ) in first.state_dict().items():  # 16-bit floats, and integers of the entropy networks
        assert torch.allclose(x, second.state_dict()[name], rtol=1e-3, atol=2e-3), name
    with pytest.raises(InputError, match="expected weights of networks of the same sizes"):
        train(replace(CONFIG, fuse=False), store, short, tmp_path / "third", path)
    with pytest.raises(InputError, match="expected VFCN weights"):
        (tmp_path / "other.safetensors").write_bytes(b"none")
        train(CONFIG, store, short, tmp_path / "fourth", tmp_path / "other.safetensors")
