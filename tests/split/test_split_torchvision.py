# SPDX-License-Identifier: BSD-3-Clause
"""Does the torchvision runtime split a detector without changing what it detects?"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from split_parity import (
    ANSWER_SIZES,
    ANSWERS,
    MODELS,
    answers,
    assert_same_answers,
    drawn_picture,
    random_checkpoint,
    reproducible_checkpoint,
    tiny_config,
)

from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split import load_split_model
from vcm_plugin.split.backbone import with_p6
from vcm_plugin.split.geometry import network_input_size, padded_size
from vcm_plugin.split.rcnn import DetectronAnchors, DetectronRoiAlign, build_rcnn
from vcm_plugin.split.torchvision import TorchvisionDetector, network_input, paste_masks

CONFIG = tiny_config()
SIZES = [(96, 150), (150, 96), (97, 161), (33, 300), (1, 40), (40, 1), (1, 1), (200, 300)]


@pytest.fixture(scope="module")
def checkpoint():
    return random_checkpoint(CONFIG)


@pytest.fixture(scope="module")
def detector(checkpoint):
    return TorchvisionDetector(CONFIG, checkpoint)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((427, 640), (800, 1199)),
        ((640, 427), (1199, 800)),
        ((480, 640), (800, 1067)),
        ((1080, 1920), (750, 1333)),
        ((500, 500), (800, 800)),
        ((1, 1), (800, 800)),
        ((1, 1333), (1, 1333)),
    ],
)
def test_network_input_sizes_are_detectron2s(source, expected):
    assert network_input_size(source, 800, 1333) == expected


def test_network_input_size_degenerate():
    assert network_input_size((333, 100), 0, 10) == (333, 100)
    with pytest.raises(InputError, match="1x5000.*shrinks to 0x1333"):
        network_input_size((1, 5000), 800, 1333)
    assert padded_size((800, 1199)) == (800, 1216)
    assert padded_size((1, 32)) == (32, 32)


def test_network_input_is_pillows_resize_in_bgr():
    picture = drawn_picture(97, 161)
    x = network_input(picture, CONFIG)
    resized = np.asarray(Image.fromarray(picture).resize((159, 96), Image.Resampling.BILINEAR))
    assert x.dtype == torch.float32 and tuple(x.shape) == (3, 96, 159)
    assert np.array_equal(x.numpy(), resized[:, :, ::-1].transpose(2, 0, 1))
    rgb = network_input(picture, replace(CONFIG, input_format="RGB"))
    assert torch.equal(rgb, x.flip(0))


def test_padding_is_zero_after_normalisation():
    model = build_rcnn(CONFIG).eval()
    images, _ = model.transform([network_input(drawn_picture(97, 161), CONFIG)])
    assert tuple(images.tensors.shape) == (1, 3, 96, 160)
    assert (images.tensors[..., 159:] == 0).all() and (images.tensors[..., 158] != 0).any()


@pytest.mark.parametrize("size", SIZES)
def test_every_picture_size(detector, size):
    picture = drawn_picture(*size)
    features = detector.nn_part1(picture)
    assert features.source_size == size
    height, width = padded_size(features.input_size)
    for name, layer in features.layers.items():
        stride = 2 ** int(name[1:])
        assert tuple(layer.shape) == (16, height // stride, width // stride)
    found = detector.nn_part2(features.require_finite())
    n = len(found)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.classes.dtype == np.int64 and found.masks.dtype == bool
    assert found.boxes.shape == (n, 4) and found.masks.shape == (n, *size)
    assert (np.diff(found.scores) <= 0).all() and (found.scores > CONFIG.score_thresh).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all() and (found.boxes >= 0).all()
    assert (found.boxes[:, [0, 2]] <= size[1]).all() and (found.boxes[:, [1, 3]] <= size[0]).all()
    assert ((0 <= found.classes) & (found.classes < CONFIG.num_classes)).all()


def test_the_answers_are_those_of_detectron2():
    """Layers and detections that the real Detectron2 gave for reproducible weights."""
    detector = TorchvisionDetector(CONFIG, reproducible_checkpoint(CONFIG))
    stored = json.loads(ANSWERS.read_text())
    assert stored["runtime"] == "detectron2 0.6"
    assert_same_answers(answers(detector, ANSWER_SIZES), stored["pictures"])


@pytest.mark.parametrize("size", [(96, 150), (61, 97)])
def test_split_points_give_the_same_detections(checkpoint, detector, size):
    picture = drawn_picture(*size)
    expected = detector.nn_part2(detector.nn_part1(picture))
    assert len(expected) >= 10
    shapes = {"c2": ["c2", "c3", "c4", "c5"], "r2": ["r2"]}
    for split_point, names in shapes.items():
        other = TorchvisionDetector(CONFIG, checkpoint, split_point)
        features = other.nn_part1(picture)
        assert list(features.layers) == names
        found = other.nn_part2(features)
        assert np.array_equal(found.boxes, expected.boxes)
        assert np.array_equal(found.scores, expected.scores)
        assert np.array_equal(found.masks, expected.masks)


def test_inputs_are_not_modified(checkpoint):
    picture = drawn_picture(96, 150)
    before = picture.copy()
    for split_point in ("fpn", "c2", "r2"):
        detector = TorchvisionDetector(CONFIG, checkpoint, split_point)
        features = detector.nn_part1(picture)
        layers = {name: layer.clone() for name, layer in features.layers.items()}
        detector.nn_part2(features)
        assert all(torch.equal(layers[name], layer) for name, layer in features.layers.items())
        assert not any(layer.requires_grad for layer in features.layers.values())
    assert np.array_equal(picture, before)


def test_features_may_train_a_codec(detector):
    """Features of NN-Part1 enter autograd: they are no inference-mode tensors."""
    layer = detector.nn_part1(drawn_picture(64, 64)).layers["p2"]
    weight = torch.ones(1, requires_grad=True)
    (layer * weight).square().mean().backward()
    assert weight.grad is not None


def test_the_split_is_the_whole_model(detector):
    """nn_part2 after nn_part1 is torchvision's own forward pass of the same model."""
    picture = drawn_picture(96, 150)
    with torch.no_grad():
        (whole,) = detector.model([network_input(picture, CONFIG)])
    found = detector.nn_part2(detector.nn_part1(picture))
    assert np.array_equal(found.boxes, whole["boxes"].numpy())
    assert np.array_equal(found.classes, whole["labels"].numpy() - 1)


