#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How much memory does a run over a long sequence need, and how close are decoded features?

    scripts/bench_tracking.py --memory 1000 --codec diff_fchm --rate-point 2.8
    scripts/bench_tracking.py --snr RUN ...     runs of minictc_tracking over feature codecs

Memory: one drawn sequence of so many frames, one run over it in a child process, as typed:
NN-Part1, codec, NN-Part2, tracker, metrics. Printed is the peak (resident) of the largest process.

SNR: of the decoded layers against those of NN-Part1, the variance of each layer over its squared
error, over all frames, in dB; the mean of the layers. Of the first --sequences of the test set.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from vcm_plugin.ctc import coding
from vcm_plugin.ctc.codecs import load_condition, make_codec
from vcm_plugin.ctc.results import load_result
from vcm_plugin.environment import cfg_folder, describe_device, make_deterministic
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split import load_split_model
from vcm_plugin.testsets.minictc_tracking import draw_sequence, write_sequence
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.testsets.sequences import read_frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=int, metavar="N", help="frames of the sequence")
    parser.add_argument("--codec", default="diff_fchm", help="of the run (%(default)s)")
    parser.add_argument("--rate-point", default="2.8", help="of the run (%(default)s)")
    parser.add_argument("--snr", type=Path, nargs="+", metavar="RUN", default=[])
    parser.add_argument("--sequences", type=int, default=6, help="of the test set (%(default)s)")
    options = parser.parse_args()
    if options.memory:
        with tempfile.TemporaryDirectory() as folder:
            measure_memory(Path(folder), options.memory, options.codec, options.rate_point)
    make_deterministic(1)
    for run in options.snr:
        for point, bpp, decibels in snr_of(run, options.sequences):
            print(f"{run.name:<16} {point:>5} {bpp:8.4f} bpp {decibels:6.2f} dB", flush=True)


def measure_memory(folder: Path, frames: int, codec: str, point: str) -> None:
    """Draw a sequence, run over it, print the peak of memory of the run."""
    write_sequence(draw_sequence("test", 0, frames), folder / "long", None)
    values = yaml.safe_load((cfg_folder() / "ctc" / "minictc_tracking.yaml").read_text())
    left_out = ("minictc", "expected_mota", "expected_tolerance")
    values = {key: value for key, value in values.items() if key not in left_out}
    values |= {"name": "long", "sequences": ["LONG/long"], "sequence_folder": "{}"}
    (folder / "long.yaml").write_text(yaml.safe_dump(values))
    command = [
        sys.executable, "-m", "vcm_plugin.cli", "run", folder / "long.yaml", "--codec", codec,
        "--rate-points", point, "--data-root", folder, "-o", folder / "run",
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{describe_device('cpu')}: {frames} frames, {codec} at {point}: peak memory "
        f"{used.ru_maxrss / 1024:.0f} MiB, {used.ru_utime + used.ru_stime:.0f} s of processor, "
        f"{time.perf_counter() - started:.0f} s"
    )


def snr_of(run: Path, sequences: int) -> Iterator[tuple[str, float, float]]:
    """Rate point, bits per pixel of these sequences, and mean SNR of the layers in dB."""
    condition, result = load_condition(run / "condition.yaml"), load_result(run)
    codec = make_codec(result.codec, condition)
    detector = load_split_model(
        condition.model_path(), condition.weights_path(), condition.split_point
    )
    entries = open_test_set(condition).sequences[:sequences]
    pixels = sum(frame.height * frame.width for entry in entries for frame in entry.frames)
    names = [point.rate_point for point in result.points]
    sums: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    bits = dict.fromkeys(names, 0)
    for entry in entries:
        sources = [detector.nn_part1(picture) for picture in read_frames(entry)]
        for name in names:
            file = run / name / "bitstreams" / f"{entry.image_id}.fcm"
            bits[name] += 8 * file.stat().st_size
            decoded = coding.decode_sequence(codec, file)
            for source, frame in zip(sources, decoded, strict=True):
                add(sums[name], source, frame.features)
    for name in names:
        yield name, bits[name] / pixels, float(np.mean([*map(decibels_of, sums[name].values())]))


def add(sums: dict[str, np.ndarray], source: FeaturePyramid, decoded: FeaturePyramid) -> None:
    """Count, sum, squares and squared error of each layer of a frame, added in place."""
    for name, x in source.layers.items():
        x, error = x.double(), x.double() - decoded.layers[name].double()
        squares = x.square().sum().item(), error.square().sum().item()
        now = np.array([x.numel(), x.sum().item(), *squares])
        sums[name] = sums.get(name, 0.0) + now


def decibels_of(sums: np.ndarray) -> float:
    """Variance over squared error."""
    count, total, squares, error = sums
    return 10 * np.log10((squares - total**2 / count) / error)


if __name__ == "__main__":
    main()
