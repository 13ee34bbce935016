# SPDX-License-Identifier: BSD-3-Clause
"""What is a metric called, in which unit, and is more of it better? One row per metric, for all."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How every format shows one metric; accuracy is in percent.

    unit: "" where it has none. decimals: None where values spread over orders of magnitude, which
    are shown with four digits. task: a key of TASKS for the accuracy of a network, "" for a measure
    of decoded pictures. compared: whether BD-rate is computed on it. axis: the label of its axis in
    a plot, where that says more than the title.
    """

    key: str
    title: str
    unit: str
    higher_is_better: bool
    decimals: int | None
    task: str = ""
    compared: bool = True
    axis: str = ""

    @property
    def label(self) -> str:
        """The title with its unit.

        >>> METRICS["psnr"].label
        'PSNR (dB)'
        """
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def spec(self) -> str:
        """How its values are formatted.

        >>> format(0.81234, METRICS["ssim"].spec)
        '0.8123'
        """
        return ".4g" if self.decimals is None else f".{self.decimals}f"


TASKS = {
    "box": "Detection",
    "mask": "Instance segmentation",
    "semantic": "Semantic segmentation",
    "track": "Tracking",
}
_ROWS = (
    Metric("box_ap", "box AP", "%", True, 2, "box", axis="box AP@[.5:.95] (%)"),
    Metric("box_ap50", "box AP50", "%", True, 2, "box"),
    Metric("box_ap75", "box AP75", "%", True, 2, "box", compared=False),
    Metric("box_ap_small", "box AP, small", "%", True, 2, "box", compared=False),
    Metric("box_ap_medium", "box AP, medium", "%", True, 2, "box", compared=False),
    Metric("box_ap_large", "box AP, large", "%", True, 2, "box", compared=False),
    Metric("box_ar", "box AR", "%", True, 2, "box", compared=False),
    Metric("box_precision", "box precision", "%", True, 2, "box", compared=False),
    Metric("box_recall", "box recall", "%", True, 2, "box", compared=False),
    Metric("box_f1", "box F1", "%", True, 2, "box", compared=False),
    Metric("box_classification", "classification", "%", True, 2, "box", compared=False),
    Metric("mask_ap", "mask AP", "%", True, 2, "mask", axis="mask AP@[.5:.95] (%)"),
    Metric("mask_ap50", "mask AP50", "%", True, 2, "mask"),
    Metric("mask_ap75", "mask AP75", "%", True, 2, "mask", compared=False),
    Metric("mask_ap_small", "mask AP, small", "%", True, 2, "mask", compared=False),
    Metric("mask_ap_medium", "mask AP, medium", "%", True, 2, "mask", compared=False),
    Metric("mask_ap_large", "mask AP, large", "%", True, 2, "mask", compared=False),
    Metric("mask_ar", "mask AR", "%", True, 2, "mask", compared=False),
    Metric("mask_iou", "mask IoU", "%", True, 2, "mask", compared=False),
    Metric("mask_dice", "mask Dice", "%", True, 2, "mask", compared=False),
    Metric("mask_union_iou", "union IoU", "%", True, 2, "mask", compared=False),
    Metric("mask_union_dice", "union Dice", "%", True, 2, "mask", compared=False),
    Metric("mask_pixel_accuracy", "pixel accuracy", "%", True, 2, "mask", compared=False),
    Metric(
        "mask_object_pixel_accuracy", "object pixel accuracy", "%", True, 2, "mask", compared=False
    ),
    Metric("miou", "mIoU", "%", True, 2, "semantic"),
    Metric("mota", "MOTA", "%", True, 2, "track"),
    Metric("idf1", "IDF1", "%", True, 2, "track"),
    Metric("hota", "HOTA", "%", True, 2, "track"),
    Metric("psnr", "PSNR", "dB", True, 2),
    Metric("psnr_y", "PSNR Y", "dB", True, 2),
    Metric("psnr_u", "PSNR U", "dB", True, 2),
    Metric("psnr_v", "PSNR V", "dB", True, 2),
    Metric("psnr_yuv", "PSNR YUV 6:1:1", "dB", True, 2),
    Metric("ssim", "SSIM", "", True, 4),
    Metric("ms_ssim", "MS-SSIM", "", True, 4),
    Metric("vmaf", "VMAF", "", True, 2),
    Metric("vmaf_neg", "VMAF NEG", "", True, 2),
    Metric("vif", "VIF", "", True, 4),
    Metric("gmsd", "GMSD", "", False, 4),
    Metric("haarpsi", "HaarPSI", "", True, 4),
    Metric("lpips", "LPIPS", "", False, 4),
    Metric("dists", "DISTS", "", False, 4),
    Metric("kid_detector", "KID (detector)", "", False, None),
    Metric("fid", "FID", "", False, 2, compared=False),
    Metric("kid", "KID", "", False, None, compared=False),
    Metric("painted_box_ap", "box AP on pictures", "%", True, 2),
)
METRICS = {metric.key: metric for metric in _ROWS}

# The accuracies that curves are compared on, and the measures of decoded pictures.
AP_METRICS = tuple(key for key, metric in METRICS.items() if metric.task and metric.compared)
HUMAN_METRICS = tuple(key for key, metric in METRICS.items() if not metric.task)
# By the size of objects, and recall: a table of their own on paper.
SIZE_METRICS = tuple(
    f"{task}_{name}" for task in TASKS for name in ("ap_small", "ap_medium", "ap_large", "ar")
    if f"{task}_{name}" in METRICS
)  # fmt: skip
# Of those: in figures and in tables on paper; in the terminal's table at equal value; under a
# decoded picture.
IN_FIGURES = ("psnr", "ms_ssim", "vmaf_neg", "haarpsi", "kid_detector", "painted_box_ap")
AT_EQUAL_VALUE = ("psnr", "ms_ssim", "vmaf_neg", "haarpsi")
UNDER_PICTURES = ("psnr", "vmaf", "haarpsi")


def title_of(metric: str) -> str:
    """The heading of a metric; one without a row is its name in words."""
    return METRICS[metric].title if metric in METRICS else metric.replace("_", " ")


def label_of(metric: str) -> str:
    """The heading with its unit."""
    return METRICS[metric].label if metric in METRICS else title_of(metric)


def spec_of(metric: str) -> str:
    """How the values of a metric are formatted."""
    return METRICS[metric].spec if metric in METRICS else ".2f"


def task_of(metric: str) -> str:
    """The task that a metric belongs to; "" for the measures of decoded pictures."""
    return METRICS[metric].task if metric in METRICS else ""


def main_metrics(measured: Collection[str]) -> tuple[str, ...]:
    """The first of AP_METRICS that was measured, of each task: what headlines and plots show.

    >>> main_metrics(["box_ap", "box_ap50", "mask_ap50"])
    ('box_ap', 'mask_ap50')
    """
    first: dict[str, str] = {}
    for metric in AP_METRICS:
        if metric in measured:
            first.setdefault(task_of(metric), metric)
    return tuple(first.values())
