# SPDX-License-Identifier: BSD-3-Clause
"""How good does a decoded picture look? The measures of human vision, all from kept packages.

Of one pair of pictures, 8-bit RGB: PSNR, SSIM, MS-SSIM, VIF, GMSD and HaarPSI as piq computes them
(PSNR over all three channels; piq halves large pictures for SSIM and HaarPSI, as their authors do),
PSNR of the planes of Y'CbCr, VMAF and VMAF NEG by FFmpeg's libvmaf, LPIPS and DISTS by piq where
their weights are here. Of two sets of pictures: KID on pooled features of the condition's detector,
FID and KID on Inception where its weights are here. What cannot be measured is a line "n/a: ..." in
its place.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import ffmpeg
import numpy as np
import piq
import torch
from piq.feature_extractors import InceptionV3

from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.process import FFMPEG_REPAIR, ffmpeg_program, run
from vcm_plugin.vvc.planes import to_planes

PAIR_METRICS = (
    "psnr", "psnr_y", "psnr_u", "psnr_v", "psnr_yuv", "ssim", "ms_ssim", "vmaf", "vmaf_neg", "vif",
    "gmsd", "haarpsi", "lpips", "dists",
)  # fmt: skip
SET_METRICS = ("kid_detector", "fid", "kid")
MS_SSIM_MIN_SIDE = 161  # pixels: five scales of an 11 x 11 window
WEIGHTS_MISSING = "n/a: weights missing"  # `vcm-plugin doctor` says how to get them
_VGG = "vgg16-397923af.pth"
# What torch.hub keeps of each network that piq or torchvision would download.
NETWORK_FILES = {
    "lpips": (_VGG, "lpips_weights.pt"),
    "dists": (_VGG, "dists_weights.pt"),
    "fid": ("pt_inception-2015-12-05-6726825d.pth",),
}
VMAF_MODELS = "version=vmaf_v0.6.1:name=vmaf|version=vmaf_v0.6.1neg:name=vmaf_neg"
LEAST_ERROR = 1e-8  # of equal planes, so that their PSNR is 80 dB, as piq has it

Value = float | str


class PictureRecord(Protocol):
    """What `picture_measures` needs of a decoded, or of an uncompressed picture."""

    bits: int | None
    machine_bits: int | None  # of a codec that also serves a detector
    picture: Mapping[str, Value] | None  # as `pair_metrics` gives them
    embeddings: Mapping[str, list[float]] | None


def pair_metrics(reference: np.ndarray, decoded: np.ndarray) -> dict[str, Value]:
    """PAIR_METRICS of two pictures, uint8 RGB (H, W, 3) of one size."""
    if reference.shape != decoded.shape:
        raise InputError(
            f"expected a decoded picture of {reference.shape}, found {decoded.shape}: pictures are "
            "compared at the size of the source"
        )
    x, y = _tensor(decoded), _tensor(reference)
    found: dict[str, Value] = {
        "psnr": float(piq.psnr(x, y)),
        **psnr_of_planes(reference, decoded),
        "ssim": float(piq.ssim(x, y)),
        "ms_ssim": "n/a: a side under 161 pixels",
        **vmaf(reference, decoded),
        "vif": float(piq.vif_p(x, y)),
        "gmsd": float(piq.gmsd(x, y)),
        "haarpsi": float(piq.haarpsi(x, y)),
    }
    if min(reference.shape[:2]) >= MS_SSIM_MIN_SIDE:
        found["ms_ssim"] = float(piq.multi_scale_ssim(x, y))
    for name in ("lpips", "dists"):
        network = _network(name)
        found[name] = float(network(x, y)) if network else WEIGHTS_MISSING
    return found


def psnr_of_planes(reference: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
    """PSNR of Y', Cb and Cr in 4:2:0 of 10 bits, BT.709, and their mean with the weights 6:1:1."""
    size = tuple(n + n % 2 for n in reference.shape[:2])
    pairs = zip(*(to_planes(picture, size, resized=False) for picture in (reference, decoded)))
    errors = [np.square(a.astype(np.float64) - b).mean() / 1023**2 for a, b in pairs]
    y, u, v = (float(10 * np.log10(1 / (error + LEAST_ERROR))) for error in errors)
    return {"psnr_y": y, "psnr_u": u, "psnr_v": v, "psnr_yuv": (6 * y + u + v) / 8}


