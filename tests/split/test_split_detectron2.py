# SPDX-License-Identifier: BSD-3-Clause
"""Do both runtimes give the same features and the same detections? Against the real Detectron2."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from split_parity import (
    ANSWER_SIZES,
    ANSWERS,
    MODELS,
    WEIGHTS,
    answers,
    assert_same_answers,
    compare,
    drawn_cells,
    drawn_picture,
    drawn_scene,
    random_checkpoint,
    reproducible_checkpoint,
    tiny_config,
)

from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split import load_split_model
from vcm_plugin.split.backbone import with_p6
from vcm_plugin.split.checkpoint import Checkpoint
from vcm_plugin.split.config import load_config
from vcm_plugin.split.torchvision import TorchvisionDetector

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.structures import Boxes, ImageList

    from vcm_plugin.split.detectron2 import Detectron2Detector, read_config, zoo_config

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]

ZOO = {
    "faster_rcnn_R_50_FPN_3x": "COCO-Detection",
    "faster_rcnn_R_101_FPN_3x": "COCO-Detection",
    "faster_rcnn_X_101_32x8d_FPN_3x": "COCO-Detection",
    "mask_rcnn_R_50_FPN_3x": "COCO-InstanceSegmentation",
    "mask_rcnn_R_101_FPN_3x": "COCO-InstanceSegmentation",
    "mask_rcnn_X_101_32x8d_FPN_3x": "COCO-InstanceSegmentation",
}
RANDOM = ["faster_rcnn_R_50_FPN_3x", "mask_rcnn_R_50_FPN_3x", "faster_rcnn_X_101_32x8d_FPN_3x"]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference in units of the standard deviation."""
    return float((ours - theirs).abs().max() / theirs.std())


@pytest.mark.parametrize("name", RANDOM)
def test_random_weights_give_the_same_features_and_head_outputs(name, record_property):
    config = replace(load_config(MODELS / f"{name}.yaml"), min_size_test=128, max_size_test=224)
    picture = drawn_picture(130, 197, seed=1)
    checkpoint = random_checkpoint(config, picture)
    by_file = read_config(MODELS / f"{name}.yaml")  # Detectron2's own backbone builder
    by_file.INPUT.MIN_SIZE_TEST, by_file.INPUT.MAX_SIZE_TEST = 128, 224
    ours = TorchvisionDetector(config, checkpoint)
    theirs = Detectron2Detector(by_file, checkpoint)
    assert ours.identity()["config_sha256"] == theirs.identity()["config_sha256"]

    features, reference = ours.nn_part1(picture), theirs.nn_part1(picture)
    assert list(features.layers) == list(reference.layers)
    assert features.input_size == reference.input_size
    measured = {}
    for layer, value in reference.layers.items():
        assert 0.8 < value.std() < 1.25
        measured[layer] = relative(features.layers[layer], value)
    measured |= head_differences(ours, theirs, reference)
    print(f"\n{name}: " + ", ".join(f"{k} {v:.1e}" for k, v in measured.items()))
    for what, value in measured.items():
        record_property(what, value)
        assert value < 1e-4, what

    difference = compare(ours.nn_part2(reference), theirs.nn_part2(reference))
    print(f"{name}, detections: {difference}")
    assert difference.detections >= 10
    assert difference.boxes < 0.05 and difference.scores < 1e-4
    assert difference.mask_pixels <= 1e-3 * difference.mask_area


