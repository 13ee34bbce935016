# SPDX-License-Identifier: BSD-3-Clause
"""Train the reduction anchor MSFC on the features of a frozen detector: one model for every QP.

Loss of a picture at a QP, with the step of VVC's quantiser in shares of the bottleneck's range:

    sum of w_l MSE_l of the standardised features  +  rate_weight * step^2 * bits per sample
    + task_weight * sum of the detector's losses

The bottleneck has uniform noise of that step. The bits are log2(1 + |deviation| / step) of what is
sent, their weight as an encoder weighs bits against squared errors.
"""

from __future__ import annotations

from pathlib import Path

import torch

from anchors.msfc_networks import Msfc, MsfcConfig
from anchors.reduction import relative_step
from vcm_plugin.training import loop
from vcm_plugin.training.feature_loss import draw_batch, feature_statistics, task_loss, weighted_mse
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.schedules import MsfcTraining


def train(
    config: MsfcConfig,
    store: FeatureStore,
    schedule: MsfcTraining,
    folder: Path,
    report=lambda line: None,
) -> Msfc:
    """Train, or go on with the checkpoint in `folder`; returns the model with averaged weights."""
    accelerator = loop.start(schedule, folder, report)
    store.detector.model.to(accelerator.device)
    torch.manual_seed(schedule.seed)
    model = Msfc(config).to(memory_format=torch.channels_last)
    mean, std, _ = feature_statistics(store, schedule)
    model.mean.copy_(mean)
    model.std.copy_(std)
    path = folder / "msfc_state.pth"
    made_from = {"pictures": store.digest}
    return loop.fit(accelerator, model, store, schedule, path, loss_terms, report, made_from)


def loss_terms(
    model, store: FeatureStore, schedule: MsfcTraining, draw: int, with_task: bool
) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    rng, size, pictures, layers = draw_batch(store, schedule, draw)
    device = layers["p2"].device
    qps = torch.from_numpy(rng.uniform(*schedule.qps, len(pictures))).float().to(device)
    decoded, errors, bits = model(layers, qps)
    terms = {
        "mse": weighted_mse(errors, store.boxes(size, pictures), schedule),
        "rate": schedule.rate_weight * (relative_step(qps).square() * bits).mean(),
    }
    if with_task:
        weights = torch.full_like(qps, schedule.task_weight)
        targets = store.targets(size, pictures)
        terms["task"] = task_loss(store.detector.model, decoded, size, targets, weights)
    return terms
