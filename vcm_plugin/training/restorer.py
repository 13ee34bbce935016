# SPDX-License-Identifier: BSD-3-Clause
"""Train the restorer of the auxiliary picture: one network for all sizes, QPs and machine rates.

The loss is the logarithm of the mean squared error of each crop's RGB, so that a dB counts alike at
every rate. From `structure_from` of the iterations on, those of the error of luma (most of an RGB
error is chroma's), 1 - MS-SSIM, 1 - VIF and 1 - HaarPSI are added, each with its weight. Neither
the detector nor the features that KID and AP are measured with take part in it.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import piq
import torch
from torch import nn

from vcm_plugin.diff_fchm.human.config import RestorerConfig
from vcm_plugin.diff_fchm.human.restoration import PictureRestorer
from vcm_plugin.diff_fchm.human.restorer import Restorer, ToldBlock, to_planes
from vcm_plugin.errors import InputError
from vcm_plugin.files import sha256_of_file
from vcm_plugin.training import loop
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.restorer_samples import RestorerStore
from vcm_plugin.training.schedules import RestorerTraining
from vcm_plugin.vvc.planes import RGB_OF_LEVELS

LUMA = (0.299, 0.587, 0.114)  # of R, G, B, as the measures weigh them
LEAST_MSE = 0.5  # of 255^2: crops without any detail do not outweigh the others
LEAST_LACK = 1e-3  # of a measure of structure to 1, for the same reason
BLOCKS = ("blocks2", "blocks4", "blocks8")  # counts of residual blocks, of RestorerConfig
STRUCTURE = {"ms_ssim": piq.multi_scale_ssim, "vif": piq.vif_p, "haarpsi": piq.haarpsi}


def train(
    config: RestorerConfig,
    store: RestorerStore,
    schedule: RestorerTraining,
    folder: Path,
    init: Path | None = None,
    report=lambda line: None,
) -> Restorer:
    """Train, or go on with the checkpoint in `folder`; returns the model with averaged weights.

    init: weights of a restorer where this one begins; it may have fewer residual blocks, and those
    that it lacks begin as the identity. Raises InputError where its sizes are others.
    """
    accelerator = loop.start(schedule, folder, report)
    torch.manual_seed(schedule.seed)
    model = Restorer(config).to(memory_format=torch.channels_last).train()
    if init is not None:
        _begin_with(model, init)
    elif config.features:
        mean, std = store.statistics()
        model.mean.copy_(mean)
        model.std.copy_(std)
    path = folder / "restorer_state.pth"
    made_from = {"pictures": store.sha256()}
    if init is not None:
        made_from["init"] = sha256_of_file(init)
    return loop.fit(accelerator, model, store, schedule, path, loss_terms, report, made_from).eval()


def loss_terms(
    model, store: RestorerStore, schedule: RestorerTraining, draw: int, _: bool
) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    rng = np.random.default_rng((schedule.seed, draw))
    last_stage = draw >= schedule.structure_from * schedule.iterations
    batch = store.draw(
        schedule.structure_batch if last_stage else schedule.batch_size,
        schedule.structure_crop if last_stage else schedule.crop,
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
    error = restored - source
    terms = {"log_mse": _log_mse(error)}
    if last_stage:
        luma = torch.einsum("j,njhw->nhw", error.new_tensor(LUMA), error)
        terms["luma"] = schedule.luma_weight * _log_mse(luma[:, None])
        both = (restored.clamp(0, 255) / 255, source / 255)
        for name, measure in STRUCTURE.items():
            lack = (1 - measure(*both, reduction="none")).clamp(min=0)
            weight = getattr(schedule, f"{name}_weight")
            terms[name] = weight * torch.log(lack + LEAST_LACK).mean()
    return terms


def _begin_with(model: Restorer, init: Path) -> None:
    trained = PictureRestorer(init).model
    fewer = {name: getattr(trained.config, name) for name in BLOCKS}
    grown = any(count > getattr(model.config, name) for name, count in fewer.items())
    if trained.config != replace(model.config, **fewer) or grown:
        raise InputError(
            f"{init}: expected weights of a restorer of the recipe's sizes, with at most as many "
            f"blocks, found others: {asdict(trained.config)}"
        )
    for block in filter(lambda module: isinstance(module, ToldBlock), model.modules()):
        nn.init.zeros_(block.second.weight)
        nn.init.zeros_(block.second.bias)
    model.load_state_dict(trained.state_dict(), strict=False)


def _log_mse(error: torch.Tensor) -> torch.Tensor:
    return torch.log(error.square().mean(dim=(1, 2, 3)) + LEAST_MSE).mean()
