# SPDX-License-Identifier: BSD-3-Clause
"""What do several commands do alike? Conditions and detectors from options, progress, tables."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from vcm_plugin.conditions import TestCondition
from vcm_plugin.environment import PACKAGE, cfg_folder
from vcm_plugin.errors import BitstreamError, InputError

if TYPE_CHECKING:
    from vcm_plugin.ctc.detector import SplitModel
    from vcm_plugin.ctc.results import RunResult
    from vcm_plugin.report import ViewerOptions

SECONDS_BETWEEN_LINES = 60.0  # of progress where there is no terminal

# torch, and all that needs it, is imported where it is used: info and report do without.


def run_test(
    condition: TestCondition, codec: str, folder: Path, options: Namespace
) -> RunResult | None:
    """Run a test with progress bars; None after a shard."""
    from vcm_plugin.ctc.run import RunOptions, run

    run_options = RunOptions(
        jobs=options.jobs,
        cluster=options.cluster,
        shard=getattr(options, "shard", None),
        device=options.device,
        data_root=data_root_of(options),
        keep_going=options.keep_going,
        check_expected=not options.no_expected,
        overwrite=options.overwrite,
        feature_cache_bytes=int(options.feature_cache * (1 << 30)),
    )
    with progress_bars(f"{codec}: ") as progress:
        result = run(condition, codec, folder, run_options, progress, _note)
    if result is None:
        return None
    for skipped in result.skipped:
        print(f"vcm-plugin: skipped, unreadable: {skipped.file_name}", file=sys.stderr)
    if result.dataset.passed_over:
        print(
            f"vcm-plugin: {result.dataset.passed_over} objects passed over, whose boxes have no "
            "area in their pictures",
            file=sys.stderr,
        )
    return result


def data_root_of(options: Namespace) -> Path | None:
    """--data-root, else $VCM_DATA, else None."""
    root = getattr(options, "data_root", None) or os.environ.get("VCM_DATA")
    return Path(root) if root else None


@contextmanager
def progress_bars(prefix: str = "") -> Iterator:
    """A function progress(stage, done, total) that draws a bar for each stage on a terminal, and
    elsewhere says once a minute how far it is."""
    with _bars() as bars:
        shown, said = {}, time.monotonic()

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal said
            if stage not in shown:
                shown[stage] = bars.add_task(f"{prefix}{stage}", total=total)
            bars.update(shown[stage], completed=done, total=total)
            if bars.disable and time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                left = bars.tasks[shown[stage]].time_remaining
                more = f", {left:.0f} s left" if left else ""
                _note(f"{prefix}{stage}: {done} of {total}{more}")

        yield progress


def _note(line: str) -> None:
    print(f"vcm-plugin: {line}", file=sys.stderr, flush=True)


def _bars():
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)  # what is printed on stdout is the result
    return Progress(
        TextColumn("{task.description:<26}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
        disable=not console.is_terminal,  # elsewhere stderr holds a refusal in one line, or nothing
    )


def print_report(
    runs: list[Path],
    anchors: list[str],
    output: Path,
    formats: list[str] | None = None,
    viewer: ViewerOptions | None = None,
) -> None:
    """Write a report and show its tables; without formats, those that need no further package."""
    from vcm_plugin.report import FORMATS, rd_table_text, write_report

    formats = formats or FORMATS
    print(rd_table_text(write_report(runs, anchors, output, formats, viewer=viewer)))
    print(f"report: {output}")
    if "html" in formats:
        print(f"page:   {output / 'report.html'}")
    for plot in sorted(output.glob("*.png")) if "png" in formats else []:
        print(f"plot:   {plot}")


def print_points(result: RunResult) -> None:
    """The accuracy of every rate point of a run, and the first measures of its pictures."""
    from vcm_plugin.metrics.rate import bpp
    from vcm_plugin.report.titles import AP_METRICS, IN_FIGURES, spec_of, title_of

    names = [name for name in AP_METRICS if name in result.uncompressed.accuracy]
    measures = [name for name in IN_FIGURES[:3] if name in (result.points[0].human_vision or {})]
    rows = [("rate point", "bpp", *map(title_of, [*names, *measures]))]
    for point in result.points:
        values = {**point.accuracy, **(point.human_vision or {})}
        cells = [_cell(values[name], spec_of(name)) for name in [*names, *measures]]
        rows.append((point.rate_point, f"{bpp(point.bits, point.pixels):.4f}", *cells))
    values = result.uncompressed.accuracy
    rows.append(("uncompressed", "", *(_cell(values[name], spec_of(name)) for name in names)))
    data = result.dataset
    part = f"only {data.pictures} of {data.cut_from} pictures: " if data.cut_from else ""
    print(f"{result.condition}, {result.codec}: {part}accuracy in percent")
    for row in rows:
        print(f"{row[0]:<12}" + "".join(f"{cell:>11}" for cell in row[1:]))


def _cell(value: float | str, spec: str) -> str:
    return "n/a" if isinstance(value, str) else format(value, spec)


def refuse_overwriting(output: Path | None, *inputs: Path | None) -> None:
    """Raise InputError where an output is one of the inputs."""
    for given in inputs:
        if output is not None and given is not None and output.resolve() == given.resolve():
            raise InputError(
                f"{output}: expected another place than the input {given}, which it would "
                "overwrite; give another output"
            )


def condition_of(options: Namespace) -> TestCondition:
    """The test condition with the detector that was asked for in place of its own."""
    from vcm_plugin.ctc.codecs import load_condition, override

    restorer = getattr(options, "restorer", None)
    changes = {
        "model": options.model,
        "weights": options.weights,
        "class_names": options.classes and tuple(options.classes),
        "runtime": options.runtime,
        "diff_fchm_restorer_weights": restorer,
        "diff_fchm_learned_restorer": restorer,
        "diff_fchm_human_weights": getattr(options, "human_weights", None),
        "diff_fchm_human_prior": getattr(options, "human_prior", None),
    }
    return override(load_condition(options.condition), changes)


def detector_in_words(condition: TestCondition, most: int = 12) -> str:
    """Which detector looks for what, so that nobody takes its classes for others."""
    weights = Path(condition.weights_path() or "weights of the model zoo").name
    names = condition.class_names[:most]
    more = len(condition.class_names) - len(names)
    return (
        f"condition {condition.name}, detector {Path(condition.model).stem} ({weights}), which "
        f"knows {', '.join(names)}" + (f" and {more} more" if more else "")
    )


def conditions_of_weights(weights_id: str, key: str = "diff_fchm_weights") -> list[str]:
    """The bundled conditions that name the bundled weights of this id in a key, shortest name
    first.

    >>> conditions_of_weights("96309f29")
    ['bccd']
    """
    index = yaml.safe_load((PACKAGE / "weights" / "index.yaml").read_text(encoding="utf-8"))
    files = {name for name, entry in index.items() if entry["id"] == weights_id}
    found = []
    for path in (cfg_folder() / "ctc").glob("*.yaml"):
        named = yaml.safe_load(path.read_text(encoding="utf-8")).get(key)
        found += [path.stem] if named in files else []
    return sorted(found, key=lambda name: (len(name), name))


@contextmanager
def naming_condition(data: bytes, condition: TestCondition) -> Iterator[None]:
    """Where a file cannot be decoded since it was made with the weights of another bundled
    condition, say which."""
    try:
        yield
    except InputError as error:
        names = _conditions_of(data) if data.startswith(b"FCM") else []
        if not names or condition.name in names or names[0] in str(error):
            raise
        made = ":" if isinstance(error, BitstreamError) else "; the file was made with"
        raise type(error)(f"{error}{made} those of --condition {names[0]}") from error


def _conditions_of(data: bytes) -> list[str]:
    """The bundled conditions whose weights made an .fcm file; of two streams, both."""
    from vcm_plugin.bitstream import read_header
    from vcm_plugin.ctc.codecs import codec_of, split_simulcast

    try:
        header, name = read_header(data)[0], codec_of(data)
    except BitstreamError:
        return []
    named = {f"{header.profile}_weights": header.weights_id}
    if name == "simulcast_learned":
        named[f"{name}_weights"] = read_header(split_simulcast(data)[1])[0].weights_id
    found = [
        conditions_of_weights(f"{weights_id:08x}", key)
        for key, weights_id in named.items()
        if weights_id is not None
    ]
    return [name for name in found[0] if all(name in each for each in found)] if found else []


def model_of(condition: TestCondition, options: Namespace) -> SplitModel:
    """The detector of a condition on --device, in an environment that repeats its results."""
    from vcm_plugin.ctc.detector import load_detector
    from vcm_plugin.environment import make_deterministic

    make_deterministic(condition.threads_per_job)
    return load_detector(condition, options.device)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the name of a bitstream before the errors that its bytes cause."""
    try:
        yield
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from error


def read_bitstream(path: Path) -> bytes:
    """The bytes of a file; where it lies in a run folder, they must be those of its picture."""
    from vcm_plugin.ctc.run_folder import check_bitstream

    try:
        data = path.read_bytes()
        with naming(path):
            check_bitstream(path, data)
        return data
    except OSError as error:
        raise InputError(f"{path}: expected a bitstream, found: {error.strerror}") from error
