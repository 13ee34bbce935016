# SPDX-License-Identifier: BSD-3-Clause
"""What the split tests share: a picture, random weights with features near 1, a comparison."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import vcm_plugin
from vcm_plugin.split.checkpoint import Checkpoint
from vcm_plugin.split.config import DetectorConfig, load_config
from vcm_plugin.split.detections import Detections
from vcm_plugin.split.names import to_detectron2_state_dict
from vcm_plugin.split.rcnn import build_rcnn
from vcm_plugin.split.torchvision import network_input
from vcm_plugin.testsets import minictc

WEIGHTS = Path(vcm_plugin.__file__).parent / "weights"
torch.set_num_threads(1)  # the networks here are too small to share among threads
# What the real Detectron2 answers with reproducible weights; run this file to write it.
ANSWERS = Path(__file__).parent / "data" / "detectron2_answers.json"
ANSWER_SIZES = [(96, 150), (150, 97), (97, 161), (61, 300)]
MODELS = Path(__file__).parents[1] / "cfg" / "models"


def tiny_config() -> DetectorConfig:
    """The built-in detector's architecture at a fraction of its width and input size."""
    return replace(
        load_config(MODELS / "minictc_mask_rcnn.yaml"),
        stem_out_channels=8,
        res2_out_channels=8,
        fpn_channels=16,
        box_fc_dim=32,
        mask_conv_dim=8,
        min_size_test=96,
        max_size_test=160,
        rpn_pre_nms_topk_test=100,
        rpn_post_nms_topk_test=30,
    )


