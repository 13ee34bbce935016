# SPDX-License-Identifier: BSD-3-Clause
"""How were the runs of a report made? Test set, detector, codecs, versions, machines, in words.

Every format shows these facts: documents as two tables, files as rows of (what, run, value), plots
as one line. What all runs share stands once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vcm_plugin.conditions import TestCondition
from vcm_plugin.ctc.machine import Session
from vcm_plugin.rate_points import show, value_and_percent
from vcm_plugin.report.document import Column, Table
from vcm_plugin.report.runs import Run
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import spec_of, title_of

CODED = {  # by the kind of a codec (ctc/coding.py)
    "feature": "features",
    "picture": "the picture (remote inference)",
    "learned_picture": "the picture (remote inference)",
    "heads": "the picture, of which features and picture are made",
    "human": "features and the picture",
}
PROTOCOLS = {
    "coco": "COCO",
    "open_images": "Open Images challenge",
    "semantic": "labelled points",
    "tracking": "MOTChallenge",
}
COMMAND = "encoder command"
_ENCODER = ("encoder", "ffmpeg", "preset", "chroma_format")
_SHA256 = re.compile(r"[0-9a-f]{40,64}")
_SHOWN_DIGITS = 16
RUNS_ABREAST = 4  # columns that have room beside each other

Facts = dict[str, str]


def rows(report: Report) -> list[dict[str, str]]:
    """One flat row per fact: what, the run that it is of ("" where it is of all), value."""
    shared, of_run = _facts(report)
    flat = [{"what": what, "run": "", "value": value} for what, value in shared.items()]
    for what, values in of_run.items():
        flat += [{"what": what, "run": run, "value": value} for run, value in values.items()]
    return flat


def tables(report: Report) -> list[Table]:
    """What all runs share, and what they differ in; encoder commands as notes."""
    shared, of_run = _facts(report)
    commands = {"": shared.pop(COMMAND)} if COMMAND in shared else of_run.pop(COMMAND, {})
    columns = Column("what", "what"), Column("value", "value")
    listed = tuple({"what": what, "value": value} for what, value in shared.items())
    notes = tuple(
        f"Encoder command{f' of {run}' if run else ''}: {command}"
        for run, command in commands.items()
    )
    found = [Table("How it was made", columns, listed, () if of_run else notes)]
    names = [run.name for run in report.runs]
    for start in range(0, len(names), RUNS_ABREAST) if of_run else ():
        abreast = names[start : start + RUNS_ABREAST]
        differing = tuple(
            {"what": what, **{run: _shortened(values.get(run, "")) for run in abreast}}
            for what, values in of_run.items()
        )
        each = (Column("what", "what"), *(Column(name, name) for name in abreast))
        last = start + RUNS_ABREAST >= len(names)
        title = "How it was made: " + (
            "each run" if len(names) <= RUNS_ABREAST else ", ".join(abreast)
        )
        found.append(Table(title, each, differing, notes if last else ()))
    return found


def line(report: Report) -> str:
    """The most of it in one line, for a plot."""
    first = report.runs[0]
    parts = [f"{report.dataset.name}, {report.scope}"]
    if first.condition is not None:
        parts.append(f"{_file_name(first.condition.model)} at {first.condition.split_point}")
    versions = dict.fromkeys(
        run.result.environment.get("vcm_plugin", "of an unknown version") for run in report.runs
    )
    parts.append(f"vcm-plugin {', '.join(versions)}")
    dates = sorted(session.date for run in report.runs for session in run.sessions[-1:])
    return "; ".join([*parts, *dates[-1:]])


def lacking(report: Report) -> list[str]:
    """One sentence for what runs of older versions do not say; none where they say all."""
    by_text: dict[str, list[str]] = {}
    for run in report.runs:
        if run.lacks:
            by_text.setdefault(", ".join(run.lacks), []).append(run.name)
    return [
        f"{', '.join(names)}: made by an older version of vcm-plugin, which does not keep {text}; "
        "run it again to have it."
        for text, names in by_text.items()
    ]


def busy_runs(report: Report) -> list[str]:
    """The runs whose seconds were measured on cores that others worked on, too."""
    return [run.name for run in report.runs if any(s.busy for s in run.sessions)]


def _facts(report: Report) -> tuple[Facts, dict[str, Facts]]:
    """Facts that all runs share, and {what: {run: value}} of the others."""
    of_run = {run.name: dict(_run_facts(run)) for run in report.runs}
    keys = dict.fromkeys(key for facts in of_run.values() for key in facts)
    shared, differing = dict(_test_facts(report)), {}
    for key in keys:
        values = {name: facts.get(key, "") for name, facts in of_run.items()}
        if len(set(values.values())) == 1:
            shared[key] = next(iter(values.values()))
        else:
            differing[key] = {name: value for name, value in values.items() if value}
    return shared, differing


def _test_facts(report: Report) -> Iterator[tuple[str, str]]:
    """Of the test: condition, test set, detector, how accuracy is judged and curves compared."""
    run, data = report.runs[0], report.dataset
    condition, result = run.condition, run.result
    yield "test condition", report.name
    if report.name != report.condition and not (condition and condition.overrides):
        yield "changed", "not said: made by an older version of vcm-plugin"
    yield "test set", data.name
    yield "SHA-256 of pictures and annotations", data.sha256
    part = "" if report.is_part else " (all of it)"
    yield "tested", f"{report.scope}{part}, {data.pixels} pixels"
    if report.skipped:
        yield "unreadable, passed over", f"{len(report.skipped)} pictures"
    if data.passed_over:
        yield "objects without area, passed over", str(data.passed_over)
    test = result.test
    if test.tasks:
        protocol = PROTOCOLS.get(test.protocol, test.protocol)
        yield "tasks", f"{', '.join(test.tasks)}; protocol of {protocol}"
    yield from _detector_facts(condition, result.model_identity)
    if report.ap_metrics:
        yield "uncompressed", _values(report.uncompressed, report.ap_metrics) + _expected(run)
    if {"box", "mask"} & set(test.tasks):
        yield (
            "precision and recall at",
            (f"score {test.score_threshold:g}, IoU {test.iou_threshold:g}"),
        )
    if "track" in test.tasks:
        yield "a track matches an object at", f"IoU {test.iou_threshold:g}"
    yield "BD-rate", f"over at least {report.rules.min_overlap:g} points of common accuracy"


def _detector_facts(
    condition: TestCondition | None, model: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    if condition is not None:
        weights = f", weights {_file_name(condition.weights)}" if condition.weights else ""
        yield "detector", f"{_file_name(condition.model)}{weights}"
    names = {"weights_sha256": "SHA-256 of its weights", "config_sha256": "SHA-256 of its settings",
             "split_point": "split point"}  # fmt: skip
    for key, what in names.items():
        if model.get(key):
            yield what, str(model[key])


def _run_facts(run: Run) -> Iterator[tuple[str, str]]:
    """Of one run: what was changed for it, what its codec is, versions, machine."""
    for change in run.condition.overrides if run.condition is not None else ():
        key, _, value = change.partition(": ")
        yield f"changed, {key}", value
    identity = dict(run.result.codec_identity)
    yield "codes", CODED.get(identity.pop("kind"), run.result.kind)
    yield "rate points", _rate_points(run)
    yield from _identity_facts(identity)
    if runtime := run.result.model_identity.get("runtime"):
        yield "runtime of the detector", str(runtime)
    yield "threads of a job", str(run.result.test.threads_per_job)
    for key, value in run.result.environment.items():
        if value:
            yield (
                {"vcm_plugin": "vcm-plugin", "code_sha256": "SHA-256 of its sources"}.get(key, key),
                value,
            )
    yield from _machine_facts(run.sessions)


def _identity_facts(identity: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What decides about the bitstreams, whatever the codec calls it."""
    for key, value in identity.items():
        if isinstance(value, Mapping):
            yield from _identity_facts(value)
        elif key == "command":
            yield COMMAND, str(value)
        elif value is not None and key != "codec":
            words = key.replace("_", " ").replace("sha256", "SHA-256")
            yield words if key in _ENCODER else f"codec: {words}", str(value)


