# SPDX-License-Identifier: BSD-3-Clause
"""What do codecs cost? Arithmetic, parameters, memory, seconds, and seconds against the anchors."""

from __future__ import annotations

from vcm_plugin.ctc.codecs import CODECS
from vcm_plugin.ctc.coding import KINDS
from vcm_plugin.ctc.results import UNCOMPRESSED
from vcm_plugin.report.curves import Point
from vcm_plugin.report.document import Column, Footnotes, Table
from vcm_plugin.report.made import busy_runs
from vcm_plugin.report.runs import Run
from vcm_plugin.report.tables import Report

KMAC = {
    "encode_kmac": "encoder kMAC per pixel",
    "decode_kmac": "decoder kMAC per pixel",
    "nn_part1_kmac": "NN-Part1 kMAC per pixel",
    "nn_part2_kmac": "NN-Part2 kMAC per pixel",
}
STAGES = {"encode": "encode (s)", "decode": "decode (s)",
          "nn_part1": "NN-Part1 (s)", "nn_part2": "NN-Part2 (s)"}  # fmt: skip
MACHINE = "timed on a machine that was"


def tables(report: Report) -> list[Table]:
    """All of them; one without rows is left to whoever shows them."""
    return [against_anchors(report), complexity(report), seconds(report)]


def complexity(report: Report) -> Table:
    """Arithmetic of codec and detector, parameters and peak memory of every run."""
    columns = (
        Column("codec", "codec"),
        *(Column(key, title, ".1f") for key, title in KMAC.items()),
        Column("parameters", "parameters", ",d"),
        Column("peak_memory_mib", "peak memory (MiB)", ",.0f"),
    )
    notes, rows = Footnotes(), []
    for run in report.runs:
        costs = run.timings and run.timings.complexity
        if costs is not None:
            kmac = {key: getattr(costs, key) for key in KMAC}
            kmac["nn_part1_kmac"] = costs.nn_part1_kmac if _runs_first_part(run) else None
            marks = {key: notes.mark(text) for key, text in kmac.items() if isinstance(text, str)}
            rows.append({
                "codec": run.name,
                **kmac | marks,
                "parameters": costs.parameters,
                "peak_memory_mib": costs.peak_memory_bytes / (1 << 20),
            })  # fmt: skip
    told = (
        "kMAC: thousand multiply-accumulates per source pixel, counted as they run on the first "
        "picture at the last rate point. Those of a codec hold every operation, and there are none "
        "where it runs outside PyTorch; those of NN-Part1 and NN-Part2 hold convolutions and "
        "matrix products. Peak memory is that of one process with its detector and its largest "
        "encoder.",
        *notes.texts,
    )
    return Table("Complexity", columns, tuple(rows), told)


def seconds(report: Report) -> Table:
    """Seconds per picture at every rate point, with the machine."""
    columns = (
        Column("codec", "codec"),
        Column("rate_point", "rate point"),
        *(Column(key, title, ".3f") for key, title in STAGES.items()),
        Column("machine", MACHINE),
    )
    busy, rows = busy_runs(report), []
    for run in report.runs:
        if run.timings is None:
            continue
        state = "busy" if run.name in busy else "free" if run.sessions else None
        for point in run.points:
            rows.append({
                "codec": run.name,
                "rate_point": point.rate_point,
                **_seconds_of(run, point),
                "machine": state,
            })  # fmt: skip
    return Table("Seconds per picture", columns, tuple(rows), _machine_notes(report))


def against_anchors(report: Report) -> Table:
    """Mean seconds of a picture over the rate points at full size, and what part of the anchor's
    they are: of the codecs alone, and with the parts of the network on the same side."""
    busy = busy_runs(report)
    columns = (
        Column("test", "test"),
        Column("anchor", "anchor"),
        Column("encode", "encode (s)", ".3f"),
        Column("encode_percent", "EncT (%)", ".0f"),
        Column("sender_percent", "with NN-Part1 (%)", ".0f"),
        Column("decode", "decode (s)", ".3f"),
        Column("decode_percent", "DecT (%)", ".0f"),
        Column("receiver_percent", "with NN-Part2 (%)", ".0f"),
        *([Column("busy", "timed on a busy machine")] if busy else []),
    )
    spent = {run.name: _mean_seconds(run) for run in report.runs if run.timings is not None}
    rows = []
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
        "receiver, a codec that makes features of a picture's latents runs no NN-Part1.",
    )
    return Table("Time against the anchors", columns, tuple(rows), notes, "Time against anchors")


def _seconds_of(run: Run, point: Point) -> dict[str, float | None]:
    """Mean seconds of each stage that a codec's sender or receiver runs, at a rate point; NN-Part1
    of split inference runs once for all rate points."""
    of_point = run.timings.points.get(point.rate_point, {})
    spent = {**run.timings.points.get(UNCOMPRESSED, {}), **of_point}
    if not _runs_first_part(run):
        spent.pop("nn_part1", None)
    return {name: spent[name].sum / point.pictures if name in spent else None for name in STAGES}


def _runs_first_part(run: Run) -> bool:
    """Whether NN-Part1 runs before the encoder or behind the decoder; where a picture is coded and
    its file holds features, neither end has it."""
    kind = KINDS[run.result.kind]
    return kind.takes_features or not kind.gives_features


def _mean_seconds(run: Run) -> dict[str, float]:
    """Of encoder, decoder, and of all that the sender and that the receiver computes."""
    full = [point for point in run.points if point.percent == 100] or list(run.points)
    of_points = [_seconds_of(run, point) for point in full]
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
        "Means over the pictures, on " + "; ".join(devices) + ".",
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
