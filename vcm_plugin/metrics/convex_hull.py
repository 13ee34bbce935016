# SPDX-License-Identifier: BSD-3-Clause
"""Which rate points of a curve does no mixture of two others beat?"""

import math

from vcm_plugin.errors import InputError
from vcm_plugin.metrics.bd_rate import Curve, points_of


def convex_hull(points: Curve) -> list[tuple[float, float]]:
    """The points on the upper-left convex hull in (log10 rate, accuracy), by rising rate.

    This is the VCM anchor over the resize factors: from the cheapest point to the most accurate
    one, keeping only points that no mix (straight line) of two others beats. Accuracy rises
    strictly along it, so a dearer point that is no better is never on it. Raises InputError for
    what is no curve, and for a rate that is not positive.

    >>> convex_hull([(1, 30), (2, 32), (4, 50), (8, 49)])
    [(1.0, 30.0), (4.0, 50.0)]
    """
    by_rate = sorted(map(tuple, points_of(points).tolist()), key=lambda p: (p[0], -p[1]))
    for rate, accuracy in by_rate:
        if not (rate > 0 and math.isfinite(rate) and math.isfinite(accuracy)):
            raise InputError(f"a hull needs positive, finite points, found ({rate}, {accuracy})")
    hull: list[tuple[float, float]] = []
    for point in by_rate:
        if hull and point[1] <= max(accuracy for _, accuracy in hull):
            continue
        while len(hull) >= 2 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    rise = right[1] - left[1]
    run = math.log10(right[0]) - math.log10(left[0])
    return math.inf if run == 0 else rise / run