def test_p6_is_every_second_sample_of_p5():
    p5 = torch.arange(35.0).reshape(1, 1, 5, 7)
    assert torch.equal(with_p6({"p5": p5})["p6"], p5[..., ::2, ::2])


def test_anchors_are_unrounded_and_on_fixed_strides():
    anchors = DetectronAnchors(CONFIG)
    sizes = [(40, 56), (20, 28), (10, 14), (5, 7), (3, 4)]  # p5 has odd sides: p6 is rounded up
    layers = [torch.zeros(1, 1, *size) for size in sizes]

    class Images:
        image_sizes = [(150, 220)]

    (boxes,) = anchors(Images, layers)
    assert len(boxes) == 3 * sum(h * w for h, w in sizes)
    last = boxes[-12 * 3 :].reshape(3, 4, 3, 4)  # p6, (rows, columns, anchors, 4)
    assert torch.allclose(last[1, 2, 1], torch.tensor([128 - 128.0, 64 - 128, 128 + 128, 64 + 128]))
    wide = last[0, 0, 0]  # ratio 0.5: 256^2 = w * h, h = w / 2
    assert torch.allclose(wide[2:] - wide[:2], torch.tensor([362.0387, 181.0193]))


def test_boxes_are_pooled_from_the_level_of_their_size():
    layers = {f"p{i}": torch.full((1, 1, 64, 64), float(i)) for i in (2, 3, 4, 5)}
    sides = [0.5, 10.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 2000.0]
    boxes = torch.tensor([[0.0, 0.0, side, side] for side in sides])
    pooled = DetectronRoiAlign(2, 0)(layers, [boxes], [(2048, 2048)])
    assert pooled[:, 0, 0, 0].tolist() == [2, 2, 2, 3, 3, 4, 4, 5, 5]


def test_masks_are_pasted_at_pixel_centres():
    masks = torch.ones(2, 1, 4, 4)
    masks[1, 0, :, 2:] = 0
    boxes = torch.tensor([[2.0, 1.0, 6.0, 4.0], [0.0, 0.0, 8.0, 6.0]])
    pasted = paste_masks(masks, boxes, (6, 8))
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[1:4, 2:6] = True
    assert torch.equal(pasted[0], expected)
    assert pasted[1, :, :4].all() and not pasted[1, :, 4:].any()


def test_nothing_found_is_an_empty_result(checkpoint):
    detector = TorchvisionDetector(replace(CONFIG, score_thresh=1.0), checkpoint)
    found = detector.nn_part2(detector.nn_part1(drawn_picture(96, 150)))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4) and found.masks.shape == (0, 96, 150)


def test_boxes_only_detectors_have_no_masks():
    config = replace(CONFIG, mask_on=False)
    detector = TorchvisionDetector(config, random_checkpoint(config))
    found = detector.nn_part2(detector.nn_part1(drawn_picture(96, 150)))
    assert len(found) >= 10 and found.masks is None


