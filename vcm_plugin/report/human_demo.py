# SPDX-License-Identifier: BSD-3-Clause
"""A few pictures as the human layer shows them, beside VVC at no more bits: one picture file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anchors.vvc_remote import VvcRemoteCodec
from vcm_plugin.conditions import TestCondition
from vcm_plugin.ctc.codecs import make_codec
from vcm_plugin.ctc.coding import Source, decode, encode
from vcm_plugin.ctc.detector import load_detector
from vcm_plugin.environment import make_deterministic
from vcm_plugin.errors import InputError
from vcm_plugin.files import write_bytes
from vcm_plugin.metrics.pictures import Value, pair_metrics
from vcm_plugin.rate_points import MAX_QP, PERCENTS, show
from vcm_plugin.report.figures import SETTINGS, Figure, rc_context
from vcm_plugin.report.titles import METRICS
from vcm_plugin.testsets.coco import read_entry
from vcm_plugin.testsets.open import open_test_set

SHOWN = ("psnr", "ssim", "vmaf", "haarpsi")


@dataclass(frozen=True)
class Shown:
    """One decoded picture: uint8 RGB (H, W, 3), its bits and its measures."""

    title: str
    picture: np.ndarray
    bits: int
    measures: dict[str, Value]

    def caption(self) -> str:
        texts = [
            f"{METRICS[name].title} {self.measures[name]:{METRICS[name].spec}} {METRICS[name].unit}"
            for name in SHOWN
        ]
        return f"{self.title}\n{self.bits} bits; " + ", ".join(text.strip() for text in texts)


def write_human_demo(
    condition: TestCondition, rate_point: str, count: int, out: Path, device: str = "cpu"
) -> Path:
    """Code the first `count` pictures at one rate point of diff_fchm_picture, and by VVC; keep the
    .fcm files and a figure in `out` and return the path of the figure."""
    make_deterministic(condition.threads_per_job)
    model = load_detector(condition, device)
    codec = make_codec("diff_fchm_picture", condition, device)
    vvc = make_codec("vvc_remote", condition)
    rows = []
    for entry in open_test_set(condition).pictures[:count]:
        picture = read_entry(entry)
        data = encode(codec, Source(picture, model.nn_part1(picture)), rate_point)
        write_bytes(out / f"{entry.image_id}.fcm", data)
        decoded = decode(codec, data)
        painted, bits, machine = decoded.picture, 8 * len(data), decoded.machine_bits
        title = f"Diff-FCHM {rate_point}, of which {machine} serve the detector"
        shown = Shown(title, painted, bits, pair_metrics(picture, painted))
        rows.append((picture, vvc_within(vvc, picture, bits), shown))
    path = out / "side_by_side.png"
    with rc_context(SETTINGS):
        drawn(rows).savefig(path, dpi=110, metadata={"Software": None})
    return path


def vvc_within(codec: VvcRemoteCodec, picture: np.ndarray, bits: int) -> Shown:
    """VVC at the lowest QP that spends no more bits, at the largest size that has one.

    Raises InputError where even QP 63 at the smallest size spends more.
    """
    for percent in PERCENTS:
        files = {}

        def spends(qp: int, files=files, percent=percent) -> int:
            files[qp] = codec.encode(picture, show(qp, percent))
            return 8 * len(files[qp])

        if spends(MAX_QP) > bits:
            continue
        low, high = 0, MAX_QP
        while low < high:
            middle = (low + high) // 2
            if spends(middle) <= bits:
                high = middle
            else:
                low = middle + 1
        decoded = codec.decode(files[high])
        size = "" if percent == 100 else f" at {percent} % size"
        title = f"VVC, QP {high}{size}: the lowest QP with no more bits than ours"
        return Shown(title, decoded, 8 * len(files[high]), pair_metrics(picture, decoded))
    raise InputError(f"VVC spends more than {bits} bits at every QP and size; show a lower QP")


def drawn(rows: Sequence[tuple[np.ndarray, Shown, Shown]]) -> Figure:
    """Each source beside the two decoded pictures, a row each, under their captions."""
    heights = [4.2 * source.shape[0] / source.shape[1] + 0.7 for source, *_ in rows]
    figure = Figure(figsize=(13.0, sum(heights)), layout="constrained")
    grid = figure.subplots(len(rows), 3, squeeze=False, height_ratios=heights)
    for axes, (source, *decoded) in zip(grid, rows):
        panels: Iterator = iter(axes)
        _show(next(panels), source, "original\n")
        for shown in decoded:
            _show(next(panels), shown.picture, shown.caption())
    return figure


def _show(axes, picture: np.ndarray, title: str) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title, fontsize=7.5, loc="left")
    axes.set_axis_off()
