# SPDX-License-Identifier: BSD-3-Clause
"""What do finished runs say together? Run folders -> one `Report`, which every format renders.

A run that coded at several picture sizes (rate points such as "32@50": QP 32 at 50 %) gives two
curves: its own name is the convex hull over all sizes, as the VCM anchor, and `<name>_100` is the
plain curve at 100 %. BD-rate is computed between all curves and the named anchors.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vcm_plugin.ctc.results import UNCOMPRESSED, load_result
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json
from vcm_plugin.metrics.bd_rate import (
    METHODS,
    BdRate,
    BitsAt,
    Interval,
    bd_rate,
    bd_rate_interval,
    bits_at,
    bootstrap_counts,
)
from vcm_plugin.metrics.coco_ap import average_precisions, read_matches
from vcm_plugin.metrics.convex_hull import convex_hull
from vcm_plugin.metrics.rate import bpp
from vcm_plugin.report.human_vision import HumanVision, human_vision
from vcm_plugin.report.published import Reference, references_for

# Those that BD-rate is computed on.
AP_METRICS = ("box_ap", "box_ap50", "mask_ap", "mask_ap50", "miou")
SAME_MODEL_TOLERANCE = 0.5  # accuracy points between two runtimes of one detector


@dataclass(frozen=True)
class Rules:
    """How curves are compared; the accuracy points are those of the test condition."""

    min_overlap: float = 5.0  # accuracy points under which a BD-rate is no result
    near_lossless: float = 1.0  # accuracy points below uncompressed
    resamples: int = 200  # of the pictures, for the 95 % intervals
    seed: int = 1


@dataclass(frozen=True)
class Point:
    """One rate point of one run; accuracy in percent."""

    codec: str  # the name of the run in this report
    rate_point: str
    pictures: int
    bits: int
    pixels: int
    accuracy: Mapping[str, float]

    @property
    def bpp(self) -> float:
        return bpp(self.bits, self.pixels)

    @property
    def size(self) -> str:
        """The picture size in percent: "50" of "32@50"."""
        return self.rate_point.partition("@")[2] or "100"


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


@dataclass(frozen=True)
class Comparison:
    """BD-rate of a test curve against an anchor curve: raw, and after the monotone fit."""

    test: str
    anchor: str
    metric: str
    raw: BdRate
    raw_interval: Interval
    fit: BdRate
    fit_interval: Interval


@dataclass(frozen=True)
class NearLossless:
    """Bits at `accuracy`, a stated loss below uncompressed: raw, and after the monotone fit."""

    curve: str
    metric: str
    accuracy: float
    pixels: int
    raw: BitsAt
    fit: BitsAt


@dataclass(frozen=True)
class Run:
    """One run folder as the report needs it."""

    name: str
    folder: Path
    result: Mapping[str, Any]
    points: tuple[Point, ...]
    timings: Mapping[str, Any] | None  # timings.json, where the run keeps it


@dataclass(frozen=True)
class Report:
    """Everything that the formats render; computed once."""

    condition: str
    dataset: Mapping[str, Any]
    skipped: tuple[Any, ...]
    uncompressed: Mapping[str, float]
    runs: tuple[Run, ...]
    curves: tuple[Curve, ...]
    anchors: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    near_lossless: tuple[NearLossless, ...]
    human_vision: HumanVision
    rules: Rules
    published: tuple[Reference, ...]  # of the same test set and metric

    @property
    def points(self) -> tuple[Point, ...]:
        return tuple(point for run in self.runs for point in run.points)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every accuracy that was measured."""
        return tuple(self.uncompressed)

    @property
    def ap_metrics(self) -> tuple[str, ...]:
        """The accuracies that curves are compared on."""
        return tuple(metric for metric in AP_METRICS if metric in self.uncompressed)

    @property
    def environment(self) -> dict[str, Any]:
        return {run.name: run.result["environment"] for run in self.runs}


