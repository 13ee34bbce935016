# SPDX-License-Identifier: BSD-3-Clause
"""How many bits, how good, and how much better: pure functions on numbers.

A curve is a sequence of (rate, accuracy) points in any order, or a pair of two sequences: the rates
and the accuracies, as `bjontegaard` takes them. Order is always (anchor, test); a negative BD-rate
means fewer bits at equal accuracy. What cannot be computed comes back as
`None` together with the reason, never as a stand-in value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import nnls

from vcm_plugin.errors import InputError

Points = Sequence[tuple[float, float]]
Curve = Points | tuple[Sequence[float], Sequence[float]]  # points, or (rates, accuracies)

MIN_POINTS = 4  # the reporting sheets compare at least four rate points
METHODS = {"pchip": "pchip", "monotone": "pchip after monotone fit"}  # option -> label


@dataclass(frozen=True)
class BdRate:
    """One BD-rate; `percent` is None where it was refused, and `reason` then says why."""

    percent: float | None
    method: str  # a label of METHODS
    overlap: tuple[float, float] | None = None  # accuracy interval both curves cover
    reason: str | None = None


@dataclass(frozen=True)
class BitsAt:
    """The rate (bits or bpp) at one accuracy, or None and the reason."""

    bits: float | None
    method: str
    reason: str | None = None


@dataclass(frozen=True)
class Interval:
    """A 95 % bootstrap interval, or None and the reason; `used` of `resamples` had a value."""

    low_high: tuple[float, float] | None
    used: int
    resamples: int
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A curve made ready for one method: by rising rate, fitted where the method asks for it.

    points: float64 (N, 2). problem: why no BD-rate can be made of it, or None.
    """

    points: np.ndarray
    method: str
    problem: str | None

    @cached_property
    def log_rate(self) -> PchipInterpolator:
        """log10(rate) over accuracy, of a curve without a problem."""
        return PchipInterpolator(self.points[:, 1], np.log10(self.points[:, 0]))


def prepare(curve: Curve, method: str = "pchip") -> Prepared:
    """A curve for `bd_rate`, `bits_at` and `bd_rate_interval`, which take it in a curve's place:
    one that is compared with several others is fitted and interpolated once.

    Raises InputError for what is no curve, and for an unknown method.
    """
    _label(method)
    points = points_of(curve)
    problem = _unusable(points)
    if problem is None and method == "monotone":
        points = np.array(monotone_fit(points.tolist()))
        if np.any(np.diff(points[:, 1]) <= 1e-9):
            problem = "the monotone fit is flat: accuracy does not rise with the rate"
    if problem is None:
        problem = _not_rising(points)
    return Prepared(points, method, problem)


def bd_rate(
    anchor: Curve | Prepared,
    test: Curve | Prepared,
    method: str = "pchip",
    min_overlap: float = 0.0,
) -> BdRate:
    """Average rate difference of `test` against `anchor` at equal accuracy, in percent.

    "pchip" interpolates log10(rate) over accuracy piecewise as the JVET reporting sheet does;
    "monotone" fits both curves with `monotone_fit` first, as the VCM test conditions allow.
    Refused, with the reason: fewer than four points, equal or falling points, no overlap,
    an overlap below `min_overlap` accuracy points.

    Raises InputError for what is no curve, for one that was prepared for another method, and for an
    unknown method.

    >>> anchor = [(1, 30), (2, 40), (4, 50), (8, 60)]
    >>> round(bd_rate(anchor, [(rate / 2, ap) for rate, ap in anchor]).percent, 6)
    -50.0
    >>> rates, accuracies = [1, 2, 4, 8], [30, 40, 50, 60]
    >>> round(bd_rate((rates, accuracies), ([2, 4, 8, 16], accuracies)).percent, 6)
    100.0
    >>> bd_rate(anchor, anchor[:3]).reason
    'test: 3 points, at least 4 are needed'
    """
    label = _label(method)
    curves = []
    for name, curve in (("anchor", anchor), ("test", test)):
        prepared = _prepared(curve, method)
        if prepared.problem is not None:
            return BdRate(None, label, reason=f"{name}: {prepared.problem}")
        curves.append(prepared)
    low = max(curve.points[0, 1] for curve in curves)
    high = min(curve.points[-1, 1] for curve in curves)
    if high <= low:
        ranges = " and ".join(f"{c.points[0, 1]:.2f} .. {c.points[-1, 1]:.2f}" for c in curves)
        return BdRate(None, label, reason=f"no overlap: the accuracies are {ranges}")
    overlap = (float(low), float(high))
    if high - low < min_overlap:
        reason = f"the overlap {low:.2f} .. {high:.2f} is under {min_overlap:g} accuracy points"
        return BdRate(None, label, overlap, reason)
    areas = [curve.log_rate.integrate(low, high) for curve in curves]
    difference = float(areas[1] - areas[0]) / (high - low)
    return BdRate(float(100 * (10**difference - 1)), label, overlap)