def _machine_facts(sessions: tuple[Session, ...]) -> Iterator[tuple[str, str]]:
    if not sessions:
        return
    machines = {}
    for s in sessions:
        memory = "" if s.memory_gib is None else f", {s.memory_gib:g} GiB"
        machines[f"{s.cpu}, {s.cores} of {s.all_cores} cores{memory}"] = s.system
    yield "measured on", ", ".join(dict.fromkeys(s.date for s in sessions))
    yield "machine", "; ".join(machines)
    yield "operating system", "; ".join(dict.fromkeys(machines.values()))
    yield "processes", ", ".join(dict.fromkeys(
        "workers of a cluster" if s.cluster else str(s.jobs) for s in sessions
    ))  # fmt: skip
    others = [s.others for s in sessions if s.others is not None]
    if others:
        busy = "; it shared its cores, so seconds are too long" if any(
            s.busy for s in sessions
        ) else ""  # fmt: skip
        yield "cores that others kept busy", f"{max(others):.1f}{busy}"


def _rate_points(run: Run) -> str:
    """All of them; of several sizes, each value and each size once."""
    names = [point.rate_point for point in run.points]
    sized = [value_and_percent(name) for name in names]
    values = list(dict.fromkeys(value for value, _ in sized))
    percents = list(dict.fromkeys(percent or "100" for _, percent in sized))
    if len(percents) == 1 or len(values) * len(percents) != len(names):
        return ", ".join(names)
    return f"{', '.join(map(show, values))}; each at {', '.join(percents)} % of height and width"


def _values(accuracy: Mapping[str, float], metrics: tuple[str, ...]) -> str:
    return ", ".join(f"{title_of(m)} {accuracy[m]:{spec_of(m)}}" for m in metrics)


def _expected(run: Run) -> str:
    """Whether the uncompressed accuracy was held against what the condition states."""
    expected = run.result.expected
    stated = {k: v for k, v in expected.items() if k.endswith("_ap") and isinstance(v, float | int)}
    if not stated:
        return ""
    values = ", ".join(f"{title_of(key)} {value:g}" for key, value in stated.items())
    checked = f"within {expected['tolerance']:g}" if expected.get("checked") else "not checked"
    return f" (expected: {values}; {checked})"


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _shortened(value: str) -> str:
    """A digest by its first digits; the CSV and JSON files hold it whole."""
    return _SHA256.sub(lambda found: found[0][:_SHOWN_DIGITS], value)
