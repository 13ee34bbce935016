# SPDX-License-Identifier: BSD-3-Clause
"""VFCN for layers other than p2..p5: JDE's, and those before the feature pyramid network."""

from dataclasses import replace

import jde_tiny
import numpy as np
import pytest
import torch
from jde_tiny import SMALL
from vfcn_tiny import CONFIG

from vcm_plugin.diff_fchm.machine.codec import MachineCodec, export
from vcm_plugin.errors import InputError
from vcm_plugin.split.jde import JdeDetector
from vcm_plugin.split.torchvision import TorchvisionDetector
from vcm_plugin.split_points import SPLIT_POINTS
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.frame_features import Frame, FrameFeatures, pictures_of
from vcm_plugin.training.schedules import VfcnTraining
from vcm_plugin.training.vfcn import train

SCHEDULE = VfcnTraining(iterations=2, batch_size=2, warmup=1, checkpoint_every=1)
JDE = replace(
    CONFIG, split_point="jde_tvd", layer_channels=SMALL.sizes().channels("jde_tvd")
)  # fmt: skip


@pytest.fixture(scope="module")
def frames():
    return jde_tiny.moving_frames(3, (180, 320))


@pytest.fixture(scope="module")
def checkpoint(frames, tmp_path_factory):
    network = jde_tiny.random_network(SMALL, frames)
    return jde_tiny.write_checkpoint(network, tmp_path_factory.mktemp("jde") / "small.pt")


def frame_store(checkpoint, frames, split_point="jde_tvd", folder=None) -> FrameFeatures:
    boxes = np.array([[32.0, 18.0, 96.0, 90.0]])
    made = [Frame(lambda frame=frame: frame, boxes, frame.shape[:2]) for frame in frames]
    return FrameFeatures(JdeDetector(SMALL, checkpoint, split_point), made, "digest", folder)


def test_features_of_frames_are_those_of_nn_part1_and_are_kept(checkpoint, frames, tmp_path):
    store = frame_store(checkpoint, frames, folder=tmp_path)
    size, pictures = store.draw(2, np.random.default_rng(0))
    assert size == SMALL.input_size
    first = store.features(size, pictures)
    store.detector.nn_part1 = None  # they come from the folder
    again = store.features(size, pictures)
    del store.detector.nn_part1
    whole = store.detector.nn_part1(frames[pictures[0]]).layers
    assert list(first) == list(SPLIT_POINTS["jde_tvd"])
    for name, layer in whole.items():
        assert torch.equal(first[name], again[name])
        torch.testing.assert_close(first[name][0], layer, atol=2e-3, rtol=2e-3)
    with pytest.raises(InputError, match="give another folder"):
        frame_store(checkpoint, frames, "jde_hieve", tmp_path)


def test_boxes_lie_where_the_letterbox_puts_them(checkpoint, frames):
    """180 x 320 becomes 90 x 160 in 96 x 160: half the size, three rows further down."""
    (boxes,) = frame_store(checkpoint, frames).boxes(SMALL.input_size, [0])
    np.testing.assert_allclose(boxes, [[16.0, 12.0, 48.0, 48.0]])


@pytest.mark.parametrize("split_point", ["jde_tvd", "jde_hieve"])
def test_trained_networks_code_the_layers_of_jde(checkpoint, frames, tmp_path, split_point):
    store = frame_store(checkpoint, frames, split_point)
    config = replace(JDE, split_point=split_point, layer_channels=store.layer_channels)
    model = train(config, store, SCHEDULE, tmp_path)
    assert model.mean.abs().max() > 0 and model.typical_width > 0
    sha256 = store.detector.weights_sha256
    codec = MachineCodec(export(model, sha256, ["1"], {}, tmp_path / "w.safetensors"))
    features = store.detector.nn_part1(frames[0])
    decoded = codec.decode(codec.encode(features, "1"))
    assert {n: x.shape for n, x in decoded.layers.items()} == {
        n: x.shape for n, x in features.layers.items()
    }
    assert store.detector.nn_part2(decoded) is not None


@pytest.mark.parametrize("split_point", ["c2", "r2"])
def test_layers_before_the_pyramid_of_an_r_cnn(store, tmp_path, split_point):
    detector = store.detector
    cut = TorchvisionDetector.__new__(TorchvisionDetector)
    cut.__dict__ |= vars(detector) | {"split_point": split_point}
    other = FeatureStore(cut, store.dataset, tmp_path / "features")
    config = replace(CONFIG, split_point=split_point, layer_channels=other.layer_channels)
    model = train(config, other, SCHEDULE, tmp_path)
    codec = MachineCodec(export(model, "0" * 64, ["1"], {}, tmp_path / "w.safetensors"))
    size, pictures = other.draw(1, np.random.default_rng(0))
    assert list(other.features(size, pictures)) == list(SPLIT_POINTS[split_point])
    assert codec.config.split_point == split_point


def test_networks_for_other_layers_are_refused(checkpoint, frames, store, tmp_path):
    jde = frame_store(checkpoint, frames)
    with pytest.raises(InputError, match="split point jde_tvd with 16, 24, 32 channels; found fpn"):
        train(CONFIG, jde, SCHEDULE, tmp_path)
    with pytest.raises(InputError, match="found jde_tvd with 16, 24, 99"):
        train(replace(JDE, layer_channels=(16, 24, 99)), jde, SCHEDULE, tmp_path)
    with pytest.raises(InputError, match="task_weight: expected 0 at the split point jde_tvd"):
        train(JDE, jde, replace(SCHEDULE, task_weight=1.0), tmp_path)
    with pytest.raises(InputError, match="split point fpn with 8, 8, 8, 8 channels; found jde_tvd"):
        train(JDE, store, SCHEDULE, tmp_path)


def test_pictures_of_a_data_set_are_frames(store):
    frames, digest = pictures_of(store.dataset)
    assert digest == store.digest and len(frames) == len(store.dataset.pictures)
    own = [a for a in store.dataset.coco["annotations"]
           if a["image_id"] == store.dataset.pictures[0].image_id]  # fmt: skip
    assert frames[0].boxes.shape == (len(own), 4)
    assert frames[0].read().shape[:2] == frames[0].size
