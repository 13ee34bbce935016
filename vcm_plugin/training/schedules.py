# SPDX-License-Identifier: BSD-3-Clause
"""What may a training be told: iterations, rates, weights of its loss? One dataclass per network.

A recipe of cfg/training sets these fields, and each is an option of `vcm-plugin train`. Nothing
here needs torch, so that a wrong option is refused at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from vcm_plugin.diff_fchm.human.config import MAX_STEPS, RESTORER_MULTIPLE
from vcm_plugin.errors import InputError

PRECISIONS = ("auto", "no", "fp16", "bf16", "fp8")
STAGES = ("vae", "prior", "control", "sampling", "joint")  # of the human layer's training
MS_SSIM_CROP = 176  # pixels: five scales of an 11 x 11 window


@dataclass(frozen=True)
class Schedule:
    """What every training has; the seed fixes batches and noise.

    learning_rate: after `warmup` iterations, from where it falls as a cosine. mixed_precision:
    accelerate's, or "auto", what this machine is fast in. ema_decay: 0 keeps the last weights.
    """

    iterations: int = 8000
    batch_size: int = 8  # of each process
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 1e-4
    clip_norm: float = 1.0  # largest norm of the gradient
    mixed_precision: str = "no"
    ema_decay: float = 0.998
    checkpoint_every: int = 250
    seed: int = 1

    def __post_init__(self):
        for name in ("iterations", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if not 0.0 <= self.ema_decay < 1.0:
            raise InputError(f"ema_decay: expected 0 or more, below 1, found {self.ema_decay}")
        if self.mixed_precision not in PRECISIONS:
            raise InputError(
                f"mixed_precision: expected one of {', '.join(PRECISIONS)}, found "
                f"{self.mixed_precision!r}"
            )

    def with_task(self, iteration: int) -> bool:
        """Whether the loss of this iteration has the detector's losses."""
        return False


@dataclass(frozen=True)
class FeatureSchedule(Schedule):
    """What every training on a detector's features has beside."""

    layer_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # p2..p5
    background_weight: float = 0.1
    task_weight: float = 0.0
    task_from: float = 0.5  # share of the iterations without the detector's losses

    def with_task(self, iteration: int) -> bool:
        return self.task_weight > 0.0 and iteration >= self.task_from * self.iterations


@dataclass(frozen=True)
class VfcnTraining(FeatureSchedule):
    """Schedule and loss of the machine layer; the seed fixes batches, scales and noise."""

    lmbda: float = 0.003
    scales: tuple[float, float] = (0.25, 4.0)  # s is log-uniform between them

    def __post_init__(self):
        super().__post_init__()
        if len(self.scales) != 2 or not 0.0 < self.scales[0] <= self.scales[1]:
            raise InputError(f"scales: expected two, 0 < low <= high, found {self.scales}")


@dataclass(frozen=True)
class MsfcTraining(FeatureSchedule):
    """Schedule and loss of the reduction anchor; the seed fixes batches, QPs and noise."""

    rate_weight: float = 20.0
    qps: tuple[float, float] = (4.0, 37.0)  # a QP is uniform between them


@dataclass(frozen=True)
class FctmTraining(FeatureSchedule):
    """Schedule and loss of fctm_like; the seed fixes batches and QPs."""

    rate_weight: float = 0.115
    qps: tuple[float, float] = (6.0, 40.0)  # a QP is uniform between them


@dataclass(frozen=True)
class HvcnTraining(Schedule):
    """Schedule and loss of one stage of the human layer; the seed fixes crops, scales, noise."""

    stage: str = "control"
    crop: tuple[int, int] = (256, 256)  # pixels
    scales: tuple[float, float] = (0.25, 4.0)  # of the machine layer's s, log-uniform
    quantiser_steps: tuple[float, float] = (0.25, 4.0)  # q, log-uniform
    rate_weight: float = 1.0
    latent_weight: float = 2.0
    picture_weight: float = 4.0
    lpips_weight: float = 0.5
    machine_weight: float = 0.003  # of 255^2 times the error of the normalised features
    start: int = 300  # time step of the unrolled sampler
    sampling_steps: int = 2  # 0: the plain decoder of c, for the ablation

    def __post_init__(self):
        super().__post_init__()
        if self.stage not in STAGES:
            raise InputError(f"stage: expected one of {', '.join(STAGES)}, found {self.stage!r}")
        if not 0 <= self.sampling_steps <= MAX_STEPS:
            raise InputError(
                f"sampling_steps: expected 0 to {MAX_STEPS}, found {self.sampling_steps}"
            )


