# SPDX-License-Identifier: BSD-3-Clause
"""How much do decoded features lack: as an error of the features, and to the detector?"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

from vcm_plugin.diff_fchm.machine import ivn
from vcm_plugin.split.backbone import with_p6
from vcm_plugin.split_points import SPLIT_POINTS
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.schedules import FeatureSchedule

LAYERS = tuple(SPLIT_POINTS["fpn"])
STATISTICS_PICTURES = 64
MARGIN = 12  # pixels of the network input around an object's box


def draw_batch(store: FeatureStore, schedule: FeatureSchedule, draw: int):
    """Batch number `draw`: its generator of random numbers, (height, width) of the network input,
    the pictures, and p2..p5 on the detector's device. Seeds torch too."""
    rng = np.random.default_rng((schedule.seed, draw))
    torch.manual_seed(int(rng.integers(1 << 62)))
    size, pictures = store.draw(schedule.batch_size, rng)
    device = store.detector.model.rpn.head.cls_logits.weight.device
    layers = {name: x.to(device) for name, x in store.features(size, pictures).items()}
    return rng, size, pictures, layers


def weighted_mse(
    errors: dict[str, torch.Tensor], boxes: list[np.ndarray], schedule: FeatureSchedule
) -> torch.Tensor:
    """Sum of w_l MSE_l of p2..p5, cells far from every object counting background_weight."""
    finest = errors[LAYERS[0]]
    near = near_objects(boxes, finest.shape[-2:]).to(finest.device)
    distortion = 0.0
    for name, weight in zip(LAYERS, schedule.layer_weights):
        cells = near.lerp(torch.ones_like(near), schedule.background_weight)
        distortion += weight * (cells * errors[name].square()).mean()
        near = F.max_pool2d(near, 2, ceil_mode=True)
    return distortion


def near_objects(boxes: list[np.ndarray], grid: tuple[int, int]) -> torch.Tensor:
    """1 for cells of p2 (N, 1, h, w) within MARGIN of a box x0, y0, x1, y1, else 0."""
    near = torch.zeros(len(boxes), 1, *grid)
    for plane, found in zip(near, boxes):
        for x0, y0, x1, y1 in found:
            left, top = (max(0, math.floor((v - MARGIN) / 4)) for v in (x0, y0))
            right, bottom = (math.ceil((v + MARGIN) / 4) for v in (x1, y1))
            plane[:, top:bottom, left:right] = 1.0
    return near


def task_loss(detector, features, size, targets, weights: torch.Tensor) -> torch.Tensor:
    """The losses of NN-Part2 on decoded features, each picture's gradient times its weight.

    The value is the plain sum of the losses times the mean weight, so that it can be reported.
    """
    weighted = {}
    for name, x in features.items():
        scaled = x * (weights / weights.mean()).view(-1, 1, 1, 1)
        weighted[name] = scaled + (x - scaled).detach()
    detector.train()  # its normalisation is frozen; only the losses depend on the mode
    sizes = [size] * len(targets)
    targets = [{k: v.to(weights.device) for k, v in target.items()} for target in targets]
    images = ImageList(weighted["p2"], sizes)
    proposals, rpn = detector.rpn(images, with_p6(weighted), targets)
    _, heads = detector.roi_heads(weighted, proposals, sizes, targets)
    detector.eval()
    return weights.mean() * sum([*rpn.values(), *heads.values()])


@torch.no_grad()
def feature_statistics(
    store: FeatureStore, schedule: FeatureSchedule
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mean and spread (4, C) of every channel of p2..p5, and the typical width of the range."""
    rng = np.random.default_rng((schedule.seed, 1 << 40))
    means, squares, widths = [], [], []
    for _ in range(max(1, STATISTICS_PICTURES // schedule.batch_size)):
        size, pictures = store.draw(schedule.batch_size, rng)
        layers = store.features(size, pictures)
        low, high = ivn.feature_range(layers, size)
        widths.append(high - low)
        means.append(torch.stack([layers[name].mean((0, 2, 3)) for name in LAYERS]))
        squares.append(torch.stack([layers[name].square().mean((0, 2, 3)) for name in LAYERS]))
    mean = torch.stack(means).mean(0)
    std = (torch.stack(squares).mean(0) - mean.square()).clamp(min=1e-8).sqrt()
    return mean, std, float(np.mean(widths))
