#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How long does an inter frame take beside an intra frame, to encode and to decode?

    scripts/bench_inter.py                   the val split of minictc_sequences, bundled weights

Each sequence is coded twice in this run: with inter frames, and all-intra. Seconds are those of the
processor, of this process with one thread: features -> unit, unit -> features. Printed are medians
over the frames but the first of each sequence, and their ratio.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from vcm_plugin.bitstream import Timing
from vcm_plugin.conditions import model_path
from vcm_plugin.ctc.codecs import load_condition, make_codec, override
from vcm_plugin.entropy import rans
from vcm_plugin.environment import describe_device, make_deterministic
from vcm_plugin.split import load_split_model
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.testsets.sequences import read_frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=17, help="of each sequence (%(default)s)")
    parser.add_argument("--rate-points", nargs="+", default=["1.4", "4"], help="scales s")
    parser.add_argument("--sequences", type=int, default=6, help="of the val split (%(default)s)")
    options = parser.parse_args()
    make_deterministic(1)
    rans.PATIENCE = 0  # compile now, not after some frames
    condition = override(load_condition("minictc_sequences"), {"minictc": "val"})
    weights = condition.weights_path()
    model = load_split_model(model_path(condition.model), weights, runtime="torchvision")
    videos = [
        [model.nn_part1(picture) for picture in islice(read_frames(sequence), options.frames)]
        for sequence in open_test_set(condition).sequences[: options.sequences]
    ]
    codecs = {
        name: make_codec("diff_fchm", override(condition, keys))
        for name, keys in (("inter", {}), ("intra", {"diff_fchm_intra_period": 1}))
    }
    print(f"{describe_device('cpu')}, 1 thread, {len(videos)} sequences of {options.frames} frames")
    for s in options.rate_points:
        seconds = {name: measure(codec, videos, s) for name, codec in codecs.items()}
        for work in ("encode", "decode", "both"):
            inter, intra = (seconds[name][work] for name in ("inter", "intra"))
            print(f"s = {s:<4} {work:<7} inter {1e3 * inter:6.1f} ms  intra {1e3 * intra:6.1f} ms  "
                  f"{inter / intra:.2f}")  # fmt: skip


def measure(codec, videos: list[list], s: str) -> dict[str, float]:
    """Median seconds of a frame that is not the first of its sequence."""
    encode, decode = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sequence.fcm")
        for frames in videos:
            marks: list[float] = []
            with path.open("wb") as file:
                codec.encode_frames(noted(frames, marks), s, Timing(len(frames), (30, 1)), file)
            marks.append(time.process_time())
            encode += [after - before for before, after in zip(marks[1:], marks[2:])]
            decode += list(durations(codec.decode_frames(path)))[1:]
    both = statistics.median(encode) + statistics.median(decode)
    return {"encode": statistics.median(encode), "decode": statistics.median(decode), "both": both}


def noted(frames: Iterable, marks: list[float]) -> Iterator:
    """The frames; the processor time at which each is asked for joins the marks."""
    for frame in frames:
        marks.append(time.process_time())
        yield frame


def durations(frames: Iterator) -> Iterator[float]:
    """Processor time until each frame is there."""
    started = time.process_time()
    for _ in frames:
        yield time.process_time() - started
        started = time.process_time()


if __name__ == "__main__":
    main()
