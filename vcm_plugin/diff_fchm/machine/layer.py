# SPDX-License-Identifier: BSD-3-Clause
"""What passes between features, latents and units of the machine layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vcm_plugin.bitstream import Header, MachinePayload
from vcm_plugin.entropy.latent_coder import Latents


@dataclass(frozen=True)
class Analysed:
    """Features after g_a, from where every rate point goes on.

    value_range: of the features. y: (1, C, h, w), as g_a makes it of (P - mean) / std.
    """

    header: Header
    value_range: tuple[float, float]
    y: torch.Tensor


@dataclass(frozen=True)
class MachineLayer:
    """What a machine unit says once its latents are decoded and checked."""

    header: Header
    payload: MachinePayload
    latents: Latents


@dataclass(frozen=True)
class Lost:
    """A frame that cannot be decoded, and why."""

    reason: str
