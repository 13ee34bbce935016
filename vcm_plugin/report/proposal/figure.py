# SPDX-License-Identifier: BSD-3-Clause
"""How is the codec built? Its block diagram, drawn by code; readable in grey."""

from __future__ import annotations

import io

from vcm_plugin.report.document import Figure
from vcm_plugin.report.figures import (
    INK,
    NO_DATES,
    SETTINGS,
    FancyArrowPatch,
    FancyBboxPatch,
    rc_context,
)
from vcm_plugin.report.figures import Figure as Drawing

# box -> (column, row, text); the learned parts of diff_fchm after vfcn.py, entropy.py and ivn.py
PARTS = {
    "picture": (0, 0, "picture"),
    "part1": (1, 0, "NN-Part1\n(frozen)"),
    "ivn": (2, 0, "IVN\nrange x s"),
    "g_a": (3, 0, "$g_a$"),
    "coder": (4, 0, "entropy coder\n(integer $h_a$, $h_s$)"),
    "file": (4, 1, ".fcm file"),
    "decoder": (4, 2, "entropy decoder\n(checksum)"),
    "g_s": (3, 2, "$g_s$"),
    "inverse": (2, 2, "inverse IVN"),
    "part2": (1, 2, "NN-Part2\n(frozen)"),
    "result": (0, 2, "boxes, masks"),
}
SPLIT = {
    "picture": (0, 0, "picture"),
    "part1": (1, 0, "NN-Part1"),
    "coder": (2, 0, "encoder"),
    "file": (2, 1, "file"),
    "decoder": (2, 2, "decoder"),
    "part2": (1, 2, "NN-Part2"),
    "result": (0, 2, "boxes, masks"),
}
LABELS = {("part1", "ivn"): "p2..p5", ("g_a", "coder"): "y", ("decoder", "g_s"): r"$\hat{y}$",
          ("inverse", "part2"): "p2..p5"}  # fmt: skip
FILLS = {"file": "#f1e3c6", "part1": "#e3e3e3", "part2": "#e3e3e3"}
STEP, WIDTH, HEIGHT = (2.6, 1.5), 1.7, 0.8


def architecture(codec: str) -> Figure:
    """The block diagram of diff_fchm; of another codec, split inference as it is for all."""
    parts = PARTS if codec == "diff_fchm" else SPLIT
    with rc_context(SETTINGS), io.BytesIO() as file:
        columns = 1 + max(column for column, *_ in parts.values())
        drawing = Drawing(figsize=(1.6 * columns + 0.4, 3.1), layout="constrained")
        axes = drawing.add_subplot()
        axes.set_axis_off()
        for name, (column, row, text) in parts.items():
            x, y = column * STEP[0], -row * STEP[1]
            box = FancyBboxPatch(
                (x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0.08",
                facecolor=FILLS.get(name, "#dce8f3"), edgecolor=INK,
            )  # fmt: skip
            axes.add_patch(box)
            axes.text(x, y, text, ha="center", va="center", fontsize=8.5)
        names = list(parts)
        for one, two in zip(names, names[1:], strict=False):
            _arrow(axes, parts[one], parts[two], LABELS.get((one, two), ""))
        axes.set_xlim(-1.2, (columns - 1) * STEP[0] + 1.2)
        axes.set_ylim(-2 * STEP[1] - 0.7, 0.7)
        drawing.savefig(file, dpi=200, metadata=NO_DATES["png"])
        png = file.getvalue()
    return Figure("architecture", png, f"{codec}: encoder above, decoder below")


def _arrow(axes, one: tuple, two: tuple, label: str) -> None:
    (x0, y0), (x1, y1) = ((c * STEP[0], -r * STEP[1]) for c, r, _ in (one, two))
    across = (WIDTH / 2 + 0.1) * ((x1 > x0) - (x1 < x0))
    down = (HEIGHT / 2 + 0.1) * ((y1 > y0) - (y1 < y0))
    arrow = FancyArrowPatch(
        (x0 + across, y0 + down), (x1 - across, y1 - down),
        arrowstyle="-|>", mutation_scale=11, color=INK, shrinkA=0, shrinkB=0,
    )  # fmt: skip
    axes.add_patch(arrow)
    axes.text((x0 + x1) / 2, (y0 + y1) / 2 + 0.14, label, ha="center", fontsize=8)
