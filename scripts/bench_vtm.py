#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How far are the anchors on VVenC from the official ones on VTM? Bits at equal PSNR.

    scripts/bench_vtm.py FOLDER --pictures 3 --features 1
    scripts/bench_vtm.py FOLDER --sequences test_01 --frames 17

Three comparisons, all BD-rates of VTM against VVenC (preset `faster`) at the same QPs: pictures of
the mini-CTC test split by vvc_remote and vtm_remote (PSNR of R, G and B), their features by
vvc_feature and vtm_feature (PSNR of all values of p2..p5, the peak being a picture's range), and
sequences of minictc_sequences by vvc_remote and vtm_remote with random access and low delay (mean
PSNR of the frames). Needs VCM_VTM_ENCODER, VCM_VTM_DECODER and VCM_VTM_CONFIG.

VTM takes a minute and more for a packed feature picture. Every point is kept in FOLDER when it is
there; the same command goes on. Seconds are those of the processor, of encoding.
"""

import argparse
import json
import resource
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import vcm_plugin
from anchors.vvc_feature import VvcFeatureCodec, picture_range
from anchors.vvc_remote import VvcRemoteCodec
from vcm_plugin.bitstream import Timing
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.environment import describe_device, make_deterministic
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.metrics.bd_rate import bd_rate
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.testsets.sequences import read_frames

ENCODERS = ("vvenc", "vtm")  # anchor and test of a BD-rate


@dataclass(frozen=True)
class Task:
    """One point of a curve. what: pictures, features, random access or low delay."""

    what: str
    source: str
    encoder: str
    qp: int


@dataclass(frozen=True)
class Point:
    """What came of a task."""

    bits: int
    psnr: float
    seconds: float


def main() -> None:
    options = read_options()
    make_deterministic(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    sources = dict(sources_of(options))
    print(describe_device("cpu"))
    for codec in (codec_of(what, encoder) for what in sources for encoder in ENCODERS):
        print(json.dumps(codec.identity()["inner_codec"]))
    for task in tasks_of(sources, options.qps):
        if task not in kept(options.folder):
            keep(options.folder, task, measured(task, sources[task.what][task.source]))
    print_table(kept(options.folder))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where points are kept")
    parser.add_argument("--pictures", type=int, default=0, help="of the mini-CTC test split")
    parser.add_argument("--features", type=int, default=0, help="of so many of these pictures")
    parser.add_argument("--sequences", nargs="*", default=[], help="of minictc_sequences, by name")
    parser.add_argument("--frames", type=int, default=33, help="of a sequence (%(default)s)")
    parser.add_argument("--qps", type=int, nargs="+", default=[27, 32, 37, 42])
    return parser.parse_args()


def sources_of(options: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    """What is coded, by comparison and by name."""
    condition = load_condition("minictc")
    images = open_test_set(condition).pictures
    pictures = {one.path.stem: read_picture(one.path) for one in images[: options.pictures]}
    if pictures:
        yield "pictures", pictures
    named = {one.path.stem: read_picture(one.path) for one in images[: options.features]}
    if named:
        model = vcm_plugin.load_detector(condition)
        yield "features", {name: model.nn_part1(picture) for name, picture in named.items()}
    entries = {
        one.name: one for one in open_test_set(load_condition("minictc_sequences")).sequences
    }
    chosen = {
        name: list(read_frames(entries[name]))[: options.frames] for name in options.sequences
    }
    if chosen:
        yield "random access", chosen
        yield "low delay", chosen


def tasks_of(sources: dict[str, dict], qps: list[int]) -> Iterator[Task]:
    """The quick ones first: high QPs, and what comes first in `sources`."""
    for what, named in sources.items():
        for source in named:
            for qp in sorted(qps, reverse=True):
                yield from (Task(what, source, encoder, qp) for encoder in ENCODERS)


def codec_of(what: str, encoder: str) -> VvcFeatureCodec | VvcRemoteCodec:
    if what == "features":
        return VvcFeatureCodec(backend=encoder)
    inter = what != "pictures"
    return VvcRemoteCodec(backend=encoder, random_access=inter, low_delay=what == "low delay")


def measured(task: Task, source) -> Point:
    """Code and decode a source."""
    codec, before = codec_of(task.what, task.encoder), children()
    if not isinstance(source, list):
        data = codec.encode(source, str(task.qp))
        seconds = children() - before
        return Point(8 * len(data), psnr(source, codec.decode(data)), seconds)
    with tempfile.NamedTemporaryFile(suffix=".vvc") as file:
        timing = Timing(len(source), (30, 1))
        size = sum(codec.encode_frames(source, str(task.qp), timing, file))
        file.flush()
        seconds = children() - before
        decoded = codec.decode_frames(Path(file.name))
        values = [psnr(*pair) for pair in zip(source, decoded, strict=True)]
    return Point(8 * size, float(np.mean(values)), seconds)


def children() -> float:
    """Seconds of the processor that ended child processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def psnr(source, decoded) -> float:
    """Of two pictures, or of two pyramids of features."""
    if not isinstance(source, FeaturePyramid):
        error = np.mean((source.astype(float) - decoded) ** 2)
        return 10 * np.log10(255**2 / error)
    low, high = picture_range({name: x.numpy() for name, x in source.layers.items()})
    errors = [(x - decoded.layers[name]).double().ravel() for name, x in source.layers.items()]
    return 10 * np.log10((high - low) ** 2 / np.mean(np.concatenate(errors) ** 2))


def kept(folder: Path) -> dict[Task, Point]:
    path = folder / "points.jsonl"
    lines = map(json.loads, path.read_text().splitlines() if path.exists() else [])
    return {Task(**line["task"]): Point(**line["point"]) for line in lines}


def keep(folder: Path, task: Task, point: Point) -> None:
    with (folder / "points.jsonl").open("a") as file:
        file.write(json.dumps({"task": asdict(task), "point": asdict(point)}) + "\n")
    print(f"{task.what}, {task.source}, {task.encoder}, QP {task.qp}: {point.bits} bits, "
          f"{point.psnr:.2f} dB, {point.seconds:.1f} s", flush=True)  # fmt: skip


def print_table(points: dict[Task, Point]) -> None:
    """BD-rate of VTM against VVenC of every source whose curves are there, and their mean."""
    for what in dict.fromkeys(task.what for task in points):
        sources = dict.fromkeys(task.source for task in points if task.what == what)
        found = {source: difference(points, what, source) for source in sources}
        for source, percent in found.items():
            print(f"{what:<14} {source:<16} {percent if percent is None else f'{percent:+.1f} %'}")
        values = [percent for percent in found.values() if percent is not None]
        if values:
            seconds = [
                sum(p.seconds for task, p in points.items() if (task.what, task.encoder) == key)
                for key in ((what, encoder) for encoder in ENCODERS)
            ]
            print(f"{what:<14} mean of {len(values)}: {np.mean(values):+.1f} %, encoding took "
                  f"{seconds[1] / seconds[0]:.0f} times as long")  # fmt: skip


def difference(points: dict[Task, Point], what: str, source: str) -> float | None:
    """BD-rate of VTM against VVenC for one source; None where a curve is too short."""
    curves = [
        [(p.bits, p.psnr) for task, p in points.items()
         if (task.what, task.source, task.encoder) == (what, source, encoder)]
        for encoder in ENCODERS
    ]  # fmt: skip
    return bd_rate(*curves).percent


if __name__ == "__main__":
    main()
