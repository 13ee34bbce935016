# SPDX-License-Identifier: BSD-3-Clause
"""Where do the names of points stand in a plot, so that they cover neither marks nor each other?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vcm_plugin.report.figures import Axes, canvas_of

FONT_SIZE = 7.5
_DISTANCES = (5.0, 8.0, 12.0)  # points, from the mark
_DIRECTIONS = [math.radians(angle) for angle in (135, 45, -45, -135, 90, -90, 180, 0)]
_MARK = 4.0  # points, half a mark
_STEP = 3.0  # pixels between the samples of a line
_MARK_COST, _LINE_COST = 50.0, 1.0
_MOST_COST = 40.0  # above it a point goes without a name


@dataclass(frozen=True)
class Label:
    """The name of a point in data coordinates."""

    x: float
    y: float
    text: str
    colour: str


def place_labels(
    axes: Axes,
    labels: Sequence[Label],
    curves: Sequence[Sequence[tuple[float, float]]],
    marks: Sequence[tuple[float, float]],
) -> list[Label]:
    """Write the labels beside their points where there is room; returns those that were written.

    curves: points (x, y) of drawn lines; marks: all drawn marks. The axes must have their limits.
    """  # fmt: skip
    figure = axes.figure
    canvas_of(figure).draw()  # settles where the axes are
    scale = figure.dpi / 72
    at = axes.transData.transform
    lines = [_sampled(at(np.asarray(curve, float))) for curve in curves if len(curve) > 1]
    lines = np.concatenate(lines) if lines else np.zeros((0, 2))
    dots = at(np.asarray(marks, float).reshape(-1, 2))
    frame, taken, written = axes.get_window_extent(), [], []
    for label in labels:
        size = _size(axes, label.text)
        best = min(
            (
                (_cost(box, lines, dots, taken, frame, scale), number, box)
                for number, box in enumerate(_boxes(at((label.x, label.y)), size, scale))
            ),
            key=lambda found: found[:2],
        )
        if best[0] < _MOST_COST:
            taken.append(best[2])
            written.append(label)
            _write(axes, label, best[2], at((label.x, label.y)), scale)
    return written


def _write(axes: Axes, label: Label, box: tuple, point: np.ndarray, scale: float) -> None:
    offset = (box[0] - point[0]) / scale, (box[1] - point[1]) / scale
    axes.annotate(
        label.text, (label.x, label.y), xytext=offset, textcoords="offset points", ha="left",
        va="bottom", fontsize=FONT_SIZE, color=label.colour, zorder=5,
    )  # fmt: skip


def _size(axes: Axes, text: str) -> tuple[float, float]:
    """Width and height of a text in pixels."""
    drawn = axes.text(0, 0, text, fontsize=FONT_SIZE)
    extent = drawn.get_window_extent(canvas_of(axes.figure).get_renderer())
    drawn.remove()
    return extent.width, extent.height


def _boxes(point: np.ndarray, size: tuple[float, float], scale: float) -> list[tuple]:
    """Boxes (x0, y0, x1, y1) beside a point, the near ones first."""
    width, height = size
    found = []
    for distance in _DISTANCES:
        for angle in _DIRECTIONS:
            x = point[0] + math.cos(angle) * (distance * scale + width / 2) - width / 2
            y = point[1] + math.sin(angle) * (distance * scale + height / 2) - height / 2
            found.append((x, y, x + width, y + height))
    return found


def _cost(box: tuple, lines: np.ndarray, dots: np.ndarray, taken: list, frame, scale: float):
    """How much of what is drawn a box would cover; infinite over a label or outside the axes."""
    if box[0] < frame.x0 or box[2] > frame.x1 or box[1] < frame.y0 or box[3] > frame.y1:
        return math.inf
    if any(_overlap(box, other) for other in taken):
        return math.inf
    margin = _MARK * scale
    wide = box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
    return _MARK_COST * _inside(dots, wide) + _LINE_COST * _inside(lines, box)


def _inside(points: np.ndarray, box: tuple) -> int:
    x, y = points.T
    return int(((x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])).sum())


def _overlap(one: tuple, two: tuple) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _sampled(points: np.ndarray) -> np.ndarray:
    """Points along a line in pixels."""
    found = [points]
    for start, end in zip(points, points[1:]):
        count = int(np.hypot(*(end - start)) / _STEP)
        found.append(start + (end - start) * np.linspace(0, 1, count + 2)[:, None])
    return np.concatenate(found)
