# SPDX-License-Identifier: BSD-3-Clause
"""How far is what was decoded here from what is claimed? One rate point of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vcm_plugin.crosscheck.claims import Claims, Lines, accuracy_of, shown
from vcm_plugin.crosscheck.decoding import feature_deviation, unmatched
from vcm_plugin.crosscheck.findings import FAILED, OK, SKIPPED, Finding
from vcm_plugin.crosscheck.human import compare_human_vision
from vcm_plugin.crosscheck.package import Limits
from vcm_plugin.ctc.coding import KINDS
from vcm_plugin.ctc.results import UNCOMPRESSED, bitstream_path
from vcm_plugin.report.tables import AP_METRICS


def compare_point(
    claims: Claims, point: str, found: Lines, sources: Lines, limits: Limits, rows: list[dict]
) -> Iterator[Finding]:
    """Bitstreams, features, predictions, accuracy and human vision of a point as found here.

    sources: the uncompressed pictures here. rows: of the report, gets one of this point.
    """
    name = claims.name
    if not found:  # the uncompressed pictures are not here
        yield Finding("predictions", SKIPPED, "uncompressed pictures not measured", name)
        return
    errors = [record["error"] for record in found.values() if "error" in record]
    if errors:
        text = f"{len(errors)} of {len(found)} do not decode: {errors[0]}"
        yield Finding("bitstreams", FAILED, text.replace("\n", " "), name, shown(point))
        return
    row: dict[str, Any] = {"run": name, "rate_point": point}
    if point != UNCOMPRESSED:
        text = f"{len(found)} bitstreams decode to their checksums"
        yield Finding("bitstreams", OK, text, name, point)
        row |= {"bits": claims.points[point]["bits"], "found_bits": bits_of(claims, point)}
        yield _features(claims, point, found, limits, row)
    if any("predictions" not in record for record in found.values()):
        text = "the labelled points are not here, give --data-root"
        yield Finding("predictions", SKIPPED, text, name, shown(point))
        rows.append(row)
        return
    yield _predictions(claims, point, found, limits, row)
    yield _accuracy(claims, point, found, limits, row)
    yield from compare_human_vision(claims, point, found, sources, limits, row)
    rows.append(row)


def bits_of(claims: Claims, point: str) -> int:
    """The sizes of the bitstreams of a rate point, in bits."""
    suffix = KINDS[claims.result["codec_identity"]["kind"]].suffix
    files = (bitstream_path(claims.folder / point, i, suffix) for i in claims.entry_ids)
    return sum(8 * file.stat().st_size for file in files)


def _features(claims: Claims, point: str, found: Lines, limits: Limits, row: dict) -> Finding:
    records = claims.records[point]
    if any("features" not in records[image_id] for image_id in found):
        text = "the package claims no statistics of the decoded features"
        return Finding("features", SKIPPED, text, claims.name, point)
    deviations = {
        image_id: feature_deviation(records[image_id]["features"], record["features"])
        for image_id, record in found.items()
    }
    worst = max(deviations, key=deviations.__getitem__)
    row["feature_deviation"] = deviations[worst]
    text = f"largest deviation {deviations[worst]:.2e} of a layer's spread (picture {worst})"
    status = OK if deviations[worst] <= limits.feature_deviation else FAILED
    return Finding("features", status, text, claims.name, point)


def _predictions(claims: Claims, point: str, found: Lines, limits: Limits, row: dict) -> Finding:
    counts = {}
    for entry_id, record in found.items():
        theirs = _by_picture(claims.records[point][entry_id]["predictions"])
        ours = _by_picture(record["predictions"])
        for image_id in dict.fromkeys((*theirs, *ours)):
            counts[image_id] = unmatched(theirs[image_id], ours[image_id], limits)
    lost, total = (sum(pair[k] for pair in counts.values()) for k in (0, 1))
    row["unmatched_percent"] = percent = 100 * lost / total if total else 0.0
    odd = [
        image_id
        for image_id, (alone, both) in counts.items()
        if both and alone > 2 and 100 * alone / both > limits.unmatched_percent_of_picture
    ]
    text = f"{lost} of {total} detections have no counterpart ({percent:.3f} %)"
    if claims.condition.protocol == "semantic":
        text = f"{lost} of {total} labelled points are of another class ({percent:.3f} %)"
    if odd:
        text += f"; picture {odd[0]} is the worst of {len(odd)} beyond the limit"
    good = percent <= limits.unmatched_percent and not odd
    return Finding("predictions", OK if good else FAILED, text, claims.name, shown(point))


def _by_picture(predictions: Iterable[dict]) -> Mapping[int, list[dict]]:
    found = defaultdict(list)
    for prediction in predictions:
        found[prediction["image_id"]].append(prediction)
    return found


def _accuracy(claims: Claims, point: str, found: Lines, limits: Limits, row: dict) -> Finding:
    holder = claims.result if point == UNCOMPRESSED else claims.points
    claimed, ours = holder[point]["accuracy"], accuracy_of(claims, found)
    row["accuracy"] = {
        key: {
            "claimed": claimed[key],
            "found": ours[key],
            "difference": ours[key] - claimed[key],
        }
        for key in AP_METRICS
        if key in claimed and key in ours
    }
    worst = max((abs(pair["difference"]) for pair in row["accuracy"].values()), default=0.0)
    text = f"accuracy found here differs by at most {worst:.4f} points"
    status = OK if worst <= limits.accuracy_points else FAILED
    return Finding("accuracy", status, text, claims.name, shown(point))
