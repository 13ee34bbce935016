# SPDX-License-Identifier: BSD-3-Clause
"""What the human layer is told: its keys of a test condition, the sizes of its networks, and which
machine layer and which prior they are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vcm_plugin.rate_points import PICTURE, SCALE, Grammar, layered

if TYPE_CHECKING:
    from vcm_plugin.diff_fchm.human.auxiliary import AuxiliaryPictureCodec
    from vcm_plugin.diff_fchm.human.codec import HumanCodec


MAX_STEPS = 50  # of the sampler

RESTORER_MULTIPLE = 8  # of the sides of what the restorer sees, in pixels

CHOICES = {  # of HvcnConfig: our variant, and what the paper's architecture figure shows
    "fusion": ("coarse_to_fine", "fine_to_coarse"),
    "auxiliary": ("conditional", "factorised"),
    "control": ("side_encoder", "prior_layers"),
    "sampled_from": ("c", "noise"),
}


@dataclass(frozen=True)
class MachineFit:
    """The machine layer that HVCN is built on.

    channels: of p2..p5. latents: of y. sha256: MachineCodec.latents_sha256, "" before training; of
    the whole weights file in networks trained before there was such a thing.
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
    fusion (fcn.py), auxiliary (acn.py), control (control.py), sampled_from (sampler.py): our
    variant or that of the paper, see CHOICES. Raises ValueError for any other.
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
    fusion: str = "coarse_to_fine"
    auxiliary: str = "conditional"
    control: str = "side_encoder"
    sampled_from: str = "c"

    def __post_init__(self):
        if sum(self.slices) != self.latents:
            raise ValueError(f"slices must add up to latents: {self}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}: expected {known[0]} or {known[1]}, found {getattr(self, name)!r}"
                )

    def published(self, name: str) -> bool:
        """Whether this choice is that of the paper."""
        return getattr(self, name) == CHOICES[name][1]

    @property
    def profile(self) -> str:
        """The nearer of ours and paper, and what is not of it.

        >>> HvcnConfig().profile, HvcnConfig(sampled_from="noise").profile
        ('ours', 'ours with sampled_from noise')
        """
        paper = sum(map(self.published, CHOICES)) > len(CHOICES) // 2
        other = [f"{n} {getattr(self, n)}" for n in CHOICES if self.published(n) != paper]
        name = "paper" if paper else "ours"
        return f"{name} with {', '.join(other)}" if other else name


@dataclass(frozen=True)
class RestorerConfig:
    """Sizes of the networks.

    channels: of p2 and p3. width2, width4, width8: at 1/2, 1/4 and 1/8 of the picture's sides;
    blocks2, blocks4, blocks8: residual blocks there (those at 1/2 once on the way down and once on
    the way up). features: without, the twin that sees the decoded picture only.
    """

    channels: int = 64
    width2: int = 40
    width4: int = 80
    width8: int = 112
    blocks2: int = 1
    blocks4: int = 3
    blocks8: int = 2
    told_width: int = 32
    features: bool = True


@dataclass(frozen=True)
class PictureSettings:
    """What a test condition says of diff_fchm_picture; the machine layer has its own keys."""

    name: ClassVar[str] = "diff_fchm_picture"
    kind: ClassVar[str] = "human"
    grammar: ClassVar[Grammar] = layered(SCALE, PICTURE)
    points_key: ClassVar[str] = "diff_fchm_picture_points"
    preset_key: ClassVar[str] = "diff_fchm_picture_preset"
    weights_keys: ClassVar[dict[str, str]] = {
        "diff_fchm_weights": "codec_sha256", "diff_fchm_restorer_weights": "restorer_sha256",
    }  # fmt: skip

    diff_fchm_restorer_weights: str | None = None  # a file that scripts/train_restorer.py wrote
    diff_fchm_picture_preset: str | None = None  # of VVenC
    diff_fchm_picture_points: tuple[str, ...] = ()  # "S+QP", "S+QP@percent" or "S+auto:Q"

    def make(self, context) -> AuxiliaryPictureCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        weights = context.weights("diff_fchm_restorer_weights", "train_restorer", "--restorer")
        from vcm_plugin.diff_fchm.human.auxiliary import AuxiliaryPictureCodec

        context.require("diff_fchm_picture_preset")
        return AuxiliaryPictureCodec(
            context.codec("diff_fchm"), weights, self.diff_fchm_picture_preset, context.threads,
            context.device,
        )  # fmt: skip


@dataclass(frozen=True)
class HumanSettings:
    """What a test condition says of diff_fchm_human; the machine layer has its own keys."""

    name: ClassVar[str] = "diff_fchm_human"
    kind: ClassVar[str] = "human"
    grammar: ClassVar[Grammar] = layered(SCALE, SCALE)
    points_key: ClassVar[str] = "diff_fchm_human_points"
    weights_keys: ClassVar[dict[str, str]] = {
        "diff_fchm_weights": "codec_sha256", "diff_fchm_human_weights": "human_sha256",
    }  # fmt: skip

    diff_fchm_human_weights: str | None = None  # a folder that scripts/train_hvcn.py wrote
    diff_fchm_human_prior: str | None = None  # folder or hub id, where it is not in that folder
    diff_fchm_human_points: tuple[str, ...] = ()  # "S+Q": scale s and the step of the human layer

    def make(self, context) -> HumanCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        weights = context.weights("diff_fchm_human_weights", "train_hvcn", "--human-weights")
        from vcm_plugin.diff_fchm.human.codec import HumanCodec

        prior = self.diff_fchm_human_prior and str(context.path(self.diff_fchm_human_prior))
        return HumanCodec(context.codec("diff_fchm"), weights, prior, context.device)
