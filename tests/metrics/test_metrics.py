# SPDX-License-Identifier: BSD-3-Clause
"""Do the rate and BD-rate functions equal published tables and second implementations?"""

import json
import math
from pathlib import Path

import bjontegaard
import numpy as np
import pytest
from scipy.optimize import minimize

from vcm_plugin.errors import InputError
from vcm_plugin.metrics.bd_rate import (
    METHODS,
    bd_rate,
    bd_rate_interval,
    bits_at,
    bootstrap_counts,
    monotone_fit,
    prepare,
)
from vcm_plugin.metrics.convex_hull import convex_hull
from vcm_plugin.metrics.psnr import psnr
from vcm_plugin.metrics.rate import bpp, kbps

REFERENCE = Path(__file__).parents[2] / "anchors" / "reference"
ANCHOR = [(100, 30.0), (200, 41.0), (400, 50.0), (800, 56.0), (1600, 60.0), (3200, 61.5)]
TEST = [(60, 28.0), (130, 40.0), (280, 51.0), (610, 57.5), (1300, 60.4), (2900, 61.2)]


def reference_curve(name: str, metric: str) -> list[tuple[float, float]]:
    document = json.loads((REFERENCE / name).read_text())
    return [(point["bpp"], point["accuracy"][metric]) for point in document["points"]]


# JCTVC-E137, two sequences: kbps -> dB of anchor and test, BD-rate in percent.
JCTVC_E137 = [
    (
        {108048.8736: 43.6471, 61279.976: 40.3953, 33905.6656: 37.247, 18883.6928: 34.2911},
        {108061.2784: 43.6768, 61299.9936: 40.4232, 33928.7472: 37.2761, 18910.912: 34.3147},
        -0.4652,
    ),
    (
        {40433.8848: 37.5761, 7622.7456: 35.3756, 2394.488: 33.8977, 1017.6184: 32.0603},
        {40370.12: 37.5982, 7587.0024: 35.4025, 2390.0944: 33.9194, 1017.0984: 32.0822},
        -1.8780,
    ),
]


@pytest.mark.parametrize("anchor, test, published", JCTVC_E137)
def test_bd_rate_equals_the_sheet_of_jctvc_e137(anchor, test, published):
    result = bd_rate(anchor.items(), test.items())
    assert result.percent == pytest.approx(published, abs=0.01)


def test_bd_rate_equals_the_published_h_simo_figure():
    anchor = reference_curve("oiv6_detection_x101_vtm_remote.json", "box_ap50")
    test = reference_curve("oiv6_detection_x101_h_simo.json", "box_ap50")
    result = bd_rate(anchor, test)
    assert round(result.percent, 1) == -82.1
    assert result.overlap == (57.55, 78.67)


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("*.json")), ids=lambda path: path.stem)
def test_published_points_name_their_source_and_make_a_curve(path):
    document = json.loads(path.read_text())
    assert (document["format"], document["version"]) == ("vcm-plugin reference", 1)
    assert document["published"] is True and document["source"]
    rates, values = zip(*sorted(reference_curve(path.name, document["metric"])), strict=True)
    assert all(rate > 0 for rate in rates) and len(set(rates)) == len(rates)
    assert values[0] == min(values)  # the highest rate of two of them is a little worse


def test_bd_rate_equals_the_bjontegaard_package():
    rng = np.random.default_rng(3)
    for points in (4, 5, 6, 8):
        for _ in range(20):
            (ra, rt), (da, dt) = np.cumsum(rng.uniform(1, 20, (2, 2, points)), axis=2)
            ours = bd_rate(np.stack([ra, da], 1).tolist(), np.stack([rt, dt], 1).tolist())
            if ours.percent is None:
                assert ours.reason.startswith("no overlap")
                continue
            theirs = bjontegaard.bd_rate(ra, da, rt, dt, method="pchip", min_overlap=0)
            assert ours.percent == pytest.approx(theirs, abs=1e-9)


def test_bd_rate_does_not_depend_on_the_order_of_points_or_the_unit_of_rate():
    shuffled = [TEST[i] for i in (3, 0, 5, 1, 4, 2)]
    scaled = [[(rate / 7, ap) for rate, ap in curve] for curve in (ANCHOR, shuffled)]
    expected = bd_rate(ANCHOR, TEST).percent
    assert bd_rate(*scaled).percent == pytest.approx(expected, abs=1e-9)


