# SPDX-License-Identifier: BSD-3-Clause
"""How much do decoded features lack: as an error of the features, and to the detector?"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.image_list import ImageList

from vcm_plugin.diff_fchm.machine import ivn
from vcm_plugin.split.backbone import with_p6
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.schedules import FeatureSchedule

STATISTICS_PICTURES = 64
MARGIN = 12  # pixels of the network input around an object's box


def draw_batch(store: FeatureStore, schedule: FeatureSchedule, draw: int):
    """Batch number `draw`: its generator of random numbers, (height, width) of the network input,
    the pictures, and their layers on the detector's device. Seeds torch too."""
    rng = np.random.default_rng((schedule.seed, draw))
    torch.manual_seed(int(rng.integers(1 << 62)))
    size, pictures = store.draw(schedule.batch_size, rng)
    device = next(store.detector.model.parameters()).device
    layers = {name: x.to(device) for name, x in store.features(size, pictures).items()}
    return rng, size, pictures, layers


def weighted_mse(
    errors: dict[str, torch.Tensor],
    boxes: list[np.ndarray],
    schedule: FeatureSchedule,
    stride: int = 4,
) -> torch.Tensor:
    """Sum of w_l MSE_l of the layers, cells far from every object counting background_weight.

    errors: of each layer, finest first, each at half the size of the one before. stride: of the
    first.
    """
    finest = next(iter(errors.values()))
    near = near_objects(boxes, finest.shape[-2:], stride).to(finest.device)
    distortion = 0.0
    for error, weight in zip(errors.values(), schedule.layer_weights):
        cells = near.lerp(torch.ones_like(near), schedule.background_weight)
        distortion += weight * (cells * error.square()).mean()
        near = F.max_pool2d(near, 2, ceil_mode=True)
    return distortion


def near_objects(boxes: list[np.ndarray], grid: tuple[int, int], stride: int = 4) -> torch.Tensor:
    """1 for cells of a layer (N, 1, h, w) within MARGIN of a box x0, y0, x1, y1, else 0."""
    near = torch.zeros(len(boxes), 1, *grid)
    for plane, found in zip(near, boxes):
        for x0, y0, x1, y1 in found:
            left, top = (max(0, math.floor((v - MARGIN) / stride)) for v in (x0, y0))
            right, bottom = (math.ceil((v + MARGIN) / stride) for v in (x1, y1))
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
    """Mean and spread (layers, C) of every channel, and the typical width of the range; filled up
    with 0 and 1 where a layer has fewer channels than the others."""
    rng = np.random.default_rng((schedule.seed, 1 << 40))
    means, squares, widths = [], [], []
    for _ in range(max(1, STATISTICS_PICTURES // schedule.batch_size)):
        size, pictures = store.draw(schedule.batch_size, rng)
        layers = store.features(size, pictures)
        low, high = ivn.feature_range(layers, size)
        widths.append(high - low)
        means.append([x.mean((0, 2, 3)) for x in layers.values()])
        squares.append([x.square().mean((0, 2, 3)) for x in layers.values()])
    mean = [torch.stack(found).mean(0) for found in zip(*means)]
    square = [torch.stack(found).mean(0) for found in zip(*squares)]
    std = [(s - m.square()).clamp(min=1e-8).sqrt() for s, m in zip(square, mean)]
    return _filled(mean, 0.0), _filled(std, 1.0), float(np.mean(widths))


def _filled(rows: list[torch.Tensor], value: float) -> torch.Tensor:
    """Rows of different lengths as one tensor."""
    return pad_sequence(rows, batch_first=True, padding_value=value)
