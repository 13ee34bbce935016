# SPDX-License-Identifier: BSD-3-Clause
"""How do curves vary with the pictures? Each curve again on resamples of the test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vcm_plugin.ctc.results import PointResult
from vcm_plugin.errors import InputError
from vcm_plugin.metrics.bd_rate import Prepared, bootstrap_counts, prepare
from vcm_plugin.metrics.coco_ap import average_precisions, read_matches
from vcm_plugin.metrics.convex_hull import convex_hull
from vcm_plugin.report.curves import Curve
from vcm_plugin.report.runs import Run


@dataclass(frozen=True)
class Resampled:
    """Curves on resamples of the pictures, which are prepared for a method once, however many
    curves they are compared with.

    drawn: (curve, metric) -> one curve per resample; None where a run keeps no matches.
    """

    drawn: Mapping[tuple[str, str], list | None]
    _prepared: dict[tuple[str, str, str], list[Prepared]] = field(default_factory=dict)

    def prepared(self, curve: str, metric: str, method: str) -> list[Prepared] | None:
        """The resamples of a curve for a method of `bd_rate`."""
        drawn = self.drawn[curve, metric]
        if drawn is None:
            return None
        key = curve, metric, method
        if key not in self._prepared:
            self._prepared[key] = [prepare(points, method) for points in drawn]
        return self._prepared[key]


def resampled_curves(
    runs: Sequence[Run], curves: Sequence[Curve], metrics: Sequence[str], resamples: int, seed: int
) -> Resampled:
    """Each curve on resamples of the pictures, the same for all curves.

    None where a run keeps no matches of its pictures.
    """
    points: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for run in runs:
        for stored in run.result.points:
            path = run.folder / stored.rate_point / "matches.npz"
            if path.is_file():
                resampled = _resampled_point(path, stored, resamples, seed)
                points[run.name, stored.rate_point] = resampled
    drawn: dict[tuple[str, str], list | None] = {}
    for curve in curves:
        values = [points.get((point.codec, point.rate_point)) for point in curve.points]
        for metric in metrics:
            complete = all(value is not None for value in values)
            drawn[curve.name, metric] = _drawn(values, metric, curve.hull) if complete else None
    return Resampled(drawn)


def _drawn(points: Sequence[Mapping[str, np.ndarray]], metric: str, hull: bool) -> list:
    """One curve per resample, from the resampled rate points."""
    bpp = np.stack([point["bpp"] for point in points], axis=1).tolist()
    accuracy = np.stack([point[metric] for point in points], axis=1).tolist()
    drawn = [list(zip(*pair, strict=True)) for pair in zip(bpp, accuracy, strict=True)]
    if hull and np.isfinite(accuracy).all():  # else a resample holds no object; BD-rate says so
        return [convex_hull(curve) for curve in drawn]
    return drawn


def _resampled_point(
    path: Path, stored: PointResult, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """bpp and every AP of one rate point on each resample of its pictures."""
    matches = read_matches(path)
    bits_of = stored.bits_by_picture
    values: dict[str, np.ndarray] = {}
    for task, of_task in matches.items():
        image_ids = of_task.image_ids.tolist()
        if set(image_ids) != set(bits_of):
            raise InputError(
                f"{path}: expected the pictures of result.json, found others; run it again"
            )
        counts = bootstrap_counts(len(image_ids), resamples, seed)
        bits = counts @ np.array([bits_of[image_id] for image_id in image_ids])
        values["bpp"] = bits / (counts @ of_task.pixels)
        for name, aps in average_precisions(of_task, counts).items():
            values[f"{task}_{name}"] = aps
    return values