FALLING = [(1, 30), (2, 40), (3, 39.5), (4, 50), (5, 49)]
FLAT = [(1, 50), (2, 50), (3, 50), (4, 50)]
REFUSED = [
    ("one point", ANCHOR[:1], 0, "test: 1 points, at least 4"),
    ("no points", [], 0, "test: 0 points"),
    ("three points", ANCHOR[:3], 0, "test: 3 points"),
    ("falls twice", FALLING, 0, "40.000 at 2 but 39.500 at 3; 50.000 at 4 but 49.000 at 5"),
    ("equal accuracies", FLAT, 0, "test: not monotone"),
    ("equal points", [ANCHOR[0], *ANCHOR], 0, "test: two points have the same rate 100"),
    ("equal rates", [(1, 30), (1, 40), (2, 50), (3, 60)], 0, "two points have the same rate 1"),
    ("no overlap", [(r, a + 40) for r, a in ANCHOR], 0, "no overlap: the accuracies are 30.00"),
    ("touching", [(r, a + 31.5) for r, a in ANCHOR], 0, "no overlap"),
    ("small overlap", [(r, a + 27) for r, a in ANCHOR], 5, "57.00 .. 61.50 is under 5 accuracy"),
    ("zero rate", [(0, 1), *ANCHOR], 0, "positive rate"),
    ("not a number", [(50, math.nan), *ANCHOR], 0, "finite accuracy"),
]


@pytest.mark.parametrize("_, test, minimum, reason", REFUSED)
def test_bd_rate_is_refused_with_the_reason(_, test, minimum, reason):
    result = bd_rate(ANCHOR, test, min_overlap=minimum)
    assert result.percent is None
    assert reason in result.reason


NO_CURVES = [
    ("flat", [1, 2, 4, 8, 30, 40, 50, 60], r"found \[1, 2, 4, 8, 30, 40, 50, 60\]"),
    ("triples", [(1, 2, 3)] * 4, "points, or"),
    ("two lengths", ([1, 2, 4, 8], [30, 40, 50]), "of one length"),
    ("texts", ["12", "34", "56", "78"], "points, or"),
    ("one level too deep", [[[1, 30], [2, 40]]] * 4, "points, or"),
]


