# SPDX-License-Identifier: BSD-3-Clause
"""What the machine layer is told: its keys of a test condition, and the sizes of its networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vcm_plugin.errors import InputError
from vcm_plugin.rate_points import SCALE, Grammar
from vcm_plugin.split_points import SPLIT_POINTS

if TYPE_CHECKING:
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec

LEVELS = ("p2", "p3", "p4", "p5")  # of the networks, finest first


@dataclass(frozen=True)
class VfcnConfig:
    """Sizes of the networks, and the pyramid that they code.

    split_point: an entry of SPLIT_POINTS with up to four layers, each at half the size of the one
    before. layer_channels: of each of its layers; none where each has `channels`. The networks call
    the layers p2, p3, p4, p5 from the finest on, whatever their names are.
    fuse: the analysis takes all layers, otherwise the finest alone. variant: "robust" trains over
    all s and lets the synthesis depend on the range; "plain" trains at s = 1 only, as published;
    "gain" is a rival of IVN, trained gain and inverse-gain vectors at eight levels as in L-MSFC v2.
    """

    channels: int = 64  # of each layer
    width8: int = 96  # of the networks on the grid of p3
    width16: int = 128  # ... of p4
    latents: int = 192
    slices: tuple[int, ...] = (12, 28, 56, 96)
    hyper_width: int = 64
    hyper_latents: int = 24
    context_width: int = 64
    fuse: bool = True
    variant: str = "robust"
    split_point: str = "fpn"
    layer_channels: tuple[int, ...] = ()

    def __post_init__(self):
        known = self.variant in ("robust", "plain", "gain")
        if sum(self.slices) != self.latents or not known:
            raise ValueError(
                f"slices must add up to latents, variant be robust, plain or gain: {self}"
            )
        strides = list(SPLIT_POINTS.get(self.split_point, {}).values())
        halves = all(2 * finer == coarser for finer, coarser in zip(strides, strides[1:]))
        if not 1 <= len(strides) <= len(LEVELS) or not halves:
            raise ValueError(
                f"split_point: expected one of up to {len(LEVELS)} layers, each at half the size "
                f"of the one before, found {self.split_point!r}"
            )
        if len(self.layer_channels) not in (0, len(strides)) or min(self.each_channels) < 1:
            raise ValueError(
                f"layer_channels: expected {len(strides)} counts, one a layer of "
                f"{self.split_point}, or none; found {list(self.layer_channels)}"
            )

    @property
    def levels(self) -> dict[str, str]:
        """Name of each layer in the networks -> its name at the split point, finest first.

        >>> VfcnConfig(split_point="jde_tvd", layer_channels=(256, 512, 1024)).levels
        {'p2': '36', 'p3': '61', 'p4': '74'}
        """
        return dict(zip(LEVELS, SPLIT_POINTS[self.split_point]))

    @property
    def stride(self) -> int:
        """Of the finest layer, to the padded network input."""
        return next(iter(SPLIT_POINTS[self.split_point].values()))

    @property
    def each_channels(self) -> tuple[int, ...]:
        """Channels of each layer, finest first."""
        return self.layer_channels or (self.channels,) * len(SPLIT_POINTS[self.split_point])


@dataclass(frozen=True)
class MachineSettings:
    """What a test condition says of diff_fchm; a rate point is the scale s of IVN.

    optional_weights_keys: as weights_keys, of those that a machine layer can do without.
    """

    name: ClassVar[str] = "diff_fchm"
    kind: ClassVar[str] = "feature"
    grammar: ClassVar[Grammar] = SCALE
    points_key: ClassVar[str] = "diff_fchm_scales"
    weights_keys: ClassVar[dict[str, str]] = {"diff_fchm_weights": "codec_sha256"}
    optional_weights_keys: ClassVar[dict[str, str]] = {
        "diff_fchm_inter_weights": "inter_sha256",
        "diff_fchm_importance_weights": "importance_sha256",
    }

    diff_fchm_weights: str | None = None
    diff_fchm_importance_weights: str | None = None  # of inter frames' encoder
    diff_fchm_inter_weights: str | None = None  # of sequences; without them every frame is intra
    diff_fchm_intra_period: int | None = None  # frames; by the frame rate where it is not set
    diff_fchm_scales: tuple[float, ...] = ()
    diff_fchm_other_detector: bool = False  # a test on a detector that the weights are not for

    def make(self, context) -> MachineCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        weights = context.weights("diff_fchm_weights", "train_vfcn")
        from vcm_plugin.diff_fchm.machine.codec import MachineCodec

        period, inter = self.diff_fchm_intra_period, self.diff_fchm_inter_weights
        importance = self.diff_fchm_importance_weights
        if period is not None and period < 1:
            raise InputError(
                f"test condition {context.name}: diff_fchm_intra_period: expected 1 (every frame "
                f"is intra) or more frames, found {period}"
            )
        codec = MachineCodec(
            weights,
            context.device,
            inter=None if inter is None else context.path(inter),
            intra_period=period,
            importance=None if importance is None else context.path(importance),
        )
        if context.layers:  # refused here, before NN-Part1 has run
            codec.require_layers(context.layers)
        if not self.diff_fchm_other_detector:
            context.require_detector(
                self.diff_fchm_weights, codec.metadata["detector_sha256"],
                ", or set diff_fchm_other_detector: true to test it on another",
            )  # fmt: skip
        return codec
