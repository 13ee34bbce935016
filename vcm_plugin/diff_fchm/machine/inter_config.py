# SPDX-License-Identifier: BSD-3-Clause
"""How large are the networks that code a frame after others?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vcm_plugin.diff_fchm.machine.config import VfcnConfig


@dataclass(frozen=True)
class InterConfig:
    """Sizes of TemporalNetworks that the machine layer does not fix, and of those that it does.

    A recipe sets the first three; the others are those of the VFCN (`over`).
    """

    temporal_width: int = 96
    temporal_features: int = 64
    prior_width: int = 32
    slices: tuple[int, ...] = VfcnConfig.slices
    hyper_width: int = VfcnConfig.hyper_width
    hyper_latents: int = VfcnConfig.hyper_latents
    context_width: int = VfcnConfig.context_width

    def over(self, vfcn: VfcnConfig) -> InterConfig:
        """The same networks over a machine layer of these sizes."""
        shared = ("slices", "hyper_width", "hyper_latents", "context_width")
        return replace(self, **{name: getattr(vfcn, name) for name in shared})