def build_report(
    folders: Sequence[Path], anchors: Sequence[str], rules: Rules | None = None
) -> Report:
    """Read complete runs of one test condition and compare their curves with the anchors.

    rules: those that the results state where it is None.
    """
    runs = _read_runs([Path(folder) for folder in folders])
    _check_same_conditions(runs)
    curves = tuple(curve for run in runs for curve in _curves(run))
    names = list(dict.fromkeys([*(c.name for c in curves), *(run.name for run in runs)]))
    for name in anchors:
        if name not in names:
            raise InputError(f"anchor {name}: expected one of {', '.join(names)}; run it first")
    first = runs[0].result
    stated = first.get("test", {})
    rules = rules or Rules(
        stated.get("min_overlap", 0.0), stated.get("near_lossless") or Rules.near_lossless
    )
    uncompressed = dict(first[UNCOMPRESSED]["accuracy"])
    anchors = tuple(dict.fromkeys(anchors))
    return Report(
        condition=first["condition"],
        dataset=first["dataset"],
        skipped=tuple(first.get("skipped", ())),
        uncompressed=uncompressed,
        runs=runs,
        curves=curves,
        anchors=anchors,
        comparisons=_comparisons(runs, curves, anchors, uncompressed, rules),
        near_lossless=tuple(
            _near_lossless(curve, metric, uncompressed[metric] - rules.near_lossless)
            for curve in curves
            for metric in AP_METRICS
            if metric in uncompressed
        ),
        human_vision=human_vision({run.name: run.result for run in runs}, anchors),
        rules=rules,
        published=references_for(first["dataset"].get("name", ""), uncompressed),
    )


def _read_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
    if not folders:
        raise InputError("a report needs at least one run folder, found none")
    results = [load_result(folder) for folder in folders]
    codecs = Counter(_field(r, "codec", folder) for r, folder in zip(results, folders, strict=True))
    names = [
        result["codec"] if codecs[result["codec"]] == 1 else folder.resolve().name
        for result, folder in zip(results, folders, strict=True)
    ]
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(
                f"{count} runs would be called {name} in the report: runs of one codec are told "
                "apart by the names of their folders, rename one or give it once"
            )
    return tuple(
        Run(name, folder, result, _read_points(name, folder, result), _read_timings(folder))
        for name, folder, result in zip(names, folders, results, strict=True)
    )


def _read_points(name: str, folder: Path, result: Mapping) -> tuple[Point, ...]:
    expected = _field(_field(result, UNCOMPRESSED, folder), "accuracy", folder)
    points = []
    for stored in _field(result, "points", folder):
        rate_point = _field(stored, "rate_point", folder)
        accuracy = _field(stored, "accuracy", folder)
        for metric in expected:
            if not isinstance(accuracy.get(metric), int | float):
                raise InputError(f"{folder}: rate point {rate_point} has no {metric}; run it again")
        counts = [_field(stored, key, folder) for key in ("pictures", "bits", "pixels")]
        points.append(Point(name, rate_point, *counts, accuracy))
    if not points:
        raise InputError(f"{folder}: the run holds no rate point; run it again")
    return tuple(points)


def _read_timings(folder: Path) -> dict[str, Any] | None:
    path = folder / "timings.json"
    return read_json(path) if path.is_file() else None


def _field(values: Mapping, key: str, folder: Path) -> Any:
    if key not in values:
        raise InputError(f"{folder}/result.json: expected a field {key}, found none; run it again")
    return values[key]


