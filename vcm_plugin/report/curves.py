# SPDX-License-Identifier: BSD-3-Clause
"""Which curves do the rate points of a run make?

A run that coded at several picture sizes (rate points such as "32@50": QP 32 at 50 %) gives two
curves: its own name is the convex hull over all sizes, as the VCM anchor, and `<name>_100` is the
plain curve at 100 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vcm_plugin.ctc.results import Accuracy, PointResult
from vcm_plugin.metrics.convex_hull import convex_hull
from vcm_plugin.metrics.rate import bpp
from vcm_plugin.rate_points import has_layers, percent_of


@dataclass(frozen=True)
class Point:
    """One rate point of one run; accuracy in percent."""

    codec: str  # the name of the run in this report
    rate_point: str
    pictures: int
    bits: int
    pixels: int
    accuracy: Accuracy

    @property
    def bpp(self) -> float:
        return bpp(self.bits, self.pixels)

    @property
    def percent(self) -> int:
        """The size at which pictures were coded."""
        return percent_of(self.rate_point)


@dataclass(frozen=True)
class Curve:
    """Rate points that are compared as one curve; `hull` curves keep the best mix of sizes."""

    name: str
    points: tuple[Point, ...]
    hull: bool

    def chosen(self, metric: str) -> tuple[Point, ...]:
        """The points that make the curve for one metric, by rising rate."""
        by_rate = tuple(sorted(self.points, key=lambda point: point.bits))
        if not self.hull:
            return by_rate
        kept = set(convex_hull([(p.bpp, p.accuracy[metric]) for p in by_rate]))
        unique = {(p.bpp, p.accuracy[metric]): p for p in reversed(by_rate)}
        return tuple(unique[key] for key in sorted(kept))

    def rate_accuracy(self, metric: str) -> list[tuple[float, float]]:
        """(bpp, accuracy) of the chosen points."""
        return [(point.bpp, point.accuracy[metric]) for point in self.chosen(metric)]


def points_of(name: str, results: Sequence[PointResult]) -> tuple[Point, ...]:
    """The rate points of a run that has this name in the report."""
    return tuple(
        Point(name, stored.rate_point, stored.pictures, stored.bits, stored.pixels, stored.accuracy)
        for stored in results
    )


def curves_of(name: str, points: tuple[Point, ...]) -> list[Curve]:
    """The curves of a run; none of two layers, whose bits are mostly not for the detector."""
    if has_layers(points[0].rate_point):
        return []
    plain = tuple(point for point in points if point.percent == 100)
    if len(plain) == len(points):
        return [Curve(name, points, hull=False)]
    hull = [Curve(name, points, hull=True)]
    return hull + ([Curve(f"{name}_100", plain, hull=False)] if plain else [])
