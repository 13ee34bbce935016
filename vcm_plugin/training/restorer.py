# SPDX-License-Identifier: BSD-3-Clause
"""Train the restorer of the auxiliary picture: one network for all sizes, QPs and machine rates.

The loss is the logarithm of the mean squared error of each crop's RGB, so that a dB counts alike at
every rate; from `ms_ssim_from` of the iterations on, `ms_ssim_weight` times the logarithm of
1 - MS-SSIM is added. Neither the detector nor the features that KID and AP are measured with take
part in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import piq
import torch

from vcm_plugin.diff_fchm.human.config import RestorerConfig
from vcm_plugin.diff_fchm.human.restorer import Restorer, to_planes
from vcm_plugin.training import loop
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.restorer_samples import RestorerStore
from vcm_plugin.training.schedules import RestorerTraining
from vcm_plugin.vvc.planes import RGB_OF_LEVELS

LEAST_LACK = 1e-3  # of MS-SSIM, for the same reason
LEAST_MSE = 0.5  # of 255^2: crops without any detail do not outweigh the others


def train(
    config: RestorerConfig,
    store: RestorerStore,
    schedule: RestorerTraining,
    folder: Path,
    report=lambda line: None,
) -> Restorer:
    """Train, or go on with the checkpoint in `folder`; returns the model with averaged weights."""
    accelerator = loop.start(schedule, folder, report)
    torch.manual_seed(schedule.seed)
    model = Restorer(config).to(memory_format=torch.channels_last).train()
    if config.features:
        mean, std = store.statistics()
        model.mean.copy_(mean)
        model.std.copy_(std)
    path = folder / "restorer_state.pth"
    made_from = {"pictures": store.sha256()}
    return loop.fit(accelerator, model, store, schedule, path, loss_terms, report, made_from).eval()


def loss_terms(
    model, store: RestorerStore, schedule: RestorerTraining, draw: int, _: bool
) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    rng = np.random.default_rng((schedule.seed, draw))
    perceptual = draw >= schedule.ms_ssim_from * schedule.iterations
    batch = store.draw(
        schedule.ms_ssim_batch if perceptual else schedule.batch_size,
        schedule.ms_ssim_crop if perceptual else schedule.crop,
        rng,
    )
    device = next(model.parameters()).device
    inputs = to_planes(batch.luma, batch.chroma).to(device, memory_format=torch.channels_last)
    layers = {
        name: x.to(device, memory_format=torch.channels_last) for name, x in batch.layers.items()
    }
    residual = model(inputs, layers, batch.known.to(device))
    matrix = torch.from_numpy(RGB_OF_LEVELS).to(residual)
    restored = batch.decoded.to(device) + torch.einsum("ij,njhw->nihw", matrix, residual)
    source = batch.source.to(device)
    mse = (restored - source).square().mean(dim=(1, 2, 3))
    terms = {"log_mse": torch.log(mse + LEAST_MSE).mean()}
    if perceptual:
        both = (restored.clamp(0, 255) / 255, source / 255)
        lack = 1 - piq.multi_scale_ssim(*both, reduction="none")
        terms["ms_ssim"] = schedule.ms_ssim_weight * torch.log(lack + LEAST_LACK).mean()
    return terms