def test_extreme_features_do_not_stop_the_second_part(detector):
    features = detector.nn_part1(drawn_picture(96, 150))
    for value in (0.0, 1e30, float("inf"), float("nan")):
        layers = {name: torch.full_like(layer, value) for name, layer in features.layers.items()}
        found = detector.nn_part2(replace(features, layers=layers))
        assert np.isfinite(found.boxes).all()


def test_features_of_another_detector_are_refused(checkpoint, detector):
    features = detector.nn_part1(drawn_picture(96, 150))
    other = TorchvisionDetector(CONFIG, checkpoint, "c2")
    with pytest.raises(InputError, match="expected split point c2, found fpn"):
        other.nn_part2(features)
    narrow = {name: layer[:8] for name, layer in features.layers.items()}
    with pytest.raises(InputError, match=r"layer p2: this detector makes \(16, 24, 40\)"):
        detector.nn_part2(replace(features, layers=narrow))
    small = FeaturePyramid(features.layers, (96, 150), (10, 10))
    with pytest.raises(InputError, match="layer p2"):
        detector.nn_part2(small)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_pictures_of_another_kind_are_refused(detector, picture):
    with pytest.raises(InputError, match="expected uint8 RGB"):
        detector.nn_part1(picture)


def test_identity_is_of_values_and_content(tmp_path, checkpoint):
    torch.save({"model": checkpoint.weights}, tmp_path / "a.pth")
    detector = load_split_model(CONFIG, tmp_path / "a.pth", runtime="torchvision")
    identity = detector.identity()
    assert identity["config_sha256"] == CONFIG.sha256()
    assert identity["runtime"].startswith("torchvision ") and "+" not in identity["runtime"]
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes())
    again = load_split_model(CONFIG, tmp_path / "b.pth", runtime="torchvision")
    assert again.identity() == identity
    other = load_split_model(CONFIG, tmp_path / "b.pth", "r2", runtime="torchvision")
    assert other.identity() != identity


def test_weights_named_in_the_file_lie_beside_it(tmp_path, checkpoint):
    path = tmp_path / "detector.yaml"
    text = (MODELS / "bccd_faster_rcnn.yaml").read_text()
    path.write_text(text.replace('WEIGHTS: ""', "WEIGHTS: here.pth"))
    torch.save({"model": checkpoint.weights}, tmp_path / "here.pth")
    with pytest.raises(InputError, match="here.pth.*does not fit"):
        load_split_model(path, runtime="torchvision")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"detector": "/no/such.yaml", "weights": "w.pth"}, "/no/such.yaml"),
        ({"detector": CONFIG}, "no weights given"),
        ({"detector": MODELS / "bccd_faster_rcnn.yaml"}, "no weights given"),
        ({"detector": CONFIG, "weights": "none.pth"}, "none.pth"),
        ({"detector": CONFIG, "weights": "none.pth", "runtime": "onnx"}, "runtime: expected auto"),
    ],
)
def test_bad_requests_end_in_one_line(arguments, message):
    with pytest.raises(InputError, match=message):
        load_split_model(**{"runtime": "torchvision", **arguments})


def test_unknown_split_point(checkpoint):
    with pytest.raises(InputError, match="expected one of fpn, c2, r2, .*found 'p2'"):
        TorchvisionDetector(CONFIG, checkpoint, "p2")


def test_training_takes_a_step():
    model = build_rcnn(replace(CONFIG, norm="BN"))
    masks = torch.zeros(1, 64, 96, dtype=torch.uint8)
    masks[0, 10:40, 20:60] = 1
    target = {
        "boxes": torch.tensor([[20.0, 10, 60, 40]]),
        "labels": torch.tensor([3]),
        "masks": masks,
    }
    losses = model([torch.rand(3, 64, 96) * 255], [target])
    assert {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness"} <= losses.keys()
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


def test_the_torchvision_runtime_never_imports_detectron2():
    code = "import sys, vcm_plugin.split; sys.exit('detectron2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_detectron2_its_runtime_is_refused_and_auto_is_torchvision(
    monkeypatch, tmp_path, checkpoint
):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.delitem(sys.modules, "vcm_plugin.split.detectron2", raising=False)
    torch.save({"model": checkpoint.weights}, tmp_path / "a.pth")
    assert load_split_model(CONFIG, tmp_path / "a.pth").runtime.startswith("torchvision")
    with pytest.raises(InputError, match="runtime: detectron2: needs Detectron2"):
        load_split_model(CONFIG, tmp_path / "a.pth", runtime="detectron2")
    with pytest.raises(InputError, match="names of the model zoo need Detectron2"):
        load_split_model("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")
    with pytest.raises(InputError, match="needs Detectron2"):
        load_split_model(CONFIG, "https://weights.example/a.pth")