@pytest.mark.parametrize("_, curve, message", NO_CURVES)
def test_what_is_no_curve_gives_no_number(_, curve, message):
    for call in (
        lambda: bd_rate(curve, ANCHOR),
        lambda: bd_rate(ANCHOR, curve),
        lambda: bits_at(curve, 40),
        lambda: monotone_fit(curve),
        lambda: convex_hull(curve),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_rates_and_accuracies_are_a_curve_too():
    anchor, test = (tuple(zip(*curve, strict=True)) for curve in (ANCHOR, TEST))
    assert bd_rate(anchor, test) == bd_rate(ANCHOR, TEST)
    arrays = [np.array(curve) for curve in (ANCHOR, TEST)]
    assert bd_rate(*arrays) == bd_rate(*(array.T for array in arrays)) == bd_rate(ANCHOR, TEST)
    assert monotone_fit(anchor) == monotone_fit(ANCHOR)
    assert convex_hull(anchor) == convex_hull(ANCHOR)


def test_the_anchor_is_named_when_it_is_the_one_refused():
    assert bd_rate(FALLING, ANCHOR).reason.startswith("anchor: not monotone")


def test_equal_curves_have_a_bd_rate_of_zero_and_the_method_is_checked():
    for method, label in METHODS.items():
        result = bd_rate(ANCHOR, ANCHOR, method)
        assert result.percent == pytest.approx(0, abs=1e-9)
        assert result.method == label
    with pytest.raises(InputError, match="pchip, monotone"):
        bd_rate(ANCHOR, TEST, "cubic")


def fit_by_general_optimiser(curve):
    """The same constrained fit by sequential quadratic programming."""
    rate, accuracy = np.array(sorted(curve)).T
    x = np.log10(rate)
    x = (x - x.mean()) / np.ptp(x)
    constraints = [
        {"type": "ineq", "fun": lambda b: np.polyval(np.polyder(b), x)},
        {"type": "ineq", "fun": lambda b: -np.polyval(np.polyder(b, 2), x)},
        {"type": "ineq", "fun": lambda b: np.polyval(b, x[0])},
        {"type": "ineq", "fun": lambda b: 100 - np.polyval(b, x[-1])},
    ]
    found = minimize(
        lambda b: np.sum((np.polyval(b, x) - accuracy) ** 2),
        [0, 0, 0, accuracy.mean()],
        constraints=constraints,
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    return np.polyval(found.x, x)


FITS = {
    "already concave": ANCHOR,
    "not monotone": [(0.02, 20), (0.05, 45), (0.11, 60), (0.25, 59), (0.6, 64), (1.4, 63.8)],
    "convex": [(1, 1), (10, 5), (100, 30), (1000, 90)],
    "near zero": [(1, 0), (2, 0), (4, 10), (8, 40), (16, 60)],
    "near a hundred": [(1, 60), (2, 90), (4, 99), (8, 100), (16, 100)],
}


@pytest.mark.parametrize("curve", FITS.values(), ids=FITS)
def test_monotone_fit_is_the_constrained_least_squares_optimum(curve):
    fitted = np.array([value for _, value in monotone_fit(curve)])
    by_slsqp = fit_by_general_optimiser(curve)
    accuracy = np.array(sorted(curve))[:, 1]
    assert np.sum((fitted - accuracy) ** 2) <= np.sum((by_slsqp - accuracy) ** 2) + 1e-6
    np.testing.assert_allclose(fitted, by_slsqp, atol=2e-3)
    assert fitted[0] >= -1e-9 and fitted[-1] <= 100 + 1e-9
    slopes = np.diff(fitted) / np.diff(np.log10([rate for rate, _ in sorted(curve)]))
    assert np.all(slopes >= -1e-9) and np.all(np.diff(slopes) <= 1e-9)


def test_monotone_fit_leaves_a_rising_concave_cubic_alone():
    x = np.linspace(0, 1, 6)
    curve = np.stack([10**x, 20 + 60 * x - 10 * x**2 - 5 * x**3], axis=1).tolist()
    np.testing.assert_allclose(monotone_fit(curve), curve, atol=1e-9)


def test_monotone_method_gives_a_figure_where_the_raw_one_is_refused():
    noisy = FITS["not monotone"]
    better = [(rate * 0.8, ap) for rate, ap in noisy]
    assert bd_rate(noisy, better).percent is None
    result = bd_rate(noisy, better, "monotone")
    assert result.percent == pytest.approx(-20, abs=1e-6)
    assert result.method == "pchip after monotone fit"


def test_monotone_method_refuses_a_curve_that_only_falls():
    falling = [(1, 60), (2, 50), (4, 40), (8, 30)]
    assert "flat" in bd_rate(ANCHOR, falling, "monotone").reason


def test_convex_hull_keeps_the_upper_left_points():
    full = [(8, 60), (4, 55), (2, 40), (1, 10)]
    half = [(2.2, 49), (1.5, 45), (0.8, 30), (0.4, 12)]
    hull = [(0.4, 12), (0.8, 30), (1.5, 45), (2.2, 49), (4, 55), (8, 60)]
    assert convex_hull(full + half) == hull


def beaten(p, points):
    """Whether another point, or a straight line between two others in log rate, is above `p`."""
    if any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points):
        return True
    around = [(a, b) for a in points for b in points if a[0] < p[0] < b[0]]
    return any(
        a[1] + (b[1] - a[1]) * math.log(p[0] / a[0]) / math.log(b[0] / a[0]) > p[1]
        for a, b in around
    )


def test_convex_hull_equals_a_brute_force_search():
    rng = np.random.default_rng(8)
    for _ in range(50):
        points = [(float(r), float(a)) for r, a in rng.uniform([0.1, 0], [9, 80], (12, 2))]
        expected = sorted(p for p in points if not beaten(p, points))
        assert convex_hull(points) == expected


DEGENERATE_HULLS = [
    ("none", [], []),
    ("one", [(1, 5)], [(1, 5)]),
    ("equal points", [(1, 5), (1, 5)], [(1, 5)]),
    ("equal rates", [(1, 5), (1, 7)], [(1, 7)]),
    ("dearer and no better", [(1, 5), (2, 5)], [(1, 5)]),
    ("on a line", [(1, 10), (10, 20), (100, 30)], [(1, 10), (100, 30)]),
]


@pytest.mark.parametrize("_, points, expected", DEGENERATE_HULLS)
def test_convex_hull_of_degenerate_inputs(_, points, expected):
    assert convex_hull(points) == expected


def test_convex_hull_refuses_a_rate_of_zero():
    with pytest.raises(InputError, match="positive"):
        convex_hull([(0, 5)])


def test_bits_at_returns_the_points_and_lies_between_them():
    for rate, accuracy in ANCHOR:
        assert bits_at(ANCHOR, accuracy).bits == pytest.approx(rate)
    assert 800 < bits_at(ANCHOR, 58).bits < 1600
    above = bits_at(ANCHOR, 62)
    assert above.bits is None
    assert above.reason == "62.00 is above the measured accuracies 30.00 .. 61.50"
    assert "below" in bits_at(ANCHOR, 1).reason
    assert "not monotone" in bits_at(FALLING, 45).reason
    assert bits_at(FALLING, 45, "monotone").bits is not None


def test_bpp_and_kbps_and_psnr():
    assert bpp(81920, 320 * 256) == 1.0
    assert kbps(3_000_000, 30, 33) == 3_000_000 * 30 / 33_000
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 16, np.uint8)
    assert psnr(black, grey) == pytest.approx(20 * math.log10(255 / 16))
    assert psnr(grey, black) == psnr(black, grey)  # unsigned, no wrap-around
    assert psnr(grey, grey) == math.inf
    for call in (
        lambda: bpp(1, 0),
        lambda: kbps(1, 30, 0),
        lambda: psnr(black, grey[:2]),
    ):
        with pytest.raises(InputError):
            call()


