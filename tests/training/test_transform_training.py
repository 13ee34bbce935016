# SPDX-License-Identifier: BSD-3-Clause
"""Latent-space transforms: linear start, a training that goes on, what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from heads_tiny import BASE
from picture_tiny import tiny_codec

from anchors.picture_config import TransformConfig
from vcm_plugin.ctc.codecs import load_condition, make_codec
from vcm_plugin.errors import InputError
from vcm_plugin.split import load_split_model
from vcm_plugin.training.picture_samples import prepare
from vcm_plugin.training.schedules import TransformTraining
from vcm_plugin.training.transform import (
    Transforms,
    TransformStore,
    set_statistics,
    start_linear,
    train,
)

SCHEDULE = TransformTraining(iterations=4, batch_size=2, warmup=2, checkpoint_every=2, codings=2)


@pytest.fixture(scope="module")
def store(tiny_condition, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transform")
    condition = load_condition(tiny_condition)
    detector = load_split_model(
        condition.model_path(), condition.weights_path(), runtime="torchvision"
    )
    drawn = list(prepare(folder / "pictures", 2))[-1]
    machine = make_codec("diff_fchm", condition)
    made = TransformStore(folder / "latents", drawn, tiny_codec(folder), machine, detector)
    assert list(made.prepare(config(), SCHEDULE)) == [1, 2]
    return made


def config() -> TransformConfig:
    return TransformConfig(BASE, machine_latents=8, width=8, blocks=1, qps=(22, 40))


def test_the_linear_start_is_the_least_squares_map(store):
    """Against numpy's solver of the same problem, with its ridge as further rows."""
    model = Transforms(config(), store.codec.config.latents)
    set_statistics(model, store, SCHEDULE)
    start_linear(model, store)
    transform = model.each["latent_scalable"]
    rows, wanted = [], []
    for number in range(2):
        for y_hat, y_m in store.codings(number):
            padded = np.pad(
                transform.standardised(y_hat[None])[0].numpy(), ((0, 0), (1, 1), (1, 1))
            )
            height, width = y_m.shape[1:]
            taps = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
            rows.append(np.stack(taps, axis=1).reshape(9 * BASE, -1).T)
            wanted.append(((y_m.flatten(1).T - transform.mean) / transform.std).numpy())
    a, b = np.concatenate(rows).astype(np.float64), np.concatenate(wanted).astype(np.float64)
    ridge = np.sqrt(1e-3 * np.square(a).sum(0).mean()) * np.eye(a.shape[1])
    found = np.linalg.lstsq(
        np.concatenate((a, ridge)), np.concatenate((b, np.zeros((len(ridge), b.shape[1])))), None
    )[0]
    weight = transform.linear.weight.detach().flatten(1).T.numpy()
    assert np.abs(found - weight).max() < 1e-2 * np.abs(found).max()
    batch = store.draw(1, np.random.default_rng(0))
    with torch.no_grad():
        assert torch.equal(
            transform(batch.y_hat, batch.octaves), transform(batch.y_hat, batch.octaves + 1)
        )


def test_a_training_goes_on_and_ends_in_the_same_weights(store, tmp_path):
    whole = train(config(), store, SCHEDULE, tmp_path / "whole").state_dict()
    train(config(), store, replace(SCHEDULE, iterations=2), tmp_path / "parts")
    with pytest.raises(InputError, match="checkpoint with codings"):
        train(config(), store, replace(SCHEDULE, codings=1), tmp_path / "parts")
    again = train(config(), store, SCHEDULE, tmp_path / "whole").state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_rates_of_the_base_are_part_of_those_of_all(store):
    batch = store.draw(2, np.random.default_rng(3))
    assert (0 < batch.rates["latent_scalable"]).all()
    assert (batch.rates["latent_scalable"] < batch.rates["multi_head"]).all()


def test_what_a_training_cannot_take(store):
    with pytest.raises(InputError, match="expected pictures to train on"):
        TransformStore(store.folder, [], store.codec, store.machine, store.detector)
    with pytest.raises(InputError, match="sides in multiples of 32"):
        store._sample(np.zeros((40, 64, 3), np.uint8), [30], BASE)
    with pytest.raises(InputError, match="codings: expected at least 1"):
        replace(SCHEDULE, codings=0)