@torch.no_grad()
def head_differences(ours, theirs, features: FeaturePyramid) -> dict[str, float]:
    """RPN outputs of the same features, and head outputs of the same proposals in them."""
    layers = with_p6({name: layer[None] for name, layer in features.layers.items()})
    logits, deltas = ours.model.rpn.head(list(layers.values()))
    head = theirs.model.proposal_generator.rpn_head(list(layers.values()))
    measured = {
        "rpn logits": max(map(relative, logits, head[0])),
        "rpn deltas": max(map(relative, deltas, head[1])),
    }
    images = ImageList(layers["p2"], [features.input_size])
    (proposals,), _ = theirs.model.proposal_generator(images, layers, None)
    boxes = proposals.proposal_boxes.tensor
    pyramid = [layers[f"p{i}"] for i in (2, 3, 4, 5)]

    heads, given = ours.model.roi_heads, theirs.model.roi_heads
    pooled = heads.box_roi_pool(layers, [boxes], [features.input_size])
    scores, moves = heads.box_predictor(heads.box_head(pooled))
    x = given.box_head(given.box_pooler(pyramid, [Boxes(boxes)]))
    their_scores, their_moves = given.box_predictor(x)
    measured["class scores"] = relative(scores.roll(-1, dims=1), their_scores)
    measured["box deltas"] = relative(moves[:, 4:], their_moves)
    if heads.has_mask():
        pooled = heads.mask_roi_pool(layers, [boxes[:50]], [features.input_size])
        masks = heads.mask_predictor(heads.mask_head(pooled))
        theirs_ = given.mask_head.layers(given.mask_pooler(pyramid, [Boxes(boxes[:50])]))
        measured["mask logits"] = relative(masks[:, 1:], theirs_)
    return measured


@pytest.mark.parametrize(
    ("name", "draw"), [("minictc_mask_rcnn", drawn_scene), ("bccd_faster_rcnn", drawn_cells)]
)
def test_trained_detectors_find_the_same(name, draw, record_property):
    """End to end, each runtime on its own features, over five picture sizes."""
    weights = WEIGHTS / f"{name}.pth"
    if not weights.is_file():
        pytest.skip(f"{weights.name} is not in vcm_plugin/weights")
    ours, theirs = (
        load_split_model(MODELS / f"{name}.yaml", weights, runtime=runtime)
        for runtime in ("torchvision", "detectron2")
    )
    found = []
    for seed, size in enumerate([(256, 320), (320, 256), (288, 384), (203, 311), (480, 640)]):
        picture = draw(*size, seed)
        features, reference = ours.nn_part1(picture), theirs.nn_part1(picture)
        for layer, value in reference.layers.items():
            assert relative(features.layers[layer], value) < 1e-4
        found.append(compare(ours.nn_part2(features), theirs.nn_part2(reference)))
    measured = {
        "detections": sum(d.detections for d in found),
        "boxes": max(d.boxes for d in found),
        "scores": max(d.scores for d in found),
        "mask pixels": sum(d.mask_pixels for d in found),
        "mask area": sum(d.mask_area for d in found),
    }
    print(f"\n{name}: {measured}")
    for what, value in measured.items():
        record_property(what, value)
    assert measured["detections"] >= 50
    assert measured["boxes"] < 0.05 and measured["scores"] < 1e-4
    assert measured["mask pixels"] <= 1e-3 * measured["mask area"]


@pytest.mark.parametrize("size", [(96, 150), (150, 96), (95, 161), (33, 300), (1, 40), (40, 1)])
def test_the_same_detections_at_every_picture_size(size):
    config = tiny_config()
    checkpoint = random_checkpoint(config)
    ours = TorchvisionDetector(config, checkpoint)
    theirs = Detectron2Detector(read_config(config), checkpoint)
    picture = drawn_picture(*size, seed=2)
    features, reference = ours.nn_part1(picture), theirs.nn_part1(picture)
    assert features.input_size == reference.input_size
    for name, layer in reference.layers.items():
        assert relative(features.layers[name], layer) < 1e-4
    difference = compare(ours.nn_part2(reference), theirs.nn_part2(reference))
    assert difference.boxes < 0.05 and difference.scores < 1e-4
    assert difference.mask_pixels <= 1e-3 * difference.mask_area


def test_the_stored_answers_are_detectron2s():
    """The answers that test_split_torchvision.py holds the other runtime to."""
    config = tiny_config()
    detector = Detectron2Detector(read_config(config), reproducible_checkpoint(config))
    stored = json.loads(ANSWERS.read_text())
    assert_same_answers(answers(detector, ANSWER_SIZES), stored["pictures"])