def test_bootstrap_counts_are_resamples_and_repeat_with_the_seed():
    counts = bootstrap_counts(64, 200, seed=5)
    assert counts.shape == (200, 64)
    assert np.all(counts.sum(axis=1) == 64)
    np.testing.assert_array_equal(counts, bootstrap_counts(64, 200, seed=5))
    assert np.any(counts != bootstrap_counts(64, 200, seed=6))
    assert counts.mean(axis=0) == pytest.approx(np.ones(64), abs=0.35)


def test_bd_rate_interval_covers_the_resampled_figures():
    rng = np.random.default_rng(1)
    factors = rng.uniform(0.7, 0.9, 200)
    tests = [[(rate * f, ap) for rate, ap in ANCHOR] for f in factors]
    interval = bd_rate_interval([ANCHOR] * 200, tests)
    low, high = np.percentile(100 * (factors - 1), [2.5, 97.5])
    assert interval.low_high == (pytest.approx(low), pytest.approx(high))
    assert interval.used == interval.resamples == 200


def test_bd_rate_interval_is_refused_when_too_many_resamples_are():
    interval = bd_rate_interval([ANCHOR] * 4, [TEST, FALLING, FALLING, TEST])
    assert interval.low_high is None
    assert (
        "20 % of the resamples had no BD-rate (2 of 4" in interval.reason
        and "not monotone" in interval.reason
    )


def test_refusals_show_rates_that_can_be_read():
    bits = [(1_297_184.4, 92.6), (2_468_104, 92.3), (5e6, 93.0), (2.0e7, 93.1)]
    assert "92.600 at 1,297,184 but 92.300 at 2,468,104" in bits_at(bits, 92).reason
    bpp = [(0.0123456, 60.0), (0.232181, 59.0), (6.63653, 70.0), (10.0, 71.0)]
    assert "60.000 at 0.01235 but 59.000 at 0.2322" in bd_rate(bpp, bpp).reason
    assert (
        bd_rate([(2e6, 1.0)] * 4, bpp).reason == "anchor: two points have the same rate 2,000,000"
    )


@pytest.mark.parametrize("method", METHODS)
def test_prepared_curves_give_the_same_as_their_points(method):
    anchor = [(1, 30.0), (2, 42.0), (4, 47.0), (8, 50.0)]
    test = [(rate / 3, value + 0.5) for rate, value in anchor]
    ready = prepare(anchor, method), prepare(test, method)
    assert bd_rate(*ready, method) == bd_rate(anchor, test, method)
    assert bits_at(ready[0], 45, method) == bits_at(anchor, 45, method)
    pairs = [anchor] * 9, [test] * 9
    assert bd_rate_interval(*pairs, method) == bd_rate_interval(
        [ready[0]] * 9, [ready[1]] * 9, method
    )
    other = next(name for name in METHODS if name != method)
    with pytest.raises(InputError, match=f"prepared for {method}, expected one for {other}"):
        bd_rate(*ready, other)
