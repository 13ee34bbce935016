# SPDX-License-Identifier: BSD-3-Clause
"""Which sizes the networks of VFCN have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VfcnConfig:
    """Sizes of the networks.

    fuse: the analysis takes p2..p5, otherwise p2 alone. variant: "robust" trains over all s and
    lets the synthesis depend on the range; "plain" trains at s = 1 only, as published; "gain" is a
    rival of IVN, trained gain and inverse-gain vectors at eight levels as in L-MSFC v2.
    """

    channels: int = 64  # of each FPN layer
    width8: int = 96  # of the networks on the grid of p3
    width16: int = 128  # ... of p4
    latents: int = 192
    slices: tuple[int, ...] = (12, 28, 56, 96)
    hyper_width: int = 64
    hyper_latents: int = 24
    context_width: int = 64
    fuse: bool = True
    variant: str = "robust"

    def __post_init__(self):
        known = self.variant in ("robust", "plain", "gain")
        if sum(self.slices) != self.latents or not known:
            raise ValueError(
                f"slices must add up to latents, variant be robust, plain or gain: {self}"
            )
