#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How long does an inter frame take beside an intra frame, and how much memory do many frames?

    scripts/bench_inter.py                   the val split of minictc_sequences, bundled weights
    scripts/bench_inter.py --memory 1000     1,000 drawn frames, coded and decoded one at a time

Time: each frame is coded with and without inter frames one after the other, so that what else the
machine does falls on both. Seconds are those of the processor, of this process with one thread:
features -> unit, unit -> features. Printed are medians over the frames but the first of each
sequence, and their ratio.

Memory: the peak of the process (resident, detector included) after 100 frames and after all.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np

from vcm_plugin.bitstream import Timing
from vcm_plugin.conditions import model_path
from vcm_plugin.ctc.codecs import load_condition, make_codec, override
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.diff_fchm.machine.sequence import InterEncoder
from vcm_plugin.entropy import rans
from vcm_plugin.environment import describe_device, make_deterministic
from vcm_plugin.split import load_split_model
from vcm_plugin.testsets.minictc_sequences import FRAME_RATE, draw_sequence
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.testsets.sequences import read_frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=17, help="of each sequence (%(default)s)")
    parser.add_argument("--rate-points", nargs="+", default=["1.4", "4"], help="scales s")
    parser.add_argument("--sequences", type=int, default=6, help="of the val split (%(default)s)")
    parser.add_argument("--memory", type=int, metavar="N", help="measure memory, over N frames")
    options = parser.parse_args()
    make_deterministic(1)
    rans.PATIENCE = 0  # compile now, not after some frames
    condition = override(load_condition("minictc_sequences"), {"minictc": "val"})
    weights = condition.weights_path()
    model = load_split_model(model_path(condition.model), weights, runtime="torchvision")
    inter, intra = (
        make_codec("diff_fchm", override(condition, keys))
        for keys in ({}, {"diff_fchm_intra_period": 1})
    )
    if options.memory:
        measure_memory(inter, model, options.memory, options.rate_points[0])
        return
    videos = [
        [model.nn_part1(picture) for picture in islice(read_frames(sequence), options.frames)]
        for sequence in open_test_set(condition).sequences[: options.sequences]
    ]
    print(f"{describe_device('cpu')}, 1 thread, {len(videos)} sequences of {options.frames} frames")
    for s in options.rate_points:
        encode, decode = measure_time(inter, intra, videos, s)
        both = [sum(pair) for pair in zip(encode, decode)]
        for work, (inter_s, intra_s) in (("encode", encode), ("decode", decode), ("both", both)):
            print(f"s = {s:<4} {work:<7} inter {1e3 * inter_s:6.1f} ms  "
                  f"intra {1e3 * intra_s:6.1f} ms  {inter_s / intra_s:.2f}")  # fmt: skip


def measure_time(
    inter: MachineCodec, intra: MachineCodec, videos: list[list], s: str
) -> tuple[list[float], list[float]]:
    """Median seconds of an inter and of an intra frame, to encode and to decode."""
    encode, decode = [], []
    with tempfile.TemporaryDirectory() as folder:
        for frames in videos:
            paths = [Path(folder, name) for name in ("inter.fcm", "intra.fcm")]
            for codec, path in zip((inter, intra), paths):
                with path.open("wb") as file:
                    codec.encode_frames(iter(frames), s, Timing(len(frames), (30, 1)), file)
            encode += alternating(
                InterEncoder(inter, float(s), len(frames)).units(map(inter.analyse, frames)),
                (intra.code_intra(intra.analyse(features), float(s)) for features in frames),
            )
            files = zip((inter, intra), paths)
            decode += alternating(*(codec.decode_frames(path) for codec, path in files))
    return tuple([statistics.median(x) for x in zip(*times)] for times in (encode, decode))


def alternating(*works: Iterator) -> list[tuple[float, ...]]:
    """Processor time until each work has its next item, works by turns; not of the first items."""
    rows = []
    while True:
        row = []
        for work in works:
            started = time.process_time()
            if next(work, None) is None:
                return rows[1:]
            row.append(time.process_time() - started)
        rows.append(tuple(row))


def measure_memory(codec: MachineCodec, model, frames: int, s: str) -> None:
    """Code and decode drawn frames, a new scene every 33; print the peak of memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sequence.fcm")
        drawn = noted(islice(scenes(), frames), "encoded")
        timing = Timing(frames, (FRAME_RATE, 1))
        with path.open("wb") as file:
            units = codec.encode_frames(map(model.nn_part1, drawn), s, timing, file)
        print(f"s = {s}: {len(units)} frames, {sum(units)} bytes")
        decoded = sum(1 for _ in noted(codec.decode_frames(path), "decoded"))
        print(f"{decoded} frames decoded")


def scenes() -> Iterator[np.ndarray]:
    """Frames of the training sequences, all of a sequence and then the next."""
    return (picture for index in count() for picture, _ in draw_sequence("train", index))


def noted(frames: Iterator, word: str) -> Iterator:
    """The frames; after the first hundred and after all it prints the peak of memory."""
    number = 0
    for number, frame in enumerate(frames):
        if number == 100:
            print_peak(number, word)
        yield frame
    print_peak(number + 1, word)


def print_peak(frames: int, word: str) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{frames} frames {word}: peak memory {peak:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
