# SPDX-License-Identifier: BSD-3-Clause
"""Do the names of points in a plot stay clear of each other and of the marks?"""

import itertools

import numpy as np
import pytest
from test_report import QUICK
from test_tables import runs  # noqa: F401 (a fixture)

from vcm_plugin.report import plots, tables
from vcm_plugin.report.figures import Figure, canvas_of
from vcm_plugin.report.labels import Label, place_labels


def boxes_of(axes):
    renderer = canvas_of(axes.figure).get_renderer()
    return [text.get_window_extent(renderer) for text in axes.texts]


def overlapping(boxes):
    return [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]


@pytest.mark.parametrize("seed", range(3))
def test_labels_of_crowded_points_do_not_collide(seed):
    rng = np.random.default_rng(seed)
    points = sorted(zip(rng.uniform(0, 1, 40), rng.uniform(0, 1, 40)))
    figure = Figure(figsize=(4, 3))
    axes = figure.add_subplot()
    axes.plot(*zip(*points), "o-")
    labels = [Label(x, y, f"{k}@50", "k") for k, (x, y) in enumerate(points)]
    written = place_labels(axes, labels, [points], points)
    assert 3 < len(written) <= 40
    boxes = boxes_of(axes)
    assert len(boxes) == len(written) and not overlapping(boxes)
    at = axes.transData.transform(points)
    for box in boxes:
        inside = (
            (at[:, 0] > box.x0) & (at[:, 0] < box.x1) & (at[:, 1] > box.y0) & (at[:, 1] < box.y1)
        )
        assert not inside.any()  # no label covers a mark
        frame = axes.get_window_extent()
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1


def test_labels_of_a_report_do_not_collide_and_every_mark_is_in_the_legend(runs):  # noqa: F811
    report = tables.build_report(runs, ["vvc_remote"], QUICK)
    figure = plots.draw(report, "box_ap")
    canvas_of(figure).draw()
    (axes,) = figure.axes
    boxes = boxes_of(axes)
    assert len(boxes) >= 6 and not overlapping(boxes)
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"vvc_feature", "vvc_remote", "vvc_remote_100"} <= shown
    drawn = [
        item for item in (*axes.lines, *axes.collections) if not item.get_label().startswith("_")
    ]
    assert {item.get_label() for item in drawn} == shown
    renderer = canvas_of(figure).get_renderer()
    assert not figure.legends[0].get_window_extent(renderer).overlaps(axes.get_window_extent())
