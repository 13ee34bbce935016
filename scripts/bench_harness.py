#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Our runner against CompressAI-Vision with our codecs: the same job, bytes, tables and times.

    scripts/bench_harness.py                     R50-FPN, random weights, tiny_coco, vvc_feature
    scripts/bench_harness.py --codec diff_fchm   the same with a VFCN of random weights
    scripts/bench_harness.py --job bccd --codec diff_fchm    our detector and VFCN of blood cells
    scripts/bench_harness.py --job bccd --detector FILE      that of scripts/finetune_detectron2.py

Wants vcm-plugin, CompressAI-Vision and Detectron2 installed, and --data-root or $VCM_DATA. The
ground truth of random weights is pseudo ground truth: the detector's own 15 best boxes in the
uncompressed picture. Times are of whole commands, seconds of processor time beside; the harness
has one thread unless OMP_NUM_THREADS says otherwise, our runner one for each of its --jobs.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the jobs are those of the tests

from bench_machine_codec import random_vfcn  # noqa: E402
from harness_job import Job, blood_cells, lossless, make_job, summary  # noqa: E402

from vcm_plugin.ctc.results import RunResult  # noqa: E402
from vcm_plugin.environment import PACKAGE  # noqa: E402
from vcm_plugin.split import load_split_model  # noqa: E402

POINTS = {"vvc_feature": (12.0, 22.0, 32.0, 42.0), "diff_fchm": (0.5, 1.0, 2.0, 4.0)}
ANCHOR = {"vvc_feature_preset": "faster", "vvc_feature_range": "picture"}


@dataclass(frozen=True)
class Timed:
    """What a function returned, its seconds, and those of the processor in its child processes."""

    value: Any
    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", choices=("r50", "bccd"), default="r50")
    parser.add_argument("--codec", choices=tuple(POINTS), default="vvc_feature")
    parser.add_argument("--points", type=float, nargs="+", help="QPs, or scales of diff_fchm")
    parser.add_argument("--detector", type=Path, help="other weights of bccd_faster_rcnn")
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--min-size", type=int, default=800, help="of the network input of R50-FPN")
    parser.add_argument("--jobs", type=int, default=1, help="of our runner (%(default)s)")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("VCM_DATA"))
    options = parser.parse_args()
    if options.data_root is None:
        parser.error("name the folder of tiny_coco and bccd with --data-root or $VCM_DATA")
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Run both, print one line for each rate point and one for the times."""
    codec = options.codec
    options.points = [int(p) if p.is_integer() else p for p in options.points or POINTS[codec]]
    job, settings = make(options, folder)
    overrides = [f"++codec.encoder_config.{key}={value}" for key, value in settings.items()]
    ours = timed(lambda: job.run_ours(codec, "--jobs", str(options.jobs)))
    result, run = ours.value
    uncompressed = result.uncompressed.accuracy["box_ap"]
    print(f"{options.job}, {codec}, {options.pictures} pictures, uncompressed {uncompressed:.2f}")
    theirs = []
    for point in options.points:
        command = (codec, f"++codec.encoder_config.rate_point={point}", *overrides)
        theirs.append(timed(lambda command=command: job.run_harness(*command)))
        print(line(result, run, f"{point:g}", theirs[-1].value))
    wall, cpu = (sum(getattr(t, name) for t in theirs) for name in ("wall", "cpu"))
    print(f"ours {ours.wall:.1f} s ({ours.cpu:.1f} s of processor), the harness {wall:.1f} s "
          f"({cpu:.1f} s): {ours.wall / wall:.2f} ({ours.cpu / cpu:.2f}) of it")  # fmt: skip


def line(result: RunResult, run: Path, point: str, harness: Path) -> str:
    """One rate point: rates, accuracies, and how many bitstreams are the same bytes."""
    own = result.point(point)
    row = summary(harness)
    coded = {path.stem.split("_")[-1]: path for path in harness.glob("codec_output/*.bin")}
    ours = list((run / point / "bitstreams").iterdir())
    same = sum(path.read_bytes() == coded[path.stem].read_bytes() for path in ours)
    return (
        f"{point:>5} {harness.name}: ours {own.bits / own.pixels:.6f} bpp, "
        f"{own.accuracy['box_ap']:.4f} AP; harness {float(row['avg_bpp']):.6f} bpp, "
        f"{float(row['end_accuracy']):.4f} AP; {same} of {len(ours)} bitstreams the same bytes"
    )


def make(options: argparse.Namespace, folder: Path) -> tuple[Job, dict[str, Any]]:
    """The job, and the settings of its codec that the harness has to be told."""
    key = {"vvc_feature": "vvc_feature_qps", "diff_fchm": "diff_fchm_scales"}[options.codec]
    codecs = {key: options.points, **ANCHOR}
    data = options.data_root
    if options.job == "bccd":
        settings = {"diff_fchm_weights": str(PACKAGE / "weights" / "bccd_vfcn.safetensors")}
        if options.detector:
            settings["diff_fchm_other_detector"] = True
        detector = options.detector or PACKAGE / "weights" / "bccd_faster_rcnn.pth"
        job = blood_cells(folder, None, data, codecs | settings, options.pictures, detector)
        return job, settings if options.codec == "diff_fchm" else {}
    paths = sorted((data / "tiny_coco/val2017").glob("*.jpg"))[: options.pictures]
    pictures = lossless([{"file_name": path.name} for path in paths], data / "tiny_coco/val2017")
    vfcn = folder / "vfcn.safetensors"
    settings = {"diff_fchm_weights": str(vfcn)} if options.codec == "diff_fchm" else {}
    job = make_job(folder, None, pictures, codecs | settings, min_size=options.min_size)
    if settings:
        model = load_split_model(folder / "model.yaml", folder / "model.pth")
        random_vfcn(model.nn_part1(pictures[0][1]), model.weights_sha256, vfcn)
    return job, settings


def timed(function: Callable[[], Any]) -> Timed:
    """Call a function that starts processes, and time it."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    value = function()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timed(value, wall, cpu)


if __name__ == "__main__":
    main()