@dataclass(frozen=True)
class RestorerTraining(Schedule):
    """Schedule and loss of the restorer; the seed fixes pictures, codings and crops.

    crop: pixels a side. structure_from: share of the iterations before the last stage, which has
    crops of structure_crop, structure_batch at a time, and the error of luma and measures of
    structure in its loss.
    """

    crop: int = 112
    structure_from: float = 0.3
    structure_crop: int = 176
    structure_batch: int = 2
    luma_weight: float = 1.0
    ms_ssim_weight: float = 0.3
    vif_weight: float = 0.5
    haarpsi_weight: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        crops = (self.crop, self.structure_crop)
        if any(n % RESTORER_MULTIPLE for n in crops) or self.structure_crop < MS_SSIM_CROP:
            raise InputError(
                f"expected crops in multiples of {RESTORER_MULTIPLE} pixels, those of the last "
                f"stage at least {MS_SSIM_CROP}; found {crops[0]} and {crops[1]}"
            )


@dataclass(frozen=True)
class PictureTraining(Schedule):
    """Schedule and loss of a learned picture codec; the seed fixes pictures, crops, steps, noise.

    crop: pixels a side. rate_weight: of bits per pixel, in squares of the quantiser's step.
    feature_weight: of the error of each of p2..p5, in shares of its variance.
    """

    crop: int = 128
    rate_weight: float = 0.04
    distortion_weight: float = 1.0
    feature_weight: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.crop < 64 or self.crop % 64:
            raise InputError(f"crop: expected a multiple of 64 pixels, found {self.crop}")
        if min(self.distortion_weight, self.feature_weight) < 0.0 or self.rate_weight <= 0.0:
            raise InputError(
                "expected a rate_weight above 0, a distortion_weight and a feature_weight of 0 or "
                f"more, found {self.rate_weight}, {self.distortion_weight}, {self.feature_weight}"
            )
        if not self.distortion_weight and not self.feature_weight:
            raise InputError(
                "distortion_weight and feature_weight are both 0: expected one above 0"
            )


@dataclass(frozen=True)
class TransformTraining(PictureTraining):
    """Schedule and loss of the codecs with two readers of one stream; the seed fixes pictures,
    crops, QPs and noise.

    feature_weight: of the machine loss of each codec, in shares of variances.
    """

    crop: int = 192
    feature_weight: float = 80.0


@dataclass(frozen=True)
class HeadsTraining(FeatureSchedule):
    """Schedule and loss of the transforms with the detector's losses; the seed fixes batches and
    QPs. feature_weight: of the error of p2..p5, in shares of their variance."""

    task_weight: float = 1.0
    task_from: float = 0.0
    feature_weight: float = 1.0


@dataclass(frozen=True)
class InterTraining(Schedule):
    """Schedule and loss of the inter networks; the seed fixes clips and scales.

    frames: of a clip, the first of them intra. error_weight: bits that a squared error of 1 counts.
    """

    frames: int = 4
    scales: tuple[float, float] = (0.3, 6.0)  # s is log-uniform between them
    error_weight: float = 6.0

    def __post_init__(self):
        super().__post_init__()
        if self.frames < 2:
            raise InputError(f"frames: expected at least 2, found {self.frames}")
        if len(self.scales) != 2 or not 0.0 < self.scales[0] <= self.scales[1]:
            raise InputError(f"scales: expected two, 0 < low <= high, found {self.scales}")


@dataclass(frozen=True)
class ImportanceTraining(Schedule):
    """Schedule of what an encoder knows of importance; the seed fixes batches."""


@dataclass(frozen=True)
class DetectorTraining(Schedule):
    """Schedule of a detector; the seed fixes the order of pictures and every augmentation."""

    iterations: int = 4000
    weight_decay: float = 0.02
    clip_norm: float = 10.0
    crop: tuple[int, int] = (256, 320)  # (height, width) of the training crops


@dataclass(frozen=True)
class TrackerTraining(Schedule):
    """Schedule and loss of a JDE network; the seed fixes the order of frames and their flips.

    foreground, background: IoU with an anchor from which on, and below which, it has an object or
    has none. focus: exponent of the focal loss of the confidences.
    """

    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    clip_norm: float = 10.0
    foreground: float = 0.5
    background: float = 0.4
    focus: float = 1.5
    box_weight: float = 20.0
    identity_weight: float = 0.3
