#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How long does each stage of the loop take, in which memory, and what do more workers bring?"""

import argparse
import contextlib
import importlib.util
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from vcm_plugin.ctc.codecs import codec_rate_points, integer_qp, load_condition, override
from vcm_plugin.ctc.coding import Source, decode, encode
from vcm_plugin.ctc.plan import Plan, make_worker
from vcm_plugin.ctc.results import UNCOMPRESSED, load_result, load_timings
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.ctc.run_folder import Journal, read_seconds
from vcm_plugin.errors import InputError
from vcm_plugin.testsets.coco import CocoDataset, read_entry
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.testsets.sequences import read_frames

WAYS = {
    "--jobs 1": {"jobs": 1},
    "--jobs 2": {"jobs": 2},
    "--cluster local:2": {"cluster": "local:2"},
}
STAGES = ("nn_part1", "encode", "decode", "nn_part2", "evaluation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("condition", nargs="?", default="minictc")
    parser.add_argument("--codec", default="vvc_feature")
    parser.add_argument("--limit", type=int, help="only the first N pictures")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("VCM_DATA"))
    options = parser.parse_args()
    condition = override(load_condition(options.condition), {"limit": options.limit})
    with tempfile.TemporaryDirectory() as folder:
        measured, results = {}, set()
        for way, changes in WAYS.items():
            if "cluster" in changes and not importlib.util.find_spec("distributed"):
                continue
            os.environ["VCM_CACHE"] = str(Path(folder, f"cache {way}"))
            open_test_set(condition, options.data_root)  # drawn before the clock starts
            run_options = RunOptions(data_root=options.data_root, check_expected=False, **changes)
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # as the command begins
                call = (timed_run, condition, options.codec, Path(folder, way), run_options)
                measured[way] = fresh.submit(*call).result()
            results.add(Path(folder, way, "result.json").read_bytes())
        alone = Path(folder, "--jobs 1")
        print_stages(alone, peak_memory(condition, options, Path(folder, "memory")))
        print_overhead(alone, measured["--jobs 1"])
        print_ways(measured, len(results) == 1)


def timed_run(condition, codec: str, folder: Path, options: RunOptions) -> dict[str, float]:
    """Seconds of a run: start-up, the loop over pictures and rate points, all of it."""
    started = time.perf_counter()
    marks: dict[tuple[str, bool], float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        marks.setdefault((stage, done == total), time.perf_counter())
        marks["tasks", True] = total if stage == "rate points" else marks.get(("tasks", True), 0)

    run(condition, codec, folder, options, progress)
    return {
        "start-up": marks[UNCOMPRESSED, False] - started,
        "loop": marks["rate points", True] - marks["rate points", False],
        "whole": time.perf_counter() - started,
        "tasks": marks["tasks", True],
    }


def peak_memory(condition, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """MB at the peak of each stage, encoder and decoder processes included."""
    dataset = open_test_set(condition, options.data_root)
    worker = make_worker(Plan(condition, options.codec, folder, dataset))
    picture, codec, peaks = largest_picture(dataset), worker.codec, {}
    with peak_of("nn_part1", peaks):
        features = worker.model.nn_part1(picture)
    points = codec_rate_points(options.codec, condition)
    rate_point = min(points, key=lambda point: integer_qp(options.codec, point))
    with peak_of("encode", peaks):
        data = encode(codec, Source(picture, features), rate_point)
    with peak_of("decode", peaks):
        decode(codec, data)
    with peak_of("nn_part2", peaks):
        worker.model.nn_part2(features)
    journal = Journal(folder / UNCOMPRESSED)
    journal.reopen()
    for entry in dataset.entries:
        journal.append(next(worker.measure(entry)))
    with peak_of("evaluation", peaks):
        list(worker.evaluate(UNCOMPRESSED, []))
    return peaks


def largest_picture(dataset: CocoDataset) -> np.ndarray:
    """The picture with most samples; of sequences the first frame of one."""
    if dataset.sequences:
        largest = max(dataset.sequences, key=lambda s: s.frames[0].height * s.frames[0].width)
        return next(read_frames(largest))
    return read_entry(max(dataset.pictures, key=lambda entry: entry.height * entry.width))


@contextlib.contextmanager
def peak_of(stage: str, peaks: dict[str, float]) -> Iterator[None]:
    """Sample the resident memory of this process and its children every 2 ms."""
    done = threading.Event()
    peaks[stage] = resident_megabytes()

    def watch() -> None:
        while not done.wait(0.002):
            peaks[stage] = max(peaks[stage], resident_megabytes())

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    done.set()
    thread.join()


def resident_megabytes() -> float:
    own, pages, waiting = os.getpid(), 0, [os.getpid()]
    program = os.readlink(f"/proc/{own}/exe")
    while waiting:
        process = Path(f"/proc/{waiting.pop()}")
        with contextlib.suppress(OSError, IndexError):  # it may end while we look
            if process.name != str(own) and os.readlink(process / "exe") == program:
                continue  # not yet the encoder: until then it shares our memory
            pages += int((process / "statm").read_text().split()[1])
            for task in (process / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def stage_seconds(folder: Path) -> dict[str, list[float]]:
    """Seconds of each stage, per picture or sequence, from the journals; evaluation per point."""
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for point in sorted(path.parent for path in folder.glob("*/pictures.jsonl")):
        for of_picture in read_seconds(point).values():
            for stage, value in of_picture.items():
                seconds[stage].append(value)
    points = load_timings(folder).points
    seconds["evaluation"] = [p["evaluation"].sum for p in points.values() if "evaluation" in p]
    return seconds


def print_stages(folder: Path, peaks: dict[str, float]) -> None:
    seconds = stage_seconds(folder)
    dataset = load_result(folder).dataset
    unit, units = "picture", dataset.pictures
    if dataset.sequences:
        unit, units = "sequence", len(dataset.sequences)
    print(f"{'stage':<12}{f'median s/{unit}':>18}{'sum s':>10}{'peak MB':>10}")
    for stage in STAGES:
        each = 1 if stage != "evaluation" else units  # one evaluation judges all of them
        median = statistics.median(seconds[stage]) / each
        print(f"{stage:<12}{median:>18.4f}{sum(seconds[stage]):>10.2f}{peaks[stage]:>10.0f}")


def print_overhead(folder: Path, measured: dict[str, float]) -> None:
    stages = sum(sum(values) for values in stage_seconds(folder).values())
    whole, start = measured["whole"], measured["start-up"]
    rest = whole - start - stages
    print(f"whole run, one job: {whole:.2f} s; start-up (detector, encoder version) {start:.2f} s")
    print(f"runner's own overhead: {rest:.2f} s, {100 * rest / whole:.2f} % of the whole")


def print_ways(measured: dict[str, dict[str, float]], same: bool) -> None:
    for part in ("loop", "whole"):
        rates = {way: m["tasks"] / m[part] for way, m in measured.items()}
        alone = rates["--jobs 1"]
        words = ", ".join(f"{way} {rate:.2f} ({rate / alone:.2f})" for way, rate in rates.items())
        print(f"{part}, pictures or sequences x rate points per second (ratio): {words}")
    print(f"result.json of all: {'the same bytes' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"bench_loop: error: {error}")
