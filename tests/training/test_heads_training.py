# SPDX-License-Identifier: BSD-3-Clause
"""Transforms with the detector's losses: what they reach, a training that goes on, its weights."""

from dataclasses import replace

import heads_tiny
import pytest
import torch
from picture_tiny import tiny_codec
from tiny_condition import write_tiny_condition

from anchors.feature_head import FeatureHead
from anchors.latent_transform import export
from vcm_plugin.ctc.codecs import load_condition, make_codec
from vcm_plugin.errors import InputError
from vcm_plugin.split import load_split_model
from vcm_plugin.testsets.coco import load_coco
from vcm_plugin.testsets.minictc import generate
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.heads import CodedPictures, Transforms, loss_terms, own_sized, train
from vcm_plugin.training.schedules import HeadsTraining

SCHEDULE = HeadsTraining(
    iterations=4, batch_size=2, warmup=2, checkpoint_every=2, learning_rate=0.01
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    condition = load_condition(write_tiny_condition(folder))
    detector = load_split_model(
        condition.model_path(), condition.weights_path(), runtime="torchvision"
    )
    truth = generate("train", folder / "set", 3)
    dataset = own_sized(load_coco(folder / "set" / "images", truth), detector.config)
    machine = make_codec("diff_fchm", condition)
    return CodedPictures(FeatureStore(detector, dataset, None), tiny_codec(folder), machine)


@pytest.fixture
def heads(store, tmp_path):
    found = {}
    for name, latents in (("latent_scalable", heads_tiny.BASE), ("multi_head", heads_tiny.ALL)):
        path = heads_tiny.tiny_transform(
            tmp_path / f"{name}.begin", store.picture, store.machine, latents
        )
        found[name] = FeatureHead(path, store.picture, store.machine)
    return found


def test_the_losses_reach_each_transform_and_no_other_network(store, heads):
    model = Transforms(heads)
    terms = loss_terms(model, store, SCHEDULE, 0, True)
    assert set(terms) == {f"{name}_{loss}" for name in heads for loss in ("mse", "task")}
    for name, value in terms.items():
        model.zero_grad()
        value.backward(retain_graph=True)
        for codec, transform in model.each.items():
            gradient = transform.linear.weight.grad
            assert (gradient is not None and bool(gradient.any())) == name.startswith(codec)
    frozen = (store.picture.model, store.machine.model)
    assert all(x.grad is None for network in frozen for x in network.parameters())


def test_latents_are_those_that_the_codec_sends(store):
    """Rounded at the step: what the codec decodes, where it weighs no bits against errors."""
    from anchors.picture_config import step_of
    from anchors.picture_networks import LEVELS
    from vcm_plugin.testsets.pictures import read_picture

    step = torch.full((1, 1, 1, 1), step_of(30)) / LEVELS
    entry = store.features.dataset.pictures[0]
    _, y = store.picture.analysis(read_picture(entry.path), 30)
    found = store.y_hat([0], step) / step
    assert torch.equal(found.round().flatten(), torch.as_tensor(y).round().flatten())


def test_a_training_goes_on_and_its_weights_are_those_of_a_codec(store, heads, tmp_path):
    begun = {name: x.clone() for name, x in Transforms(heads).state_dict().items()}
    whole = train(heads, store, SCHEDULE, tmp_path / "whole").state_dict()
    assert any(not torch.equal(begun[name], x) for name, x in whole.items())
    again = {n: FeatureHead(head.path, store.picture, store.machine) for n, head in heads.items()}
    train(again, store, replace(SCHEDULE, iterations=2), tmp_path / "parts")
    with pytest.raises(InputError, match="checkpoint with feature_weight"):
        train(again, store, replace(SCHEDULE, feature_weight=9.0), tmp_path / "parts")
    resumed = train(again, store, SCHEDULE, tmp_path / "parts")
    assert all(torch.equal(whole[name], x) for name, x in resumed.state_dict().items())
    bound = (store.picture.sha256, store.machine.latents_sha256, "0" * 64)
    path = export(resumed.each["multi_head"], *bound, {}, tmp_path / "multi_head.safetensors")
    made = FeatureHead(path, store.picture, store.machine).model.state_dict()
    assert all(
        torch.allclose(whole[f"each.multi_head.{n}"], x, 1e-2, 1e-3) for n, x in made.items()
    )


def test_pictures_that_the_detector_resizes_are_passed_over(store, tmp_path):
    truth = generate("val", tmp_path, 5)
    dataset, config = load_coco(tmp_path / "images", truth), store.detector.config
    sizes = {(p.height, p.width) for p in own_sized(dataset, config).pictures}
    assert sizes and sizes < {(p.height, p.width) for p in dataset.pictures}
    others = dataset.without([p.image_id for p in dataset.pictures if (p.height, p.width) in sizes])
    with pytest.raises(InputError, match="neither resizes nor pads.*found none"):
        own_sized(others, config)
