#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draw the figures of the README: the flow, and rate against quality for machine, human, sequences.

    scripts/draw_figures.py docs/figures --pictures runs/demo/diff_fchm runs/demo/vvc_feature \
        runs/demo/vvc_remote --sequences runs/sequences/diff_fchm runs/sequences/all_intra

draws flow.svg and human.svg (its points stand in the table of docs/human_layer.md), and, of the
runs that are named, machine.svg and sequences.svg: box AP of each run, the convex hull over sizes
of one that has several. Without runs of a kind its figure is left as it is.
"""

import argparse
import re
from pathlib import Path

from vcm_plugin.ctc.results import load_result
from vcm_plugin.report.curves import curves_of, points_of
from vcm_plugin.report.figures import (
    INK,
    NO_DATES,
    SETTINGS,
    STYLES,
    Axes,
    FancyArrowPatch,
    FancyBboxPatch,
    Figure,
    bits_axis,
    rc_context,
)

ROOT = Path(__file__).resolve().parents[1]
# name -> (column, row, text, colour)
GREY, BLUE, SAND, GREEN = "#e3e3e3", "#dce8f3", "#f1e3c6", "#dcefe2"
BOXES = {
    "picture": (0, 0, "picture", GREY),
    "part1": (1, 0, "NN-Part1\nfirst half of\nthe detector", GREY),
    "features": (2, 0, "features\np2 .. p5", GREY),
    "encode": (3, 0, "encode\nat a rate point", BLUE),
    "file": (4, 0.5, "bitstream\non disk", SAND),
    "decode": (3, 1, "decode", BLUE),
    "decoded": (2, 1, "features\nas decoded", GREY),
    "part2": (1, 1, "NN-Part2\nsecond half of\nthe detector", GREY),
    "accuracy": (0, 1, "boxes, masks:\naccuracy", GREEN),
    "human": (3, 2, "human layer", BLUE),
    "seen": (2, 2, "picture for\na person", GREY),
    "quality": (1, 2, "PSNR, VMAF ...", GREEN),
    "report": (0, 2, "rate-distortion\ncurve, BD-rate", SAND),
}
ARROWS = (
    "picture part1", "part1 features", "features encode", "encode file", "file decode",
    "decode decoded", "decoded part2", "part2 accuracy", "accuracy report", "decode human",
    "human seen", "seen quality", "quality report",
)  # fmt: skip
STEP, SIZE = (2.35, 1.45), (1.7, 0.92)
TABLE_ROW = re.compile(
    r"^\| ([\d.]+)\+\d+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) (?:\(([\d.]+)\) )?\|", re.M
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--pictures", type=Path, nargs="+", default=[], metavar="RUN")
    parser.add_argument("--sequences", type=Path, nargs="+", default=[], metavar="RUN")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    drawn = {"flow": draw_flow(), "human": draw_human(ROOT / "docs/human_layer.md")}
    for name, runs in (("machine", options.pictures), ("sequences", options.sequences)):
        if runs:
            drawn[name] = draw_runs(runs)
    for name, figure in drawn.items():
        with rc_context(SETTINGS):
            figure.savefig(options.output / f"{name}.svg", metadata=NO_DATES["svg"])


def draw_flow() -> Figure:
    """From a picture to a BD-rate, and to a picture for a person."""
    with rc_context(SETTINGS):
        figure = Figure(figsize=(8.6, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axis_off()
        for column, row, text, colour in BOXES.values():
            x, y = column * STEP[0], -row * STEP[1]
            corner = x - SIZE[0] / 2, y - SIZE[1] / 2
            axes.add_patch(
                FancyBboxPatch(corner, *SIZE, boxstyle="round,pad=0.06", fc=colour, ec=INK)
            )
            axes.text(x, y, text, ha="center", va="center", fontsize=8.5, linespacing=1.25)
        for pair in ARROWS:
            _arrow(axes, *(BOXES[name][:2] for name in pair.split()))
        axes.set_xlim(-1.05, 4 * STEP[0] + 1.05)
        axes.set_ylim(-2 * STEP[1] - 0.62, 0.62)
        axes.set_aspect("equal")
    return figure


def _arrow(axes: Axes, start: tuple, end: tuple) -> None:
    """From the side of one box that looks at the other."""
    (x0, y0), (x1, y1) = ((column * STEP[0], -row * STEP[1]) for column, row in (start, end))
    across, down = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    if across:
        down = 0
    half = SIZE[0] / 2 + 0.08, SIZE[1] / 2 + 0.08
    axes.add_patch(
        FancyArrowPatch(
            (x0 + across * half[0], y0 + down * half[1]),
            (x1 - across * half[0], y1 - down * half[1]),
            arrowstyle="-|>", mutation_scale=11, color=INK, shrinkA=0, shrinkB=0,
        )
    )  # fmt: skip


def draw_runs(folders: list[Path]) -> Figure:
    """Bits per pixel against box AP, one curve for each run, uncompressed as a dashed line."""
    results = {folder.name: load_result(folder) for folder in folders}
    figure, axes = _axes("box AP (%)")
    with rc_context(SETTINGS):
        for (name, result), style in zip(results.items(), STYLES, strict=False):
            curve = curves_of(name, points_of(name, result.points))[0]
            _curve(axes, curve.rate_accuracy("box_ap"), name, style)
            first = result
        value = first.uncompressed.accuracy["box_ap"]
        axes.axhline(value, color=INK, linestyle=(0, (5, 3)), linewidth=1, label="uncompressed")
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower right", fontsize=8, framealpha=0.9)
    return figure


def draw_human(page: Path) -> Figure:
    """Total bits of both layers against PSNR, and of one VVC picture as good for both uses."""
    rows = [row.groups() for row in TABLE_ROW.finditer(page.read_text(encoding="utf-8"))]
    figure, axes = _axes("PSNR (dB)")
    with rc_context(SETTINGS):
        for n, scale in enumerate(dict.fromkeys(row[0] for row in rows)):
            points = [(float(b), float(p), float(v)) for s, p, b, v, _ in rows if s == scale]
            marker = "os"[n]
            layers = [(b, p) for b, p, _ in points]
            one = [(v, p) for _, p, v in points]
            _curve(axes, layers, f"two layers, s = {scale}", (STYLES[0][0], marker, "-"))
            label = f"one VVC picture, box AP as at s = {scale}"
            _curve(axes, one, label, (STYLES[1][0], marker, "--"))
        axes.legend(loc="upper left", fontsize=7.5, framealpha=0.9)
        axes.margins(y=0.22)
    return figure


def _axes(label: str) -> tuple[Figure, Axes]:
    with rc_context(SETTINGS):
        figure = Figure(figsize=(4.6, 3.4), layout="constrained")
        axes = figure.add_subplot()
        bits_axis(axes)
        axes.set_xlabel("bits per pixel (log scale)")
        axes.set_ylabel(label)
        axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, axes


def _curve(axes: Axes, points: list[tuple[float, float]], label: str, style: tuple) -> None:
    colour, marker, line = style
    axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle=line, label=label,
              linewidth=1.8, markersize=5)  # fmt: skip


if __name__ == "__main__":
    main()