def test_split_points_agree_between_the_runtimes():
    config, picture = tiny_config(), drawn_picture(100, 150, seed=3)
    checkpoint = random_checkpoint(config)
    whole = Detectron2Detector(read_config(config), checkpoint)
    expected = whole.nn_part2(whole.nn_part1(picture))
    for split_point in ("c2", "r2"):
        ours = TorchvisionDetector(config, checkpoint, split_point)
        theirs = Detectron2Detector(read_config(config), checkpoint, split_point)
        features, reference = ours.nn_part1(picture), theirs.nn_part1(picture)
        assert list(features.layers) == list(reference.layers)
        for name, layer in reference.layers.items():
            assert relative(features.layers[name], layer) < 1e-4
        found = theirs.nn_part2(reference)
        assert np.allclose(found.boxes, expected.boxes, atol=1e-3)
        assert np.allclose(found.scores, expected.scores, atol=1e-5)
        assert compare(ours.nn_part2(reference), found).boxes < 0.05


def test_detectron2s_own_predictor_agrees_with_the_split():
    """The two parts in a row are what Detectron2's GeneralizedRCNN.inference gives."""
    config, picture = tiny_config(), drawn_picture(100, 150, seed=4)
    detector = Detectron2Detector(read_config(config), random_checkpoint(config))
    found = detector.nn_part2(detector.nn_part1(picture))
    with torch.no_grad():
        x = detector._network_input(picture)
        whole = detector.model([{"image": x, "height": 100, "width": 150}])[0]["instances"]
    assert np.array_equal(found.boxes, whole.pred_boxes.tensor.numpy())
    assert np.array_equal(found.masks, whole.pred_masks.numpy())


@pytest.mark.parametrize("name", ZOO)
def test_our_files_hold_the_values_of_the_model_zoo(name):
    zoo = f"{ZOO[name]}/{name}.yaml"
    ours, theirs = read_config(MODELS / f"{name}.yaml"), read_config(zoo)
    ours.MODEL.WEIGHTS = theirs.MODEL.WEIGHTS = ""
    for section in ("MODEL", "INPUT", "TEST"):
        assert ours[section] == theirs[section]
    assert load_config(MODELS / f"{name}.yaml") == load_config(zoo_config(zoo))


def test_a_configuration_by_values_is_the_one_by_file():
    for path in MODELS.glob("*.yaml"):
        if "panoptic" in path.name or "jde" in path.name:
            continue
        by_values, by_file = read_config(load_config(path)), read_config(path)
        if not by_file.MODEL.MASK_ON:
            by_values.MODEL.ROI_MASK_HEAD = by_file.MODEL.ROI_MASK_HEAD
        for config in (by_values, by_file):
            config.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = config.INPUT.MIN_SIZE_TRAIN = ()
            config.MODEL.BACKBONE.FREEZE_AT = config.MODEL.WEIGHTS = None
            config.MODEL.BACKBONE.NAME = None  # ours and Detectron2's build the same network
        assert by_values.MODEL == by_file.MODEL and by_values.INPUT == by_file.INPUT, path


@pytest.mark.parametrize("name", ["rpn_R_50_FPN_1x", "faster_rcnn_R_50_C4_1x"])
def test_models_without_our_split_points_are_refused(name):
    config = read_config(f"COCO-Detection/{name}.yaml")
    with pytest.raises(InputError, match="expected an R-CNN on a ResNet FPN"):
        Detectron2Detector(config, Checkpoint({}, "", "none"))


def test_configurations_that_carry_code_are_refused():
    """Detectron2's own RetinaNet file has its anchors computed by a Python tag."""
    expected = "not a readable detector configuration.*python/object/apply"
    with pytest.raises(InputError, match=expected):
        read_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")


def test_architectures_of_detectron2_alone_run_there(tmp_path):
    """A cascade: refused by the torchvision runtime, cut at fpn by the other one."""
    name = "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml"
    with pytest.raises(InputError, match="CascadeROIHeads.*runtime: detectron2"):
        load_config(zoo_config(name))
    config = read_config(name)
    config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST = 64, 96
    config.MODEL.DEVICE = "cpu"
    from detectron2.modeling import build_model

    checkpoint = Checkpoint(dict(build_model(config).state_dict()), "random", "random")
    detector = Detectron2Detector(config, checkpoint)
    found = detector.nn_part2(detector.nn_part1(drawn_picture(64, 80)))
    assert found.boxes.shape == (len(found), 4)
    assert len(detector.identity()["config_sha256"]) == 64


def test_unknown_names_end_in_one_line():
    with pytest.raises(InputError, match="neither a file nor a configuration"):
        load_split_model("COCO-Detection/no_such.yaml", "none.pth")
