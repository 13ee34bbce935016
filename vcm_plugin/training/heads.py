# SPDX-License-Identifier: BSD-3-Clause
"""Train the transforms of latent_scalable and multi_head with the detector's own losses.

    sum over both codecs of  task_weight * (losses of NN-Part2) + feature_weight * sum of w_l MSE_l

What `train transform` has left, goes on: the picture codec is frozen now, so that its files, and
the weights of all that code them, stay. Latents are rounded as a codec that does not weigh bits
against errors does; the machine layer's synthesis makes features of what the transforms find, and
NN-Part2 reads them with the ground truth of the training set. The MSE is that of transform.py, over
the variance of a layer, and as in vfcn.py cells far from every object count background_weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from anchors.feature_head import FeatureHead
from anchors.picture_config import TransformConfig
from anchors.picture_learned import PictureLearnedCodec
from anchors.picture_networks import LEVELS
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import InputError
from vcm_plugin.split.config import DetectorConfig
from vcm_plugin.split.geometry import network_input_size, padded_size
from vcm_plugin.testsets.coco import CocoDataset
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training import loop
from vcm_plugin.training.feature_loss import draw_batch, task_loss, weighted_mse
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.picture import normalised, told
from vcm_plugin.training.schedules import HeadsTraining
from vcm_plugin.training.transform import features_from


@dataclass(frozen=True)
class TransformConfigs:
    """Sizes of the transforms, by codec."""

    each: dict[str, TransformConfig]


class Transforms(nn.Module):
    """The transforms of several codecs that read the same latents."""

    def __init__(self, heads: dict[str, FeatureHead]):
        super().__init__()
        self.config = TransformConfigs({name: head.config for name, head in heads.items()})
        self.each = nn.ModuleDict({name: head.model for name, head in heads.items()})
        self.requires_grad_(True)

    def forward(self, y_hat: torch.Tensor, octaves: torch.Tensor) -> dict[str, torch.Tensor]:
        """y_hat (N, C, h, w), multiplied by its step -> y_m (N, C, h, w) of each codec."""
        return {name: transform(y_hat, octaves) for name, transform in self.each.items()}


@dataclass(frozen=True)
class CodedPictures:
    """Pictures with features and ground truth, and the frozen codecs around the transforms."""

    features: FeatureStore
    picture: PictureLearnedCodec
    machine: MachineCodec

    @property
    def detector(self):
        """The frozen detector, for the batches and the checkpoint."""
        return self.features.detector

    @torch.no_grad()
    def y_hat(self, pictures: list[int], step: torch.Tensor) -> torch.Tensor:
        """Decoded latents (N, C, h, w) of pictures of one size, at steps (N, 1, 1, 1)."""
        paths = [self.features.dataset.pictures[n].path for n in pictures]
        samples = np.stack([read_picture(path).transpose(2, 0, 1) for path in paths])
        source = torch.from_numpy(samples).float().to(step.device)
        return (self.picture.model.g_a(normalised(source)) / step).round() * step


def train(
    heads: dict[str, FeatureHead],
    store: CodedPictures,
    schedule: HeadsTraining,
    folder: Path,
    report=lambda line: None,
) -> Transforms:
    """Train the transforms of these heads, or go on with the checkpoint in `folder`; returns them
    with averaged weights."""
    accelerator = loop.start(schedule, folder, report)
    model = Transforms(heads)
    store.machine.to(str(accelerator.device))
    store.picture.to(str(accelerator.device))
    store.detector.model.to(accelerator.device)
    made_from = {"pictures": store.features.digest, "picture": store.picture.sha256}
    made_from |= {name: head.sha256 for name, head in heads.items()}
    path = folder / "heads_state.pth"
    return loop.fit(accelerator, model, store, schedule, path, loss_terms, report, made_from)


def own_sized(dataset: CocoDataset, config: DetectorConfig) -> CocoDataset:
    """The pictures that the detector neither resizes nor pads, as these codecs make features of a
    picture at its own size. Raises InputError where there is none."""
    limits = config.min_size_test, config.max_size_test
    others = set()
    for entry in dataset.pictures:
        size = (entry.height, entry.width)
        if padded_size(network_input_size(size, *limits)) != size:
            others.add(entry.image_id)
    if len(others) == len(dataset.pictures):
        raise InputError(
            "expected pictures that the detector neither resizes nor pads, with sides in multiples "
            f"of 32, the shorter one {limits[0]} pixels, found none; resize them beforehand"
        )
    return dataset.without(others)


def loss_terms(
    model, store: CodedPictures, schedule: HeadsTraining, draw: int, with_task: bool
) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    rng, size, pictures, layers = draw_batch(store.features, schedule, draw)
    each = getattr(model, "module", model).config.each
    qps = rng.uniform(*next(iter(each.values())).qps, len(pictures))
    step, octaves = told(qps, next(iter(layers.values())))
    variances = {layer: x.var(dim=(0, 2, 3)).mean().clamp(min=1e-6) for layer, x in layers.items()}
    boxes, targets = store.features.boxes(size, pictures), store.features.targets(size, pictures)
    even = step.new_ones(len(pictures))
    terms = {}
    for name, y_m in model(store.y_hat(pictures, step / LEVELS), octaves).items():
        made = features_from(y_m, store.machine)
        errors = {layer: (made[layer] - x) / variances[layer].sqrt() for layer, x in layers.items()}
        terms[f"{name}_mse"] = schedule.feature_weight * weighted_mse(errors, boxes, schedule)
        if with_task:
            losses = task_loss(store.detector.model, made, size, targets, even)
            terms[f"{name}_task"] = schedule.task_weight * losses
    return terms
