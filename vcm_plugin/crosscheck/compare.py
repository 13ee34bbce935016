# SPDX-License-Identifier: BSD-3-Clause
"""How far is what was decoded here from what is claimed? One rate point of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from vcm_plugin.crosscheck.claims import Claims, Lines, accuracy_of, shown
from vcm_plugin.crosscheck.decoding import NotDecoded, feature_deviation, unmatched
from vcm_plugin.crosscheck.findings import (
    FAILED,
    OK,
    SKIPPED,
    Difference,
    Finding,
    PointCheck,
)
from vcm_plugin.crosscheck.human import compare_human_vision
from vcm_plugin.crosscheck.package import Limits
from vcm_plugin.ctc.coding import KINDS
from vcm_plugin.ctc.results import UNCOMPRESSED, Record
from vcm_plugin.ctc.run_folder import bitstream_path
from vcm_plugin.report.titles import AP_METRICS

Decoded = Mapping[int, Record | NotDecoded]


def compare_point(
    claims: Claims,
    point: str,
    decoded: Decoded,
    sources: Lines,
    limits: Limits,
    rows: list[PointCheck],
) -> Iterator[Finding]:
    """Bitstreams, features, predictions, accuracy and human vision of a point as found here.

    sources: the uncompressed pictures here. rows: of the report, gets one of this point.
    """
    name = claims.name
    if not decoded:  # the uncompressed pictures are not here
        yield Finding("predictions", SKIPPED, "uncompressed pictures not measured", name)
        return
    errors = [each.reason for each in decoded.values() if isinstance(each, NotDecoded)]
    if errors:
        text = f"{len(errors)} of {len(decoded)} do not decode: {errors[0]}"
        yield Finding("bitstreams", FAILED, text.replace("\n", " "), name, shown(point))
        return
    row = PointCheck(name, point)
    if point != UNCOMPRESSED:
        text = f"{len(decoded)} bitstreams decode to their checksums"
        yield Finding("bitstreams", OK, text, name, point)
        row.bits, row.found_bits = claims.points[point].bits, bits_of(claims, point)
        yield _features(claims, point, decoded, limits, row)
    if any(record.predictions is None for record in decoded.values()):
        text = "the labelled points are not here, give --data-root"
        yield Finding("predictions", SKIPPED, text, name, shown(point))
        rows.append(row)
        return
    yield _predictions(claims, point, decoded, limits, row)
    yield _accuracy(claims, point, decoded, limits, row)
    yield from compare_human_vision(claims, point, decoded, sources, limits, row)
    rows.append(row)


def bits_of(claims: Claims, point: str) -> int:
    """The sizes of the bitstreams of a rate point, in bits."""
    suffix = KINDS[claims.result.kind].suffix
    files = (bitstream_path(claims.folder / point, i, suffix) for i in claims.entry_ids)
    return sum(8 * file.stat().st_size for file in files)


def _features(
    claims: Claims, point: str, decoded: Lines, limits: Limits, row: PointCheck
) -> Finding:
    records = claims.records[point]
    if any(records[image_id].features is None for image_id in decoded):
        text = "the package claims no statistics of the decoded features"
        return Finding("features", SKIPPED, text, claims.name, point)
    deviations = {
        image_id: feature_deviation(records[image_id].features, record.features)
        for image_id, record in decoded.items()
    }
    worst = max(deviations, key=deviations.__getitem__)
    row.feature_deviation = deviations[worst]
    text = f"largest deviation {deviations[worst]:.2e} of a layer's spread (picture {worst})"
    status = OK if deviations[worst] <= limits.feature_deviation else FAILED
    return Finding("features", status, text, claims.name, point)


def _predictions(
    claims: Claims, point: str, decoded: Lines, limits: Limits, row: PointCheck
) -> Finding:
    counts = {}
    for entry_id, record in decoded.items():
        claimed = _by_picture(claims.records[point][entry_id].predictions or [])
        here = _by_picture(record.predictions or [])
        for image_id in dict.fromkeys((*claimed, *here)):
            counts[image_id] = unmatched(claimed[image_id], here[image_id], limits)
    lost, total = (sum(pair[k] for pair in counts.values()) for k in (0, 1))
    row.unmatched_percent = percent = 100 * lost / total if total else 0.0
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
    by_picture = defaultdict(list)
    for prediction in predictions:
        by_picture[prediction["image_id"]].append(prediction)
    return by_picture


def _accuracy(
    claims: Claims, point: str, decoded: Lines, limits: Limits, row: PointCheck
) -> Finding:
    claimed, here = claims.evaluation(point).accuracy, accuracy_of(claims, decoded)
    row.accuracy = {
        key: Difference.between(claimed[key], here[key])
        for key in AP_METRICS
        if key in claimed and key in here
    }
    worst = max((abs(pair.difference) for pair in row.accuracy.values()), default=0.0)
    text = f"accuracy found here differs by at most {worst:.4f} points"
    status = OK if worst <= limits.accuracy_points else FAILED
    return Finding("accuracy", status, text, claims.name, shown(point))