def drawn_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth noise with a few hard-edged boxes: uint8 RGB (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    picture = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(8):
        y, x = rng.integers(0, height), rng.integers(0, width)
        h, w = rng.integers(4, max(5, height // 3)), rng.integers(4, max(5, width // 3))
        picture[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return picture


def drawn_scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture of the mini-CTC's validation split, resized."""
    picture, _ = minictc.draw_picture(minictc.FIRST_SEED["val"] + seed)
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized)


def random_checkpoint(config: DetectorConfig, picture: np.ndarray | None = None) -> Checkpoint:
    """Random weights of a detector whose layers answer a picture with a standard deviation near 1.

    The picture runs through the fresh model. On its way every normalisation takes the statistics
    of what it sees, and every other layer is scaled to a chosen standard deviation.
    """
    torch.manual_seed(0)
    picture = drawn_picture(120, 160) if picture is None else picture
    model = build_rcnn(replace(config, norm="FrozenBN")).eval()
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            hooks.append(module.register_forward_pre_hook(_normalise))
        elif isinstance(module, nn.Linear | nn.ConvTranspose2d) or (
            isinstance(module, nn.Conv2d) and module.bias is not None
        ):
            std = {"bbox_pred": 0.5, "cls_score": 3.0, "mask_fcn_logits": 3.0, "cls_logits": 3.0}
            hooks.append(module.register_forward_hook(_scale(std.get(name.split(".")[-1], 1.0))))
    with torch.no_grad():
        model([network_input(picture, config)])
    for hook in hooks:
        hook.remove()
    return Checkpoint(to_detectron2_state_dict(model), "random", "random weights")


def reproducible_checkpoint(config: DetectorConfig) -> Checkpoint:
    """Weights from raw PCG64 doubles: the same on every machine and in every release."""
    weights = {}
    for name, value in to_detectron2_state_dict(build_rcnn(config)).items():
        random = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).random
        draw = torch.from_numpy(random(tuple(value.shape)) * 2 - 1)
        if value.ndim == 1:  # normalisations and biases
            centre = 1.0 if name.endswith(("norm.weight", "running_var")) else 0.0
            weights[name] = (centre + 0.2 * draw).float()
            continue
        fan_in = value[0].numel()
        gain = 8.0 if "cls_score" in name or "objectness" in name else 1.4
        weights[name] = (draw * gain * (1.5 / fan_in) ** 0.5).float()
    return Checkpoint(weights, "reproducible", "reproducible weights")


def answers(detector, sizes: list[tuple[int, int]]) -> list[dict]:
    """What a detector makes of smooth pictures of these sizes: layers in brief, best detections."""
    results = []
    for size in sizes:
        y, x = np.mgrid[: size[0], : size[1]]
        picture = np.stack(
            [(x * 3 + y) % 256, (x * y // 7) % 256, (x // 9 * y // 9 * 41) % 256], -1
        )
        features = detector.nn_part1(picture.astype(np.uint8))
        found = detector.nn_part2(features)
        results.append(
            {
                "size": list(size),
                "input_size": list(features.input_size),
                "layers": {
                    name: [float(layer.mean()), float(layer.std())]
                    for name, layer in features.layers.items()
                },
                "count": len(found),
                "boxes": found.boxes[:10].round(3).tolist(),
                "scores": found.scores[:10].round(5).tolist(),
                "classes": found.classes[:10].tolist(),
                "mask_areas": found.masks[:10].sum((1, 2)).tolist(),
            }
        )
    return results


def assert_same_answers(ours: list[dict], theirs: list[dict]) -> None:
    """Compare two results of `answers`, leaving room for the rounding of another processor."""
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("size", "input_size", "classes"):
            assert mine[name] == other[name], name
        assert abs(mine["count"] - other["count"]) <= 1
        for name, value in other["layers"].items():
            np.testing.assert_allclose(mine["layers"][name], value, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(mine["boxes"], other["boxes"], atol=0.05)
        np.testing.assert_allclose(mine["scores"], other["scores"], atol=1e-3)
        np.testing.assert_allclose(mine["mask_areas"], other["mask_areas"], rtol=0.01, atol=3)


def _normalise(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    x = inputs[0].transpose(0, 1).flatten(1)
    module.running_mean.copy_(x.mean(dim=1))
    module.running_var.copy_(x.var(dim=1) + 1e-3)
    module.weight.uniform_(0.5, 1.0)
    module.bias.normal_(std=0.1)


def _scale(std: float):
    seen = []

    def hook(module: nn.Module, _, output: torch.Tensor) -> torch.Tensor:
        if seen:
            return output
        seen.append(True)
        module.weight.mul_(std / output.std())
        module.bias.normal_(std=0.1)
        shape = (1, -1) if output.ndim == 2 else (1, -1, 1, 1)
        return output * (std / output.std()) + module.bias.reshape(shape)

    return hook


@dataclass(frozen=True)
class Difference:
    """The largest differences between the detections of two runtimes."""

    detections: int
    boxes: float  # pixels
    scores: float
    mask_pixels: int  # that differ
    mask_area: int  # that are set


def compare(ours: Detections, theirs: Detections) -> Difference:
    """Pair detections of the same class by their boxes; both sides must have the same number."""
    assert len(ours) == len(theirs)
    boxes = scores = 0.0
    mask_pixels = mask_area = 0
    free = set(range(len(theirs)))
    for i in range(len(ours)):
        distance = {
            j: float(np.abs(ours.boxes[i] - theirs.boxes[j]).max())
            for j in free
            if ours.classes[i] == theirs.classes[j]
        }
        assert distance, f"detection {i} of class {ours.classes[i]} has no counterpart"
        j = min(distance, key=distance.__getitem__)
        free.remove(j)
        boxes = max(boxes, distance[j])
        scores = max(scores, abs(float(ours.scores[i] - theirs.scores[j])))
        if ours.masks is not None:
            mask_pixels += int((ours.masks[i] != theirs.masks[j]).sum())
            mask_area += int(theirs.masks[j].sum())
    return Difference(len(ours), boxes, scores, mask_pixels, mask_area)


def drawn_cells(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A blood smear as a microscope shows it, roughly: reddish cells, pale inside, on grey."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    picture = np.full((height, width, 3), (190.0, 200.0, 195.0))
    radius = 0.1 * min(height, width)
    for _ in range(int(height * width / (5 * radius**2))):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        distance = np.hypot(y - cy, (x - cx) * rng.uniform(0.85, 1.15)) / radius
        rim = np.clip((1 - distance) * 8, 0, 1) * (0.55 + 0.45 * np.clip(distance * 1.4, 0, 1))
        colour = np.array([185.0, 140.0, 140.0]) + rng.normal(0, 6)
        picture += (colour - picture) * (0.8 * rim)[..., None]
    picture += rng.normal(0, 3, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    import json

    from vcm_plugin.split.detectron2 import Detectron2Detector, read_config

    config = tiny_config()
    detector = Detectron2Detector(read_config(config), reproducible_checkpoint(config))
    results = {"runtime": detector.runtime, "pictures": answers(detector, ANSWER_SIZES)}
    ANSWERS.parent.mkdir(exist_ok=True)
    ANSWERS.write_text(json.dumps(results, indent=1) + "\n")
