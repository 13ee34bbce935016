# SPDX-License-Identifier: BSD-3-Clause
"""How much does an error matter to the detector, from cell to cell? For encoders alone.

    g_a's output y -> importance of each cell, 0 .. 1 -> bits that a squared error of y is worth

The importance is what the detector's own region proposal network says of objects there, foretold
from y by a small network (vcm_plugin/training/importance.py). The encoder of inter frames weighs
bits against errors by it: where no object is, what the earlier frames foretell is sooner good
enough. No decoder needs or knows it, and every file decodes as before.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vcm_plugin.errors import InputError
from vcm_plugin.weights_file import fitting, read_weights, write_weights

# Bits that a squared error of 1 of y is worth where the importance is 0, and what 1 adds. Between
# them lies the slope of a uniform quantiser of step 1 at high rate, 6 / ln 2.
LEAST, MORE = 3.2, 8.0


@dataclass(frozen=True)
class ImportanceConfig:
    """Sizes of an ImportanceNetwork; a recipe sets `width`."""

    latents: int = 320
    width: int = 32


class ImportanceNetwork(nn.Module):
    """y -> how sure it is that an object is near.

    The sizes of y count, not their signs, on a scale on which a change by a factor is a step.
    """

    def __init__(self, config: ImportanceConfig):
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(
            nn.Conv2d(config.latents, config.width, 1),
            nn.ReLU(),
            nn.Conv2d(config.width, config.width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.width, 1, 3, padding=1),
        )

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """g_a's output (N, C, h, w) -> logits (N, 1, h, w)."""
        return self.layers(torch.log1p(y.abs()))


class Importance:
    """The network of a weights file, for one machine layer.

    Raises InputError for a damaged file, and for one that was trained over another g_a.
    """

    def __init__(self, weights: Path, latents_sha256: str):
        data, tensors, self.metadata = read_weights(weights, "importance")
        self.sha256 = hashlib.sha256(data).hexdigest()
        with fitting(weights, tensors):
            made_for = self.metadata["latents_sha256"]
            network = ImportanceNetwork(ImportanceConfig(**self.metadata["config"]))
            network.load_state_dict({name: x.float() for name, x in tensors.items()})
        if made_for != latents_sha256:
            raise InputError(
                f"{weights}: these importance weights are for the latents {made_for[:8]}, found "
                f"{latents_sha256[:8]}; train them over this machine layer: vcm-plugin train "
                "importance"
            )
        self.network = network.requires_grad_(False).eval()

    def to(self, device: torch.device | str) -> Importance:
        """Return self with its network on another device."""
        self.network.to(device)
        return self

    @torch.inference_mode()
    def error_weights(self, y: torch.Tensor) -> np.ndarray:
        """g_a's output (1, C, h, w) -> bits that a squared error of y is worth in each cell (h, w),
        float32."""
        return LEAST + MORE * self.network(y.float())[0, 0].sigmoid().cpu().numpy()


def export(network: ImportanceNetwork, latents_sha256: str, trained: dict, path: Path) -> Path:
    """Write the weights file of a trained network."""
    about = {
        "config": asdict(network.config), "latents_sha256": latents_sha256, "trained": trained
    }  # fmt: skip
    return write_weights(path, "importance", network.state_dict(), about)
