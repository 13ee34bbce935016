# SPDX-License-Identifier: BSD-3-Clause
"""Train the codecs of which detector and person read the same latents: latent_scalable, multi_head.

    weight(q) * (omega_0 D + lambda R + omega (L_scalable + L_multi)),   lambda = rate_weight * q^2

Equation 3 of the survey (objectives.py), as in picture.py. Its machine losses, one for each codec:
how far the transform of the decoded latents is from the latents of the machine layer for the same
picture, plus how far the features that its frozen synthesis makes are from the detector's, squared
errors over variances. The picture codec begins with trained weights; its analysis, entropy model
and synthesis, and both transforms, train together, so that the first channels of y learn what a
detector needs. One analysis serves both codecs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from anchors.latent_transform import LatentTransform
from anchors.picture_config import HEADS, PictureConfig, TransformConfig
from anchors.picture_networks import LEVELS, Coded, PictureNetworks
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.files import sha256_of_file
from vcm_plugin.training import loop
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.picture import balanced_terms, features_of, lack, normalised, told
from vcm_plugin.training.picture_samples import PictureStore
from vcm_plugin.training.schedules import TransformTraining

STATISTICS_CROPS = 64
RIDGE = 1e-3  # of the mean square of an input


@dataclass(frozen=True)
class HeadsConfig:
    """Sizes of all networks that are trained together."""

    picture: PictureConfig
    transform: TransformConfig


class Heads(nn.Module):
    """A learned picture codec, and the transforms of both codecs by name: of the first channels of
    its latents, and of all."""

    def __init__(self, config: HeadsConfig):
        super().__init__()
        self.config = config
        self.picture = PictureNetworks(config.picture)
        sizes = (config.transform, replace(config.transform, latents=config.picture.latents))
        self.each = nn.ModuleDict(
            {name: LatentTransform(size) for name, size in zip(HEADS, sizes, strict=True)}
        )

    def forward(
        self, x: torch.Tensor, step: torch.Tensor, octaves: torch.Tensor
    ) -> tuple[Coded, dict[str, torch.Tensor]]:
        """Pictures as PictureNetworks takes them -> as decoded, and y_m of each codec."""
        coded = self.picture(x, step, octaves)
        return coded, {name: head(coded.y_hat, octaves) for name, head in self.each.items()}


@dataclass(frozen=True)
class Targets:
    """What the machine losses compare with: crops of pictures, and the machine layer, frozen."""

    pictures: PictureStore
    machine: MachineCodec

    @property
    def detector(self):
        """The frozen detector, for the checkpoint."""
        return self.pictures.detector

    @torch.no_grad()
    def of(self, source: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """RGB pictures (N, 3, h, w), 0 .. 255 -> y_m and p2..p5."""
        layers = features_of(self.detector, source)
        width, vfcn = self.machine.model.typical_width, self.machine.model
        levels = {level: layers[name] / width for level, name in vfcn.config.levels.items()}
        return vfcn.analysis(levels, _typical(self.machine)), layers

    def features(self, y_m: torch.Tensor) -> dict[str, torch.Tensor]:
        """p2..p5 that the machine layer makes of its latents; differentiable."""
        return features_from(y_m, self.machine)


def train(
    config: HeadsConfig,
    store: Targets,
    schedule: TransformTraining,
    folder: Path,
    init: Path,
    report=lambda line: None,
) -> Heads:
    """Train, or go on with the checkpoint in `folder`; returns the model with averaged weights.

    init: weights of the picture codec of the same sizes, where it begins.
    """
    accelerator = loop.start(schedule, folder, report)
    torch.manual_seed(schedule.seed)
    model = Heads(config).to(memory_format=torch.channels_last)
    path = folder / "transform_state.pth"
    if not path.exists():
        model.picture.load_state_dict(loop.starting_weights(init, "picture"))
        start_linear(model, store, schedule)
    store.machine.to(str(accelerator.device))
    store.detector.model.to(accelerator.device)
    made_from = {
        "pictures": store.pictures.sha256(),
        "picture": sha256_of_file(init),
        "machine": store.machine.latents_sha256,
    }
    return loop.fit(accelerator, model, store, schedule, path, loss_terms, report, made_from)


def loss_terms(model, store: Targets, schedule: TransformTraining, draw: int, _: bool) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    rng = np.random.default_rng((schedule.seed, draw))
    torch.manual_seed(int(rng.integers(1 << 62)))
    device = next(model.parameters()).device
    source = store.pictures.draw(schedule.batch_size, schedule.crop, rng).to(device)
    config = getattr(model, "module", model).config.transform
    qps = rng.uniform(*config.qps, schedule.batch_size)
    step, octaves = told(qps, source)
    coded, heads = model(normalised(source), step / LEVELS, octaves)
    wanted, layers = store.of(source)
    tasks = {}
    for name, y_m in heads.items():
        made = store.features(y_m)
        pairs = [(y_m, wanted), *((made[k], x) for k, x in layers.items())]
        tasks[name] = sum(lack(found, x) for found, x in pairs)
    return balanced_terms(schedule, source, step, coded, tasks)


def features_from(y_m: torch.Tensor, machine: MachineCodec) -> dict[str, torch.Tensor]:
    """p2..p5 that a machine layer makes of its latents (N, C, h, w); differentiable."""
    vfcn = machine.model
    made = vfcn.synthesis(y_m, _typical(machine))
    return {name: made[k] * vfcn.typical_width for k, name in vfcn.config.levels.items()}


@torch.no_grad()
def start_linear(model: Heads, store: Targets, schedule: TransformTraining) -> None:
    """Measure mean and spread of every channel of y_hat and of y_m; make the 3x3 convolutions the
    ridge regression of y_m on 3 x 3 cells of y_hat, and what is added to them zero."""
    rng = np.random.default_rng((schedule.seed, 1 << 40))
    pairs = []
    for _ in range(STATISTICS_CROPS):
        source = store.pictures.draw(1, schedule.crop, rng)
        step, _ = told(rng.uniform(*model.config.transform.qps, 1), source)
        y = model.picture.g_a(normalised(source)) / (step / LEVELS)
        pairs.append((y.round() * (step / LEVELS), store.of(source)[0]))
    y_mean, y_std = _statistics([y_hat for y_hat, _ in pairs])
    mean, std = _statistics([y_m for _, y_m in pairs])
    for transform in model.each.values():
        latents = transform.config.latents
        transform.y_mean.copy_(y_mean[:latents])
        transform.y_std.copy_(y_std[:latents].clamp(min=1e-2))
        transform.mean.copy_(mean)
        transform.std.copy_(std)
        transform.body[-1].weight.zero_()
        transform.body[-1].bias.zero_()
        inputs = 9 * latents
        products = torch.zeros(inputs, inputs), torch.zeros(inputs, len(mean))
        for y_hat, y_m in pairs:
            cells = F.unfold(transform.standardised(y_hat), 3, padding=1)[0]
            wanted = (y_m[0].flatten(1).T - mean) / std
            products[0].addmm_(cells, cells.T)
            products[1].addmm_(cells, wanted)
        squares, mixed = (x.double() for x in products)
        squares.diagonal().add_(RIDGE * squares.diagonal().mean())
        found = torch.linalg.solve(squares, mixed).T
        transform.linear.weight.copy_(found.view_as(transform.linear.weight))


def _typical(machine: MachineCodec) -> torch.Tensor:
    """The range (1, 2) with which latents are those of the machine layer before its IVN."""
    width = machine.model.typical_width
    return torch.stack((torch.zeros_like(width), width))[None]


def _statistics(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each channel of batches (N, C, h, w)."""
    rows = torch.cat([x.transpose(0, 1).flatten(1) for x in tensors], dim=1)
    return rows.mean(dim=1), rows.std(dim=1).clamp(min=1e-4)