def bits_at(curve: Curve | Prepared, accuracy: float, method: str = "pchip") -> BitsAt:
    """The rate at which a curve reaches `accuracy`: PCHIP of log10(rate) over accuracy.

    Used for the near-lossless point (1 AP below uncompressed). Never extrapolates. Raises
    InputError for what is no curve, and for an unknown method.

    >>> round(bits_at([(1, 30), (2, 40), (4, 50), (8, 60)], 45).bits, 4)
    2.8284
    >>> bits_at([(1, 30), (2, 40), (4, 50), (8, 60)], 61).reason
    '61.00 is above the measured accuracies 30.00 .. 60.00'
    """
    label = _label(method)
    prepared = _prepared(curve, method)
    if prepared.problem is not None:
        return BitsAt(None, label, prepared.problem)
    low, high = prepared.points[0, 1], prepared.points[-1, 1]
    if not low <= accuracy <= high:
        side = "below" if accuracy < low else "above"
        reason = f"{accuracy:.2f} is {side} the measured accuracies {low:.2f} .. {high:.2f}"
        return BitsAt(None, label, reason)
    return BitsAt(float(10 ** prepared.log_rate(accuracy)), label)


def monotone_fit(curve: Curve) -> list[tuple[float, float]]:
    """Replace the accuracies of a curve by a rising, concave cubic in log10(rate).

    The constrained fit of the VCM test conditions (Wang et al., PCS 2024): least squares with
    slope >= 0 and curvature <= 0 at the points, value >= 0 at the lowest and <= 100 at the
    highest rate. All constraints are linear in the coefficients, so the optimum is unique; it is
    found exactly as a least-distance problem (Lawson and Hanson, 1974, chapter 23), by scipy's
    nnls; no library has this fit, and isotonic regression gives steps. Raises
    InputError for what is no curve, and where two points have one rate or a rate is not positive.

    >>> [(rate, round(ap, 2)) for rate, ap in monotone_fit([(1, 30), (2, 42), (4, 41), (8, 50)])]
    [(1.0, 30.72), (2.0, 39.13), (4.0, 44.59), (8.0, 48.57)]
    """
    points = points_of(curve)
    problem = _no_rates(points)
    if problem:
        raise InputError(f"monotone fit: {problem}")
    log_rate, accuracy = np.log10(points[:, 0]), points[:, 1]
    x = (log_rate - log_rate.mean()) / (log_rate.max() - log_rate.min())
    zero, one = np.zeros_like(x), np.ones_like(x)
    cubic = np.stack([x**3, x**2, x, one], axis=1)  # (points, coefficients)
    slope = np.stack([3 * x**2, 2 * x, one, zero], axis=1)
    curvature = np.stack([6 * x, 2 * one, zero, zero], axis=1)
    sides = np.vstack([slope, -curvature, cubic[:1], -cubic[-1:]])  # sides @ b >= bounds
    bounds = np.zeros(len(sides))
    bounds[-1] = -100.0
    q, r = np.linalg.qr(cubic)
    target = q.T @ accuracy
    sides_z = np.linalg.solve(r.T, sides.T).T
    distance = np.vstack([sides_z.T, bounds - sides_z @ target])
    goal = np.zeros(len(distance))
    goal[-1] = 1.0
    weights, _ = nnls(distance, goal)
    residual = distance @ weights - goal
    coefficients = np.linalg.solve(r, target - residual[:-1] / residual[-1])
    fitted = cubic @ coefficients
    return [(float(rate), float(value)) for rate, value in zip(points[:, 0], fitted, strict=True)]


