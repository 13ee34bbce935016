# SPDX-License-Identifier: BSD-3-Clause
"""Which references does a proposal need? Those of what its runs have used."""

from __future__ import annotations

from collections.abc import Iterator

from vcm_plugin.report.runs import Run
from vcm_plugin.report.tables import Report

DIFF_FCHM = (
    "C. Zhang, et al., Machines Serve Human: A Novel Variable Human-machine Collaborative "
    "Compression Framework, arXiv 2511.08915."
)
INTEGER = (
    "J. Balle, N. Johnston, D. Minnen, Integer networks for data compression with latent-variable "
    "models, ICLR 2019."
)
VVC = (
    "B. Bross, et al., Overview of the Versatile Video Coding (VVC) standard and its applications, "
    "IEEE Transactions on Circuits and Systems for Video Technology 31(10), 2021."
)
VVENC = (
    "A. Wieckowski, et al., VVenC: an open and optimized VVC encoder implementation, IEEE ICME "
    "Workshops, 2021."
)
VTM = "VVC test model (VTM), the reference software of Rec. ITU-T H.266 and ISO/IEC 23090-3."
BD_RATE = (
    "G. Bjontegaard, Calculation of average PSNR differences between RD-curves, VCEG-M33, 2001."
)
PCHIP = (
    "F. N. Fritsch, R. E. Carlson, Monotone piecewise cubic interpolation, SIAM Journal on "
    "Numerical Analysis 17(2), 1980."
)
RCNN = {
    "faster": "S. Ren, et al., Faster R-CNN: Towards real-time object detection with region "
    "proposal networks, NeurIPS 2015.",
    "mask": "K. He, et al., Mask R-CNN, ICCV 2017.",
    "panoptic": "A. Kirillov, et al., Panoptic feature pyramid networks, CVPR 2019.",
}
FPN = "T.-Y. Lin, et al., Feature pyramid networks for object detection, CVPR 2017."
DETECTRON2 = "Y. Wu, et al., Detectron2, 2019."
PROTOCOLS = {
    "coco": "T.-Y. Lin, et al., Microsoft COCO: Common objects in context, ECCV 2014.",
    "open_images": "A. Kuznetsova, et al., The Open Images dataset V4, International Journal of "
    "Computer Vision 128, 2020.",
    "semantic": "P. Xiao, et al., PandaSet: Advanced sensor suite dataset for autonomous driving, "
    "IEEE ITSC 2021.",
}
SETS = {
    "sfu_hw": "H. Choi, et al., A dataset of labelled objects on raw video sequences, Data in "
    "Brief 34, 2021.",
}


def references(report: Report) -> list[str]:
    """In the order in which a reader meets them, each once."""
    found = [text for run in report.runs for text in _of_run(run)]
    return list(dict.fromkeys([*found, *_of_test(report), BD_RATE, PCHIP]))


def _of_run(run: Run) -> Iterator[str]:
    if run.result.codec.startswith("diff_fchm"):
        yield DIFF_FCHM
        yield INTEGER
    identity = str(run.result.codec_identity)
    if "VVenC" in identity or "VTM" in identity:
        yield VVC
    if "VVenC" in identity:
        yield VVENC
    if run.result.codec.startswith("vtm"):
        yield VTM


def _of_test(report: Report) -> Iterator[str]:
    run = report.runs[0]
    model = run.condition.model.lower() if run.condition else ""
    for kind, text in RCNN.items():
        if kind in model:
            yield text
    if "fpn" in model or run.result.model_identity.get("split_point") == "fpn":
        yield FPN
    if "detectron2" in str(run.result.model_identity.get("runtime", "")).lower():
        yield DETECTRON2
    if run.result.test.protocol in PROTOCOLS and run.result.test.tasks:
        yield PROTOCOLS[run.result.test.protocol]
    for name, text in SETS.items():
        if report.condition.startswith(name):
            yield text