def _check_same_conditions(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        both = f"{first.folder} and {run.folder}"
        for key, reads in _CONDITIONS.items():
            ours, theirs = reads(first.result), reads(run.result)
            if ours != theirs:
                raise InputError(
                    f"{both} are runs of different conditions: {key} is {_short(ours)} and "
                    f"{_short(theirs)}; report runs of one test condition together"
                )
        ours, theirs = (r.result[UNCOMPRESSED]["accuracy"] for r in (first, run))
        for metric in {**ours, **theirs}:
            if metric not in ours or metric not in theirs:
                lacking = run if metric in ours else first
                raise InputError(f"{lacking.folder} has no {metric}, the other runs have it")
            if metric in AP_METRICS and abs(ours[metric] - theirs[metric]) > SAME_MODEL_TOLERANCE:
                raise InputError(
                    f"{both} disagree on uncompressed {metric}: {ours[metric]:.2f} and "
                    f"{theirs[metric]:.2f}; run one of them again with the same detector"
                )


def _without_runtime(result: Mapping) -> dict:
    # The same checkpoint gives the same detections in both runtimes.
    identity = result.get("model_identity", {})
    return {key: value for key, value in identity.items() if key != "runtime"}


_CONDITIONS = {
    "the condition": lambda result: result.get("condition"),
    "the skipped pictures": lambda result: result.get("skipped", []),
    "the number of pictures": lambda result: result.get("dataset", {}).get("pictures"),
    "the data set": lambda result: result.get("dataset", {}).get("sha256"),
    "the detector": _without_runtime,
    "the score": lambda result: result.get("test", {}).get("score_threshold"),
    "the IoU": lambda result: result.get("test", {}).get("iou_threshold"),
}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _curves(run: Run) -> list[Curve]:
    """None of a human codec: its bits are mostly not for the detector (see human_vision)."""
    if run.result.get("codec_identity", {}).get("kind") == "human":
        return []
    plain = tuple(point for point in run.points if point.size == "100")
    if len(plain) == len(run.points):
        return [Curve(run.name, run.points, hull=False)]
    hull = [Curve(run.name, run.points, hull=True)]
    return hull + ([Curve(f"{run.name}_100", plain, hull=False)] if plain else [])


def _comparisons(
    runs: Sequence[Run],
    curves: Sequence[Curve],
    anchors: Sequence[str],
    measured: Mapping[str, float],
    rules: Rules,
) -> tuple[Comparison, ...]:
    ap_metrics = [metric for metric in AP_METRICS if metric in measured]
    resampled = _resampled_curves(runs, curves, ap_metrics, rules)
    by_name = {curve.name: curve for curve in curves}
    return tuple(
        _compare(by_name[test], by_name[anchor], metric, resampled, rules)
        for test in by_name
        for anchor in anchors
        if test != anchor and anchor in by_name
        for metric in ap_metrics
    )


def _compare(
    test: Curve, anchor: Curve, metric: str, resampled: Mapping, rules: Rules
) -> Comparison:
    found: list[Any] = []
    for method in METHODS:
        curves = anchor.rate_accuracy(metric), test.rate_accuracy(metric)
        found.append(bd_rate(*curves, method, rules.min_overlap))
        pair = resampled[anchor.name, metric], resampled[test.name, metric]
        if None in pair:
            reason = "the runs keep no matches of their pictures"
            found.append(Interval(None, 0, rules.resamples, reason))
        else:
            found.append(bd_rate_interval(*pair, method, rules.min_overlap))
    return Comparison(test.name, anchor.name, metric, *found)


def _near_lossless(curve: Curve, metric: str, accuracy: float) -> NearLossless:
    points = curve.chosen(metric)
    bits = [(point.bits, point.accuracy[metric]) for point in points]
    found = [bits_at(bits, accuracy, method) for method in METHODS]
    return NearLossless(curve.name, metric, accuracy, points[0].pixels, *found)


def _resampled_curves(
    runs: Sequence[Run], curves: Sequence[Curve], ap_metrics: Sequence[str], rules: Rules
) -> dict[tuple[str, str], list | None]:
    """Each curve on resamples of the pictures: {(curve, metric): one curve per resample}.

    All curves see the same resamples. None where a run keeps no matches.
    """
    points: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for run in runs:
        for stored in run.result["points"]:
            path = run.folder / stored["rate_point"] / "matches.npz"
            if path.is_file():
                points[run.name, stored["rate_point"]] = _resampled_point(path, stored, rules)
    resampled: dict[tuple[str, str], list | None] = {}
    for curve in curves:
        found = [points.get((point.codec, point.rate_point)) for point in curve.points]
        for metric in ap_metrics:
            complete = all(values is not None for values in found)
            resampled[curve.name, metric] = _drawn(found, metric, curve.hull) if complete else None
    return resampled


def _drawn(points: Sequence[Mapping[str, np.ndarray]], metric: str, hull: bool) -> list:
    """One curve per resample, from the resampled rate points."""
    bpp = np.stack([point["bpp"] for point in points], axis=1).tolist()
    accuracy = np.stack([point[metric] for point in points], axis=1).tolist()
    drawn = [list(zip(*pair, strict=True)) for pair in zip(bpp, accuracy, strict=True)]
    if hull and np.isfinite(accuracy).all():  # else a resample holds no object; BD-rate says so
        return [convex_hull(curve) for curve in drawn]
    return drawn


def _resampled_point(path: Path, stored: Mapping, rules: Rules) -> dict[str, np.ndarray]:
    """bpp and every AP of one rate point on each resample of its pictures."""
    matches = read_matches(path)
    per_picture = stored["per_picture"]
    bits_of = dict(zip(per_picture["image_id"], per_picture["bits"], strict=True))
    values: dict[str, np.ndarray] = {}
    for task, found in matches.items():
        image_ids = found.image_ids.tolist()
        if set(image_ids) != set(bits_of):
            raise InputError(f"{path}: expected the pictures of result.json, found others")
        counts = bootstrap_counts(len(image_ids), rules.resamples, rules.seed)
        bits = counts @ np.array([bits_of[image_id] for image_id in image_ids])
        values["bpp"] = bits / (counts @ found.pixels)
        for name, aps in average_precisions(found, counts).items():
            values[f"{task}_{name}"] = aps
    return values