def points_of(curve: Curve) -> np.ndarray:
    """The points of a curve, float64 (N, 2), by rising rate; raises InputError for another shape.

    Two pairs are two points, never two rates and two accuracies.

    >>> points_of(([4, 1, 2], [50, 30, 40])).tolist()
    [[1.0, 30.0], [2.0, 40.0], [4.0, 50.0]]
    """
    given = list(curve)
    try:
        points = np.array(given) if given else np.zeros((0, 2))
    except ValueError:  # rows of several lengths
        points = np.zeros(0)
    if points.ndim == 2 and len(points) == 2 and points.shape[1] != 2:
        points = points.T  # (rates, accuracies)
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
        shown = repr(given)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise InputError(
            "a curve: expected (rate, accuracy) points, or (rates, accuracies) of one length, "
            f"found {shown}"
        )
    return points[np.lexsort((points[:, 1], points[:, 0]))].astype(np.float64)


def bootstrap_counts(pictures: int, resamples: int, seed: int) -> np.ndarray:
    """How often each resample of `pictures` with replacement holds each picture.

    Returns int64 (resamples, pictures); every row sums to `pictures`. The generator and its seed
    are explicit, so the same seed gives the same resamples for every codec that is compared.
    """
    draws = np.random.default_rng(seed).integers(0, pictures, size=(resamples, pictures))
    return np.stack([np.bincount(draw, minlength=pictures) for draw in draws])


def bd_rate_interval(
    anchors: Sequence[Curve | Prepared],
    tests: Sequence[Curve | Prepared],
    method: str = "pchip",
    min_overlap: float = 0.0,
) -> Interval:
    """The 95 % interval of the BD-rate over paired resampled curves.

    A resample whose BD-rate is refused has no value; with more than a fifth of those, what is
    left would be a biased choice and the interval is refused too.
    """
    results = [bd_rate(a, t, method, min_overlap) for a, t in zip(anchors, tests, strict=True)]
    percents = [result.percent for result in results if result.percent is not None]
    if len(percents) < 0.8 * len(results) or not percents:
        first = next((result.reason for result in results if result.reason), "no resamples")
        reason = (
            f"no interval: more than 20 % of the resamples had no BD-rate ("
            f"{len(results) - len(percents)} of {len(results)}: {first})"
        )
        return Interval(None, len(percents), len(results), reason)
    low, high = np.percentile(percents, [2.5, 97.5])
    return Interval((float(low), float(high)), len(percents), len(results))


def _label(method: str) -> str:
    if method not in METHODS:
        raise InputError(f"unknown BD-rate method {method!r}: use one of {', '.join(METHODS)}")
    return METHODS[method]


def _prepared(curve: Curve | Prepared, method: str) -> Prepared:
    if not isinstance(curve, Prepared):
        return prepare(curve, method)
    if curve.method != method:
        raise InputError(f"a curve prepared for {curve.method}, expected one for {method}")
    return curve


def _unusable(points: np.ndarray) -> str | None:
    if len(points) < MIN_POINTS:
        return f"{len(points)} points, at least {MIN_POINTS} are needed"
    return _no_rates(points)


def _no_rates(points: np.ndarray) -> str | None:
    if not np.all(np.isfinite(points)) or np.any(points[:, 0] <= 0):
        return "every point needs a positive rate and a finite accuracy"
    same = np.flatnonzero(np.diff(points[:, 0]) == 0)
    if len(same):
        return f"two points have the same rate {_rate(points[same[0], 0])}"
    return None


def _not_rising(points: np.ndarray) -> str | None:
    falls = np.flatnonzero(np.diff(points[:, 1]) <= 0)
    if not len(falls):
        return None
    pairs = "; ".join(
        f"{points[i, 1]:.3f} at {_rate(points[i, 0])} but {points[i + 1, 1]:.3f} at "
        f"{_rate(points[i + 1, 0])}"
        for i in falls
    )
    return f"not monotone, accuracy does not rise with the rate: {pairs}"


def _rate(rate: float) -> str:
    """A rate in a sentence: bits by thousands, bits per pixel by their first digits; no powers."""
    if rate >= 1000:
        return f"{rate:,.0f}"
    return f"{rate:.4g}" if rate >= 1e-3 else f"{rate:.6f}"
