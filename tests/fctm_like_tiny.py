# SPDX-License-Identifier: BSD-3-Clause
"""A tiny real fctm_like and its weights file, for tests."""

from dataclasses import replace
from pathlib import Path

import torch

from anchors.fctm_config import FctmConfig
from anchors.fctm_networks import Fctm, export

CONFIG = FctmConfig(channels=8, reduced=12, hidden=8, refined=4)


def tiny_model(seed: int = 0, channels: int = 8) -> Fctm:
    """Networks whose channels have falling energy, but not in their order; branches are at work."""
    torch.manual_seed(seed)
    model = Fctm(replace(CONFIG, channels=channels))
    for part in (*model.reduce.pools, *model.restore.spread):
        part.weight.data.normal_(0.0, 1.0)
    order = torch.randperm(CONFIG.reduced)
    model.order.copy_(order)
    energy = torch.empty(CONFIG.reduced)
    energy[order] = 0.5 ** torch.arange(CONFIG.reduced)  # the last ones hold almost nothing
    for pool in model.reduce.pools:
        pool.weight.data *= energy.view(-1, 1, 1, 1)
    for block in (model.restore.correct, *model.restore.refine):
        block.body[-1].weight.data.normal_(0.0, 0.02)
    model.mean.copy_(torch.randn(4, channels))
    model.std.copy_(torch.rand(4, channels) + 0.5)
    model.value_range.copy_(torch.tensor([-4.0, 4.0]))
    return model


def tiny_weights(path: Path, seed: int = 0, detector: str = "0" * 64, channels: int = 8) -> Path:
    """The weights file of tiny_model."""
    return export(tiny_model(seed, channels), detector, {}, path)
