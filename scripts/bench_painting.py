#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How long does painting a picture take, and how much memory, by picture size?

    scripts/bench_painting.py [PICTURE] [--restorer FILE] [--keep DIR]
    scripts/bench_painting.py [PICTURE] --codec diff_fchm_human --rate-point 2.8+1

Crops or tiles of one picture (default: a drawn scene) at sizes that are no multiples of 64, too.
Medians of a few runs in one process; the peak memory is that of the process up to that line.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vcm_plugin import environment
from vcm_plugin.ctc.codecs import load_condition, make_codec, override
from vcm_plugin.ctc.coding import Source, decode, encode
from vcm_plugin.ctc.detector import load_detector
from vcm_plugin.metrics.psnr import psnr
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.testsets.pictures import read_picture

SIZES = ((64, 64), (61, 93), (256, 320), (321, 481), (512, 768), (1080, 1920))  # height, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, nargs="?")
    parser.add_argument("--codec", default="diff_fchm_picture", help="(%(default)s)")
    parser.add_argument("--human-weights")
    parser.add_argument("--restorer")
    parser.add_argument("--rate-point", default="1.4+37", help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--keep", type=Path, help="folder for sources and painted pictures")
    options = parser.parse_args()
    environment.make_deterministic(options.threads)
    changes = {
        "diff_fchm_human_weights": options.human_weights,
        "diff_fchm_restorer_weights": options.restorer,
    }
    condition = override(load_condition("minictc_human"), changes)
    model, codec = load_detector(condition, "cpu"), make_codec(options.codec, condition)
    path = options.picture or open_test_set(override(condition, {"limit": 2})).pictures[0].path
    source = read_picture(path)
    print(f"{path.name}, {options.rate_point}, {options.threads} threads, median of {options.runs}")
    titles = ("encode s", "decode s", "MiB", "bpp", "PSNR")
    print(f"{'size':>12}{'NN-Part1 s':>12}" + "".join(f"{title:>9}" for title in titles))
    for height, width in SIZES:
        repeats = (-(-height // source.shape[0]), -(-width // source.shape[1]), 1)
        picture = np.ascontiguousarray(np.tile(source, repeats)[:height, :width])
        seconds = {"nn_part1": [], "encode": [], "decode": []}
        for _ in range(options.runs):
            features = timed(seconds["nn_part1"], model.nn_part1, picture)
            both = Source(picture, features)
            data = timed(seconds["encode"], encode, codec, both, options.rate_point)
            painted = timed(seconds["decode"], decode, codec, data).picture
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cells = [statistics.median(values) for values in seconds.values()]
        bpp, quality = 8 * len(data) / (height * width), psnr(picture, painted)
        print(
            f"{width:>6} x {height:<4}{cells[0]:12.2f}{cells[1]:9.2f}{cells[2]:9.2f}{peak:9.0f}"
            f"{bpp:9.3f}{quality:9.2f}",
            flush=True,
        )
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            pair = np.concatenate((picture, painted), axis=1)
            Image.fromarray(pair).save(options.keep / f"{width}x{height}.png")


def timed(seconds: list[float], work, *arguments):
    started = time.perf_counter()
    found = work(*arguments)
    seconds.append(time.perf_counter() - started)
    return found


if __name__ == "__main__":
    main()
