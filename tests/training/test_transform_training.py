# SPDX-License-Identifier: BSD-3-Clause
"""Codecs whose latents detector and person read: targets, linear start, a training that goes on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from heads_tiny import BASE
from picture_tiny import CONFIG, tiny_codec, tiny_weights

from anchors.picture_config import TransformConfig
from vcm_plugin.ctc.codecs import load_condition, make_codec
from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split import load_split_model
from vcm_plugin.training import loop
from vcm_plugin.training.picture_samples import PictureStore, prepare
from vcm_plugin.training.schedules import TransformTraining
from vcm_plugin.training.transform import (
    Heads,
    HeadsConfig,
    Targets,
    loss_terms,
    start_linear,
    train,
)

SCHEDULE = TransformTraining(
    iterations=4, batch_size=2, warmup=2, checkpoint_every=2, crop=64, learning_rate=0.01
)
SIZES = HeadsConfig(
    CONFIG, TransformConfig(BASE, machine_latents=8, width=8, blocks=1, qps=(22, 40))
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("picture") / "picture.safetensors")


@pytest.fixture(scope="module")
def store(tiny_condition, tmp_path_factory):
    condition = load_condition(tiny_condition)
    detector = load_split_model(
        condition.model_path(), condition.weights_path(), runtime="torchvision"
    )
    drawn = list(prepare(tmp_path_factory.mktemp("pictures"), 2))[-1]
    return Targets(PictureStore(drawn, detector=detector), make_codec("diff_fchm", condition))


def started(store, weights) -> Heads:
    model = Heads(SIZES)
    model.picture.load_state_dict(loop.starting_weights(weights, "picture"))
    start_linear(model, store, SCHEDULE)
    return model


def test_targets_are_what_the_machine_layer_codes_and_makes(store):
    source = store.pictures.draw(2, 64, np.random.default_rng(2))
    y_m, layers = store.of(source)
    for n in range(2):
        own = FeaturePyramid({k: x[n] for k, x in layers.items()}, (64, 64), (64, 64))
        analysed = store.machine.analyse(own)
        assert torch.allclose(analysed.y[0], y_m[n], atol=1e-4)
        made = store.machine.restore(y_m[n : n + 1], analysed.header).layers
        ours = store.features(y_m[n : n + 1])
        assert all(torch.allclose(made[k], ours[k][0], atol=1e-4) for k in made)


def test_the_linear_start_is_the_least_squares_map(store, weights):
    """No other 3 x 3 map of the same cells has less error and less ridge: moving away costs."""
    model = started(store, weights)
    rng = np.random.default_rng((SCHEDULE.seed, 1 << 40))
    transform, cells, wanted = model.each["latent_scalable"], [], []
    from vcm_plugin.training.picture import normalised, told
    from vcm_plugin.training.transform import LEVELS, RIDGE, STATISTICS_CROPS

    with torch.no_grad():
        for _ in range(STATISTICS_CROPS):
            source = store.pictures.draw(1, SCHEDULE.crop, rng)
            step = told(rng.uniform(22, 40, 1), source)[0] / LEVELS
            y_hat = (model.picture.g_a(normalised(source)) / step).round() * step
            cells.append(
                torch.nn.functional.unfold(transform.standardised(y_hat), 3, padding=1)[0].T
            )
            target = (store.of(source)[0][0].flatten(1).T - transform.mean) / transform.std
            wanted.append(target)
    a, b = torch.cat(cells).double().numpy(), torch.cat(wanted).double().numpy()
    ridge = np.sqrt(RIDGE * np.square(a).sum(0).mean()) * np.eye(a.shape[1])
    found = np.linalg.lstsq(
        np.concatenate((a, ridge)), np.concatenate((b, np.zeros((len(ridge), b.shape[1])))), None
    )[0]
    weight = transform.linear.weight.detach().flatten(1).T.numpy()
    assert np.abs(found - weight).max() < 1e-2 * np.abs(found).max()
    y_hat = torch.randn(1, model.picture.config.latents, 4, 4)
    with torch.no_grad():  # what is added to the map is zero at first
        both = (transform(y_hat, torch.full((1, 1, 1, 1), octaves)) for octaves in (0.0, 1.0))
        assert torch.equal(*both)


def test_both_machine_losses_reach_the_analysis(store, weights):
    model = started(store, weights)
    terms = loss_terms(model, store, SCHEDULE, 0, False)
    assert set(terms) == {"distortion", "rate", "latent_scalable", "multi_head"}
    gradients = []
    for name in ("latent_scalable", "multi_head"):
        model.zero_grad()
        terms[name].backward(retain_graph=True)
        gradients.append(model.picture.g_a.linear.weight.grad.flatten(1).abs().sum(1))
    assert (gradients[0][:BASE] > 0).all() and not gradients[0][BASE:].any()  # the base alone
    assert (gradients[1] > 0).all()


def test_a_training_goes_on_and_ends_in_the_same_weights(store, weights, tmp_path):
    whole = train(SIZES, store, SCHEDULE, tmp_path / "whole", weights).state_dict()
    train(SIZES, store, replace(SCHEDULE, iterations=2), tmp_path / "parts", weights)
    with pytest.raises(InputError, match="checkpoint with feature_weight"):
        train(SIZES, store, replace(SCHEDULE, feature_weight=1.0), tmp_path / "parts", weights)
    again = train(SIZES, store, SCHEDULE, tmp_path / "whole", weights).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    begun = tiny_codec(tmp_path).model.state_dict()
    assert any(not torch.equal(begun[n], whole[f"picture.{n}"]) for n in begun if "g_s" in n)
