# SPDX-License-Identifier: BSD-3-Clause
"""What do finished runs say about human vision? Measures of the decoded pictures against bits.

A human codec has two rates: its points at one machine rate make one curve over the human rate. One
whose machine part and picture have a rate together (latent_scalable, multi_head) has one curve.
Every curve is compared with the anchors at an equal value of each measure, in total bits:

    simulcast (MBID)    its curve at the same machine rate, so at equal machine accuracy
    vvc_remote (SBAR)   one picture for person and detector: the bits at which it has reached both
                        the value and the accuracy that the detector has with the test's features

On pictures without ground truth the second comparison is with VVC on the picture alone. A codec
that codes pictures at several sizes is the envelope of its curves, one for each size. (A convex
hull over the logarithm of bits would pass above the points of any curve that is not concave.)

Not every picture is looked at. Where a share p of them is, a file of two layers costs
machine + p * human bits for each picture; one picture for both always costs all of its bits. The
share at which both cost the same is the break-even.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vcm_plugin.ctc.results import PointResult, RunResult
from vcm_plugin.metrics.bd_rate import BdRate, bd_rate, bits_at
from vcm_plugin.metrics.rate import bpp
from vcm_plugin.rate_points import has_layers, machine_part, percent_of
from vcm_plugin.report.titles import HUMAN_METRICS, METRICS

COMPARED = tuple(key for key in HUMAN_METRICS if METRICS[key].compared)  # what curves are
ACCURACY = "box_ap"  # of equal machine accuracy


@dataclass(frozen=True)
class HumanPoint:
    """One rate point: bits per pixel in all, and what was measured; "n/a: ..." where nothing was.

    accuracy: box AP of the detector with what the file holds for it, None without ground truth.
    """

    rate_point: str
    bpp: float
    machine_bpp: float | None
    accuracy: float | None
    values: Mapping[str, float | str]

    @property
    def percent(self) -> int:
        """The size at which its picture is coded."""
        return percent_of(self.rate_point)


@dataclass(frozen=True)
class HumanCurve:
    """The points of one run at one machine rate, by rising rate; machine: "" where machine and
    person have no rates of their own."""

    name: str
    run: str
    machine: str
    points: tuple[HumanPoint, ...]

    @property
    def has_parts(self) -> bool:
        """Whether the detector has what the files hold for it, and not the picture."""
        return any(point.machine_bpp is not None for point in self.points)

    def rates(self, metric: str) -> list[tuple[float, float]]:
        """(bpp, value) where it was measured, negated where lower is better; of several sizes
        the points for whose value no other size needs fewer bits."""
        sign = _sign(metric)
        measured = [(point, point.values.get(metric)) for point in self.points]
        sizes: dict[int, list[tuple[float, float]]] = {}
        for point, value in measured:
            if isinstance(value, float):
                sizes.setdefault(point.percent, []).append((point.bpp, sign * value))
        return envelope(list(sizes.values()))

    def measured(self, metric: str) -> bool:
        """Whether all of its points have a value."""
        return all(isinstance(point.values.get(metric), float) for point in self.points)

    def accuracies(self) -> list[tuple[float, float]]:
        """(bpp, box AP) of the points."""
        return [(p.bpp, p.accuracy) for p in self.points if p.accuracy is not None]


@dataclass(frozen=True)
class EqualValue:
    """Total bits per pixel of a test point and of an anchor that has the same value of a measure.

    machine_bpp: of the test's machine layer. accuracy_bpp: what the anchor needs for equal machine
    accuracy, where that is more. reason: why there is no figure of the anchor.
    """

    test: str
    rate_point: str
    anchor: str
    metric: str
    value: float
    bpp: float
    machine_bpp: float | None
    anchor_bpp: float | None
    accuracy_bpp: float | None
    reason: str | None

    @property
    def percent(self) -> float | None:
        """Bits of the test over those of the anchor, as a difference in percent."""
        return None if self.anchor_bpp is None else 100 * (self.bpp / self.anchor_bpp - 1)

    def expected_bpp(self, share: float) -> float | None:
        """Of the test, where a share of the pictures is looked at; None without two layers."""
        if self.machine_bpp is None:
            return None
        return self.machine_bpp + share * (self.bpp - self.machine_bpp)

    @property
    def break_even_share(self) -> float | None:
        """The share of pictures looked at up to which the test costs less than one picture for
        both; over 1: it always does. None against any other anchor."""
        if None in (self.accuracy_bpp, self.anchor_bpp, self.machine_bpp):
            return None
        if self.machine_bpp == self.bpp:  # of one stream, all of which the detector needs
            return None
        return (self.anchor_bpp - self.machine_bpp) / (self.bpp - self.machine_bpp)


@dataclass(frozen=True)
class HumanComparison:
    """BD-rate in total bits of two curves at equal value of a measure."""

    test: str
    anchor: str
    metric: str
    result: BdRate


@dataclass(frozen=True)
class HumanVision:
    """All that a report says about human vision; empty where no run measured it."""

    curves: tuple[HumanCurve, ...] = ()
    equal: tuple[EqualValue, ...] = ()
    comparisons: tuple[HumanComparison, ...] = ()


def human_vision(results: Mapping[str, RunResult], anchors: Sequence[str]) -> HumanVision:
    """Compare the human codecs among the runs {name: result} with the anchors among them."""
    curves = tuple(c for name, result in results.items() for c in _curves(name, result))
    equal, comparisons = [], []
    for test in (c for c in curves if c.has_parts and c.run not in anchors):
        for anchor in (c for c in curves if c.run in anchors and c.machine in ("", test.machine)):
            for metric in COMPARED:
                if not test.measured(metric) or not anchor.rates(metric):
                    continue
                equal += [_equal(test, point, anchor, metric) for point in test.points]
                result = bd_rate(anchor.rates(metric), test.rates(metric))
                comparisons.append(HumanComparison(test.name, anchor.name, metric, result))
    return HumanVision(curves, tuple(equal), tuple(comparisons))


def envelope(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The points (bpp, value) of curves for whose value no other curve needs fewer bits, by rate.

    Between its points a curve is a straight line over the logarithm of bits.

    >>> envelope([[(1.0, 10.0), (4.0, 20.0)], [(1.5, 15.0), (8.0, 19.0)]])
    [(1.0, 10.0), (1.5, 15.0), (4.0, 20.0)]
    """
    kept = []
    for number, curve in enumerate(curves):
        others = [other for k, other in enumerate(curves) if k != number]
        kept += [(rate, v) for rate, v in curve if all(rate <= _needed(o, v) for o in others)]
    return sorted(kept)


