# SPDX-License-Identifier: BSD-3-Clause
"""What do codecs cost? Arithmetic, parameters, memory, seconds, and seconds against the anchors."""

from __future__ import annotations

from collections.abc import Mapping

from vcm_plugin.ctc.codecs import CODECS
from vcm_plugin.ctc.coding import KINDS
from vcm_plugin.ctc.results import UNCOMPRESSED, StageSeconds
from vcm_plugin.report.document import Column, Table
from vcm_plugin.report.made import busy_runs
from vcm_plugin.report.runs import Run
from vcm_plugin.report.tables import Report

COSTS = ("encode_kmac", "decode_kmac", "parameters")
STAGES = ("encode", "decode", "nn_part1", "nn_part2")


def complexity(report: Report) -> Table:
    """Arithmetic, parameters, seconds per picture and peak memory, with the machine."""
    columns = (
        Column("codec", "codec"),
        Column("rate_point", "rate point"),
        Column("encode_kmac", "encoder kMAC per pixel", ".2f"),
        Column("decode_kmac", "decoder kMAC per pixel", ".2f"),
        Column("parameters", "parameters", "d"),
        Column("encode", "encode (s)", ".3f"),
        Column("decode", "decode (s)", ".3f"),
        Column("nn_part1", "NN-Part1 (s)", ".3f"),
        Column("nn_part2", "NN-Part2 (s)", ".3f"),
        Column("peak_memory_mib", "peak memory (MiB)", ".0f"),
        Column("machine", "timed on a machine that was"),
    )
    busy, rows = busy_runs(report), []
    for run in report.runs:
        if run.timings is None:
            continue
        costs = run.timings.complexity
        state = "busy" if run.name in busy else "free" if run.sessions else None
        for point in run.points:
            rows.append({
                "codec": run.name,
                "rate_point": point.rate_point,
                **{key: getattr(costs, key, None) for key in COSTS},
                **seconds_per_picture(run.timings.points, point.rate_point, point.pictures),
                "peak_memory_mib": costs and costs.peak_memory_bytes / (1 << 20),
                "machine": state,
            })  # fmt: skip
    return Table("Complexity", columns, tuple(rows), _machine_notes(report))


def against_anchors(report: Report) -> Table:
    """Mean seconds of a picture over the rate points at full size, and what part of the anchor's
    they are: of the codecs alone, and with the parts of the network on the same side."""
    columns = (
        Column("test", "test"),
        Column("anchor", "anchor"),
        Column("encode", "encode (s)", ".3f"),
        Column("encode_percent", "EncT (%)", ".0f"),
        Column("sender_percent", "with NN-Part1 (%)", ".0f"),
        Column("decode", "decode (s)", ".3f"),
        Column("decode_percent", "DecT (%)", ".0f"),
        Column("receiver_percent", "with NN-Part2 (%)", ".0f"),
        Column("busy", "timed on a busy machine"),
    )
    spent = {run.name: _mean_seconds(run) for run in report.runs if run.timings is not None}
    busy, rows = busy_runs(report), []
    for test, mine in spent.items():
        for anchor in report.anchors:
            if test in report.anchors or anchor == test or anchor not in spent:
                continue
            theirs = spent[anchor]
            rows.append({
                "test": test,
                "anchor": anchor,
                **{stage: mine.get(stage) for stage in ("encode", "decode")},
                **{f"{key}_percent": _percent(mine.get(key), theirs.get(key)) for key in mine},
                "busy": ", ".join(name for name in (test, anchor) if name in busy),
            })  # fmt: skip
    notes = (
        "EncT and DecT: time of the encoder and of the decoder in percent of the anchor's, means "
        "over the pictures and the rate points at full size. With NN-Part1 and NN-Part2: all that "
        "the sender and all that the receiver computes; remote inference runs both parts at the "
        "receiver.",
    )
    return Table("Time against the anchors", columns, tuple(rows), notes, "Time against anchors")


def seconds_per_picture(
    seconds: Mapping[str, Mapping[str, StageSeconds]], rate_point: str, pictures: int
) -> dict[str, float | None]:
    """Mean seconds of each stage; NN-Part1 of split inference runs once for all rate points."""
    spent = {**seconds.get(UNCOMPRESSED, {}), **seconds.get(rate_point, {})}
    return {name: spent[name].sum / pictures if name in spent else None for name in STAGES}


def _mean_seconds(run: Run) -> dict[str, float]:
    """Of encoder, decoder, and of all that the sender and that the receiver computes."""
    full = [point for point in run.points if point.percent == 100] or list(run.points)
    of_points = [
        seconds_per_picture(run.timings.points, point.rate_point, point.pictures) for point in full
    ]
    mean = {
        stage: sum(values) / len(values)
        for stage in STAGES
        if (values := [each[stage] for each in of_points if each[stage] is not None])
    }
    first, second = mean.get("nn_part1", 0.0), mean.get("nn_part2", 0.0)
    at_sender = KINDS[run.result.kind].takes_features
    found = {stage: mean[stage] for stage in ("encode", "decode") if stage in mean}
    if "encode" in mean:
        found["sender"] = mean["encode"] + (first if at_sender else 0.0)
    if "decode" in mean:
        found["receiver"] = mean["decode"] + second + (0.0 if at_sender else first)
    return found


def _percent(mine: float | None, theirs: float | None) -> float | None:
    return 100 * mine / theirs if mine is not None and theirs else None


def _machine_notes(report: Report) -> tuple[str, ...]:
    devices = dict.fromkeys(
        f"{run.name}: {run.result.environment.get('device', 'device not recorded')}, "
        f"{run.result.test.threads_per_job} thread(s)"
        for run in report.runs
    )
    busy = busy_runs(report)
    mark = (
        f"{', '.join(busy)}: other work shared the cores while it was timed, so its seconds are "
        "longer than they need be.",
    )
    return (
        "Seconds are means over the pictures, on " + "; ".join(devices) + ". kMAC are thousand "
        "multiply-accumulates per source pixel, counted as they run on the first picture at the "
        "last rate point; a codec that runs outside PyTorch has none. Peak memory is that of one "
        "process with its detector and its largest encoder.",
        *_shared_notes(report),
        *(mark if busy else ()),
    )


def _shared_notes(report: Report) -> tuple[str, ...]:
    """Whose pictures may have gone through a process together: of codecs that this version has."""
    batching = [name for name, settings in CODECS.items() if getattr(settings, "batches", False)]
    shared = [run.name for run in report.runs if run.result.codec in batching]
    note = (
        f"{', '.join(shared)}: pictures of one size may go through one process of the encoder and "
        "one of the decoder; the seconds of each are an equal share of what they took together, "
        "less than it would take alone.",
    )
    return note if shared else ()