def vmaf(reference: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
    """VMAF of one picture by libvmaf's default model, and by the one that counts no enhancement
    (NEG), in Y'CbCr 4:2:0 of 10 bits, BT.709."""
    height, width = (n - n % 2 for n in reference.shape[:2])  # an odd last row or column is left
    with tempfile.TemporaryDirectory(prefix="vcm-vmaf-") as folder:
        files = [Path(folder, name) for name in ("decoded.yuv", "reference.yuv", "vmaf.json")]
        for path, picture in zip(files, (decoded, reference)):
            planes = to_planes(picture[:height, :width], (height, width), resized=False)
            path.write_bytes(b"".join(plane.astype("<u2").tobytes() for plane in planes))
        raw = {"format": "rawvideo", "pix_fmt": "yuv420p10le", "s": f"{width}x{height}", "r": 1}
        inputs = [ffmpeg.input(str(path), **raw) for path in files[:2]]
        measured = ffmpeg.filter(
            inputs, "libvmaf", model=VMAF_MODELS, log_fmt="json", log_path=str(files[2])
        )
        command = ffmpeg.compile(measured.output("-", format="null"), cmd=ffmpeg_program())
        run([*command, "-loglevel", "error", "-nostdin"], repair=FFMPEG_REPAIR)
        pooled = json.loads(files[2].read_text())["pooled_metrics"]
    return {name: float(pooled[name]["mean"]) for name in ("vmaf", "vmaf_neg")}


def embeddings(picture: np.ndarray, features: FeaturePyramid) -> dict[str, list[float]]:
    """What SET_METRICS need of one picture: {"detector": (8 C,), "inception": (2048,)}.

    features: p2..p5 of this picture, whose means and mean squares over the picture are taken.
    """
    layers = features.layers.values()
    pooled = [m for x in layers for m in (x.mean(dim=(1, 2)), x.square().mean(dim=(1, 2)).sqrt())]
    found = {"detector": torch.cat(pooled)}
    inception = _network("fid")
    if inception:
        with torch.no_grad():
            found["inception"] = inception(_tensor(picture))[0].flatten()
    return {name: [round(float(v), 6) for v in vector] for name, vector in found.items()}


def set_metrics(
    reference: Sequence[Mapping[str, list[float]]], decoded: Sequence[Mapping[str, list[float]]]
) -> dict[str, Value]:
    """SET_METRICS of the embeddings of all pictures, in one order; needs two pictures."""
    if len(reference) < 2:
        return dict.fromkeys(SET_METRICS, "n/a: needs two pictures or more")
    # piq draws the order of the set, which the unbiased estimate does not depend on but for
    # its last bits
    torch.manual_seed(0)
    found: dict[str, Value] = {}
    for name, network, measure in (
        ("kid_detector", "detector", piq.KID()),
        ("fid", "inception", piq.FID()),
        ("kid", "inception", piq.KID()),
    ):
        if network not in reference[0]:
            found[name] = WEIGHTS_MISSING
            continue
        x, y = (
            torch.tensor([e[network] for e in side], dtype=torch.float64)
            for side in (decoded, reference)
        )
        if network == "detector":  # features of unit variance, as the kernel expects them
            mean = y.mean(dim=0)
            scale = (y - mean).std()
            x, y = (x - mean) / scale, (y - mean) / scale
        found[name] = float(measure(x, y))
    return found


def averaged(pictures: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    """The mean of each measure over the pictures; the reason where any of them lacks it."""
    means: dict[str, Value] = {}
    for name in pictures[0]:
        values = [picture[name] for picture in pictures]
        reasons = [value for value in values if isinstance(value, str)]
        means[name] = reasons[0] if reasons else float(np.mean(values))
    return means


def picture_measures(
    records: Sequence[PictureRecord], sources: Sequence[PictureRecord]
) -> dict[str, Value]:
    """What a rate point states of its decoded pictures, their detections aside: bits of both
    layers, means over the pictures, distances of the two sets.

    records, sources: the lines of the decoded and of the uncompressed pictures, in one order.
    """
    measured: dict[str, Value] = {}
    if records[0].machine_bits is not None:
        measured["machine_bits"] = sum(record.machine_bits for record in records)
        measured["human_bits"] = sum(record.bits - record.machine_bits for record in records)
    measured |= averaged([record.picture for record in records])
    embedded = ([record.embeddings for record in side] for side in (sources, records))
    return measured | set_metrics(*embedded)


def missing_network_files(name: str) -> list[str]:
    """The files of NETWORK_FILES that torch.hub's folder lacks."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return [file for file in NETWORK_FILES[name] if not (folder / file).is_file()]


@functools.lru_cache
def _network(name: str) -> Callable | None:
    """The network of a measure, None where its weights are not here: nothing is downloaded."""
    if missing_network_files(name):
        return None
    make = {"lpips": piq.LPIPS, "dists": piq.DISTS, "fid": InceptionV3}[name]
    return make().eval()


def _tensor(picture: np.ndarray) -> torch.Tensor:
    """(1, 3, H, W) in 0 .. 1."""
    return torch.tensor(picture).permute(2, 0, 1)[None].float() / 255
