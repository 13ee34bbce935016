# SPDX-License-Identifier: BSD-3-Clause
"""Train the restorer of the auxiliary picture: one network for all sizes, QPs and machine rates.

The loss is the logarithm of the mean squared error of each crop's RGB, so that a dB counts alike at
every rate; from `ms_ssim_from` of the iterations on, `ms_ssim_weight` times the logarithm of
1 - MS-SSIM is added. Neither the detector nor the features that KID and AP are measured with take
part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import piq
import torch
from accelerate import Accelerator

from vcm_plugin.diff_fchm.human.restorer import MULTIPLE, Restorer, RestorerConfig, to_planes
from vcm_plugin.errors import InputError
from vcm_plugin.training.loop import Schedule, Terms, fit
from vcm_plugin.training.restorer_samples import RestorerStore
from vcm_plugin.vvc.planes import RGB_OF_LEVELS

MS_SSIM_CROP = 176  # pixels: five scales of an 11 x 11 window
LEAST_LACK = 1e-3  # of MS-SSIM, for the same reason
LEAST_MSE = 0.5  # of 255^2: crops without any detail do not outweigh the others


@dataclass(frozen=True)
class RestorerTraining(Schedule):
    """Schedule and loss. crop: pixels a side. ms_ssim_crop, ms_ssim_batch: of the last stage."""

    crop: int = 128
    ms_ssim_weight: float = 1.0
    ms_ssim_from: float = 0.85
    ms_ssim_crop: int = 192
    ms_ssim_batch: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.crop % MULTIPLE or self.ms_ssim_crop % MULTIPLE or self.ms_ssim_crop < MS_SSIM_CROP:
            raise InputError(
                f"expected crops in multiples of {MULTIPLE} pixels, those of the last stage at "
                f"least {MS_SSIM_CROP}; found {self.crop} and {self.ms_ssim_crop}"
            )


def train(config: RestorerConfig, store: RestorerStore, schedule: RestorerTraining, path: Path,
          report) -> Restorer:  # fmt: skip
    """Train a restorer and return it with averaged weights; the checkpoint `path` is resumed."""
    torch.manual_seed(schedule.seed)
    model = Restorer(config)
    if config.features:
        mean, std = store.statistics()
        model.mean.copy_(mean)
        model.std.copy_(std)
    accelerator = Accelerator(
        mixed_precision=schedule.mixed_precision, cpu=not torch.cuda.is_available()
    )
    model.to(accelerator.device, memory_format=torch.channels_last).train()
    return fit(accelerator, model, store, schedule, path, loss_terms, report).eval()


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