def _needed(curve: Sequence[tuple[float, float]], value: float) -> float:
    """Bits at which a curve has a value; infinite where it never has."""
    by_value = sorted((v, rate) for rate, v in curve)
    values, logs = [v for v, _ in by_value], [math.log(rate) for _, rate in by_value]
    if not values[0] <= value <= values[-1]:
        return math.inf
    return math.exp(np.interp(value, values, logs))


def _curves(name: str, result: RunResult) -> list[HumanCurve]:
    by_machine: dict[str, list[HumanPoint]] = {}
    for stored in result.points:
        if stored.human_vision is not None:
            layers = has_layers(stored.rate_point)
            machine = machine_part(stored.rate_point) if layers else ""
            by_machine.setdefault(machine, []).append(_point(stored))
    return [
        HumanCurve(
            f"{name} {machine}".strip(), name, machine,
            tuple(sorted(points, key=lambda point: point.bpp)),
        )
        for machine, points in by_machine.items()
    ]  # fmt: skip


def _point(stored: PointResult) -> HumanPoint:
    values = dict(stored.human_vision or {})
    machine, _ = values.pop("machine_bits", None), values.pop("human_bits", None)
    return HumanPoint(
        stored.rate_point,
        bpp(stored.bits, stored.pixels),
        None if machine is None else bpp(machine, stored.pixels),
        stored.accuracy.get(ACCURACY),
        values,
    )


def _equal(test: HumanCurve, point: HumanPoint, anchor: HumanCurve, metric: str) -> EqualValue:
    value = point.values[metric]
    at_value = bits_at(anchor.rates(metric), _sign(metric) * value)
    bits, accuracy_bits, reason = at_value.bits, None, at_value.reason
    if bits is not None and not anchor.machine and point.accuracy is not None:
        reached = bits_at(anchor.accuracies(), point.accuracy, "monotone")
        accuracy_bits = reached.bits
        if reached.bits is None:
            bits, reason = None, f"equal machine accuracy: {reached.reason}"
        else:
            bits = max(bits, reached.bits)
    return EqualValue(
        test.name, point.rate_point, anchor.name, metric, value, point.bpp, point.machine_bpp,
        bits, accuracy_bits, reason,
    )  # fmt: skip


def _sign(metric: str) -> float:
    """Curves rise with the rate: of a metric that falls, the negative is taken."""
    return 1.0 if METRICS[metric].higher_is_better else -1.0
