# SPDX-License-Identifier: BSD-3-Clause
"""Which sizes the networks of HVCN have, and which machine layer and which prior they are for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MachineFit:
    """The machine layer that HVCN is built on.

    channels: of p2..p5. latents: of y. sha256: of its weights file, "" before training.
    """

    channels: int = 64
    latents: int = 320
    sha256: str = ""


@dataclass(frozen=True)
class PriorFit:
    """What HVCN must know of the diffusion prior.

    latent_channels, latent_scale: of the autoencoder, whose latents are multiplied by the scale.
    blocks: channels of each block of the denoising network; layers: residual blocks in each.
    attends: whether each block has cross-attention; text_width: of its embeddings, 0 for none.
    fingerprint: of its schedule and some of its weights, so that another prior of the same sizes
    is noticed.
    """

    latent_channels: int = 4
    latent_scale: float = 0.18215
    blocks: tuple[int, ...] = (64, 128, 192)
    layers: int = 1
    attends: tuple[bool, ...] = (False, False, False)
    text_width: int = 0
    fingerprint: str = ""


@dataclass(frozen=True)
class HvcnConfig:
    """Sizes of the networks.

    conditioned: what the machine layer says reaches the auxiliary latents; without, the networks
    have the same sizes and see zeros in its place, for the ablation.
    """

    width: int = 64  # of the control features F
    analysis_width: int = 96  # of g_a and g_s of the auxiliary latents
    latents: int = 64  # auxiliary
    slices: tuple[int, ...] = (8, 16, 40)
    hyper_width: int = 48
    hyper_latents: int = 12
    context_width: int = 64
    condition_width: int = 32  # of F_int
    control_share: float = 0.25  # width of the control network beside the prior's
    conditioned: bool = True

    def __post_init__(self):
        if sum(self.slices) != self.latents:
            raise ValueError(f"slices must add up to latents: {self}")
