# SPDX-License-Identifier: BSD-3-Clause
"""How large are the networks of the learned picture codecs? Without torch, for options."""

from __future__ import annotations

from dataclasses import dataclass

from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.rate_points import parse_qp

HEADS = ("latent_scalable", "multi_head")  # codecs with a transform
MIDDLE_QP = 32  # where the entropy networks are told of 0 octaves


@dataclass(frozen=True)
class PictureConfig:
    """Sizes of the networks; y has sum(slices) channels at stride 16.

    qps: lowest and highest QP that the networks were trained for.
    """

    width4: int = 48  # of the networks at stride 4
    width8: int = 64
    width16: int = 96
    slices: tuple[int, ...] = (16, 32, 48, 160)
    hyper_width: int = 48
    hyper_latents: int = 16
    context_width: int = 48
    qps: tuple[int, int] = (30, 60)

    def __post_init__(self):
        if len(self.qps) != 2 or not 0 <= self.qps[0] <= self.qps[1] <= 63:
            raise ValueError(f"qps must be two, 0 <= low <= high <= 63: {self}")
        if min(self.slices, default=0) < 1:
            raise ValueError(f"slices must be channel counts of at least 1: {self}")

    @property
    def latents(self) -> int:
        """Channels of y."""
        return sum(self.slices)

    def parse(self, rate_point: str) -> int:
        """The QP that a rate point names; raises InputError where the networks do not know it."""
        return trained_qp(rate_point, self.qps)


@dataclass(frozen=True)
class TransformConfig:
    """Sizes of a latent-space transform: the first channels of y_hat -> latents of diff_fchm.

    latents: channels of y_hat that it reads; those of the first slices, or all. machine_latents:
    channels that it makes. qps: lowest and highest QP that it was trained for.
    """

    latents: int = 96
    machine_latents: int = 320
    width: int = 96
    blocks: int = 3
    qps: tuple[int, int] = (30, 54)

    def __post_init__(self):
        if len(self.qps) != 2 or not 0 <= self.qps[0] <= self.qps[1] <= 63:
            raise ValueError(f"qps must be two, 0 <= low <= high <= 63: {self}")
        if min(self.latents, self.machine_latents, self.width, self.blocks) < 1:
            raise ValueError(f"channels and blocks must be at least 1: {self}")


def trained_qp(rate_point: str, qps: tuple[int, int]) -> int:
    """The QP that a rate point names; raises InputError where networks of `qps` do not know it."""
    qp, (low, high) = parse_qp(rate_point), qps
    if not low <= qp <= high:
        raise InputError(
            f"rate point {rate_point}: these weights were trained for the QPs {low} to {high}; "
            "choose one of these"
        )
    return qp


def require_trained_qp(qp: int, qps: tuple[int, int]) -> None:
    """Raise BitstreamError for the QP of a file that no encoder with networks of `qps` writes."""
    low, high = qps
    if not low <= qp <= high:
        raise BitstreamError(
            f"expected a QP from {low} to {high}, which these weights know, found {qp}; the file "
            "is damaged"
        )


def step_of(qp: int) -> float:
    """The step of the quantiser at a QP, in levels of 8 bits: VVC's.

    >>> step_of(4), step_of(34)
    (1.0, 32.0)
    """
    return 2.0 ** ((qp - 4) / 6)


def octaves_of(qp: int) -> int:
    """What the entropy networks are told of a QP: octaves of its step, in 1/256, an integer.

    >>> octaves_of(32), octaves_of(38), octaves_of(33), octaves_of(31)
    (0, 256, 43, -43)
    """
    return (512 * (qp - MIDDLE_QP) + 6) // 12
