# SPDX-License-Identifier: BSD-3-Clause
"""Train a learned picture codec: one network for all rates.

    weight(q) * (omega_0 D + lambda R + sum of omega_i L_i),   lambda = rate_weight * q^2

D: squared error of a sample, in levels of 8 bits. R: bits per pixel. q: the step of the quantiser
in levels, log-uniform between those of the networks' QPs. L_i: squared error of the frozen
detector's p2..p5 over their variance, at the size of the crops. A squared error that is fine at
a large step would drown those of small ones, and the bits of small steps those of large ones:
weight(q) = 1 / (q * that of MIDDLE_QP) keeps both in balance. feature_weight 0 is the objective
`human` of objectives.py (equation 1), with distortion_weight 0 it is `machine`, else `both`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from anchors.picture_config import MIDDLE_QP, PictureConfig, step_of
from anchors.picture_networks import LEVELS, STRIDE, Coded, PictureNetworks, start_linear
from vcm_plugin.errors import InputError, one_line
from vcm_plugin.split.torchvision import TorchvisionDetector
from vcm_plugin.split_points import SPLIT_POINTS
from vcm_plugin.training import loop, objectives
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.picture_samples import PictureStore
from vcm_plugin.training.schedules import PictureTraining

STATISTICS_PICTURES = 160
LAYERS = tuple(SPLIT_POINTS["fpn"])


def train(
    config: PictureConfig,
    store: PictureStore,
    schedule: PictureTraining,
    folder: Path,
    init: Path | None = None,
    report=lambda line: None,
) -> PictureNetworks:
    """Train, or go on with the checkpoint in `folder`; returns the model with averaged weights.

    init: picture_state.pth of a finished training of the same sizes, or its weights file, where
    this one begins.
    """
    accelerator = loop.start(schedule, folder, report)
    torch.manual_seed(schedule.seed)
    model = PictureNetworks(config).to(memory_format=torch.channels_last)
    path = folder / "picture_state.pth"
    if not path.exists():
        _begin(model, store, schedule, init)
    made_from = {"pictures": store.sha256(), "init": init and init.name}
    if store.detector is not None:
        store.detector.model.to(accelerator.device)
    return loop.fit(accelerator, model, store, schedule, path, loss_terms, report, made_from)


def loss_terms(model, store: PictureStore, schedule: PictureTraining, draw: int, _: bool) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    rng = np.random.default_rng((schedule.seed, draw))
    torch.manual_seed(int(rng.integers(1 << 62)))
    device = next(model.parameters()).device
    source = store.draw(schedule.batch_size, schedule.crop, rng).to(device)
    low, high = (model.module if hasattr(model, "module") else model).config.qps
    qps = rng.uniform(low, high, schedule.batch_size)
    step, octaves = told(qps, source)
    coded = model(normalised(source), step / LEVELS, octaves)
    tasks = {}
    if schedule.feature_weight > 0.0:
        tasks = feature_losses(store.detector, source, LEVELS * (coded.x_hat + 1.0))
    return balanced_terms(schedule, source, step, coded, tasks)


def told(qps: np.ndarray, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps in levels of 8 bits and their octaves, (N, 1, 1, 1) each."""
    step = torch.tensor([step_of(qp) for qp in qps]).to(like).view(-1, 1, 1, 1)
    return step, torch.from_numpy((qps - MIDDLE_QP) / 6).to(like).view(-1, 1, 1, 1)


def balanced_terms(
    schedule: PictureTraining,
    source: torch.Tensor,
    step: torch.Tensor,
    coded: Coded,
    tasks: dict[str, torch.Tensor],
) -> Terms:
    """The loss of pictures as they were coded at their steps; tasks: losses (N,) by name, each of
    which counts schedule.feature_weight."""
    distortion = LEVELS**2 * (coded.x_hat - normalised(source)).square().mean(dim=(1, 2, 3))
    rate, flat = coded.bits / schedule.crop**2, step.flatten()
    terms = objectives.both(
        distortion, rate, tasks, dict.fromkeys(tasks, schedule.feature_weight),
        schedule.rate_weight * flat.square(), schedule.distortion_weight,
    )  # fmt: skip
    balance = 1.0 / (flat * step_of(MIDDLE_QP))
    return {name: (balance * value).mean() for name, value in terms.items()}


def feature_losses(
    detector: TorchvisionDetector, source: torch.Tensor, decoded: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Squared error of p2..p5 over their variance (N,), of RGB pictures (N, 3, h, w), 0 .. 255."""
    with torch.no_grad():
        wanted = features_of(detector, source)
    found = features_of(detector, decoded)
    return {name: lack(found[name], wanted[name]) for name in LAYERS}


def lack(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Squared error over the variance of the channels, (N,)."""
    variance = wanted.var(dim=(0, 2, 3)).mean().clamp(min=1e-6)
    return (found - wanted).square().mean(dim=(1, 2, 3)) / variance


def features_of(detector: TorchvisionDetector, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """p2..p5 of RGB pictures (N, 3, h, w), 0 .. 255, at their own size; differentiable."""
    config, backbone = detector.config, detector.model.backbone
    x = pictures.flip(1) if config.input_format == "BGR" else pictures
    mean, std = (x.new_tensor(v).view(1, -1, 1, 1) for v in (config.pixel_mean, config.pixel_std))
    layers = backbone.stages_above_r2(backbone.res2(backbone.stem((x - mean) / std)))
    return backbone.top_down(backbone.laterals(layers))


def normalised(pictures: torch.Tensor) -> torch.Tensor:
    """0 .. 255 -> -1 .. 1, channels last."""
    return (pictures / LEVELS - 1.0).contiguous(memory_format=torch.channels_last)


def _begin(
    model: PictureNetworks, store: PictureStore, schedule: PictureTraining, init: Path | None
) -> None:
    """The weights from which a training begins."""
    if init is None:
        rng = np.random.default_rng((schedule.seed, 1 << 40))
        pictures = store.whole(STATISTICS_PICTURES, STRIDE, rng)
        start_linear(model, [x / LEVELS - 1.0 for x in pictures])
        return
    try:
        model.load_state_dict(loop.starting_weights(init, "picture"))
    except RuntimeError as error:
        reason = one_line(error, 160)
        raise InputError(f"{init}: expected networks of the same sizes: {reason}") from error
