#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How long does a report take, and how much memory? Real runs, or synthetic ones of any size.

    scripts/bench_report.py RUN RUN ... --anchor NAME      every format from these runs
    scripts/bench_report.py --pictures 5000                3 synthetic codecs x 6 rate points
    scripts/bench_report.py --pictures 50000 --codecs 2 --rate-points 2

The synthetic runs have COCO's statistics (about 7 objects a picture, 80 classes); their detections
are objects with noise, judged by COCOeval, so that the files have the shape and size of real ones.
The predictions are drawn, and the codecs share them and differ in bits: no accuracy of these runs
says anything about a codec.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from vcm_plugin.ctc.results import Record
from vcm_plugin.ctc.typed_json import to_json
from vcm_plugin.metrics import coco_ap
from vcm_plugin.report import ALL_FORMATS, ViewerOptions, write_report

CODECS = {"diff_fchm": 1.0, "vvc_feature": 6.0, "vvc_remote": 3.0}  # name -> factor of its rate
QPS = (22, 27, 32, 37, 42, 47)
SIZE = (480, 640)  # height, width
CLASSES, OBJECTS, FORMATS = 80, 7, ("xlsx", "html", "docx", "json")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--anchor", action="append", default=[])
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--codecs", type=int, default=len(CODECS), choices=range(1, 4))
    parser.add_argument("--rate-points", type=int, default=len(QPS), choices=range(1, 7))
    parser.add_argument("--format", nargs="+", default=FORMATS, choices=ALL_FORMATS)
    parser.add_argument("--keep", type=Path, help="keep the synthetic runs and the report here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = options.keep or Path(folder)
        anchors = options.anchor
        if not options.runs:
            began = time.perf_counter()
            with ProcessPoolExecutor(1, get_context("spawn")) as other:  # its memory is its own
                size = options.pictures, list(CODECS)[: options.codecs], QPS[: options.rate_points]
                options.runs = other.submit(synthetic_runs, folder, *size).result()
            anchors = list(CODECS)[1 : options.codecs]
            print(f"synthetic runs made in {time.perf_counter() - began:.0f} s, not counted")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, cpu = time.perf_counter(), time.process_time()
        viewer = ViewerOptions(data_root=folder)
        write_report(options.runs, anchors, folder / "report", options.format, viewer=viewer)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{' '.join(options.format)}: {seconds:.1f} s ({cpu:.1f} s of processor time), peak "
              f"memory {peak / (1 << 20):.2f} GiB ({before / (1 << 20):.2f} before)")  # fmt: skip
        for path in sorted((folder / "report").iterdir()):
            print(f"  {path.name}: {path.stat().st_size / 1e6:.1f} MB")


def synthetic_runs(
    folder: Path, pictures: int, codecs: Sequence[str], qps: Sequence[int]
) -> list[Path]:
    """Complete run folders of every codec, and the pictures that the viewer reads."""
    rng = np.random.default_rng(1)
    truth = ground_truth(rng, pictures)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    noise = rng.integers(0, 255, (*SIZE, 3), np.uint8)
    Image.fromarray(noise).save(folder / "images" / "picture.jpg")
    for image in truth["images"]:
        path = folder / "images" / image["file_name"]
        path.unlink(missing_ok=True)
        path.hardlink_to(folder / "images" / "picture.jpg")
    (folder / "instances.json").write_text(json.dumps(truth))
    ids = [image["id"] for image in truth["images"]]
    accuracies, bits_of = {}, {}
    for step, point in enumerate(("uncompressed", *qps)):  # one after the other, for their size
        found, accuracies[point] = judged(rng, truth, 0.02 + 0.02 * step, folder / f"{point}.npz")
        for name in codecs:
            bits = CODECS[name] * 8e5 / 2**step * rng.lognormal(0, 0.4, len(ids))
            bits_of[name, point] = bits.astype(int).tolist()
            measured = dict(zip(ids, bits_of[name, point], strict=True))
            write_lines(folder / name / str(point), found, measured if step else None)
            shutil.copy(folder / f"{point}.npz", folder / name / str(point) / "matches.npz")
    return [
        write_run(folder, name, truth, accuracies, {qp: bits_of[name, qp] for qp in qps})
        for name in codecs
    ]


def ground_truth(rng: np.random.Generator, pictures: int) -> dict:
    images = [{"id": i, "file_name": f"{i:06}.jpg", "height": SIZE[0], "width": SIZE[1]}
              for i in range(1, pictures + 1)]  # fmt: skip
    annotations = []
    for image in images:
        for _ in range(1 + rng.poisson(OBJECTS - 1)):
            side = np.exp(rng.uniform(2.5, 5.3, 2))
            corner = rng.uniform(0, 1, 2) * (np.array(SIZE[::-1]) - side)
            box = [*np.maximum(corner, 0).tolist(), *side.tolist()]
            annotations.append({
                "id": len(annotations) + 1, "image_id": image["id"], "iscrowd": 0, "bbox": box,
                "category_id": 1 + int(rng.integers(CLASSES)), "area": box[2] * box[3],
                "segmentation": mask_of(box),
            })  # fmt: skip
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def mask_of(box: list[float]) -> dict:
    x, y, w, h = box
    polygon = [x, y + h / 2, x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h]
    (code,) = rle.frPyObjects([polygon], *SIZE)
    return {"size": list(SIZE), "counts": code["counts"].decode()}


def judged(rng, truth: dict, noise: float, path: Path) -> tuple[dict, dict]:
    """Noisy copies of the objects as predictions by picture, and their accuracy."""
    by_picture: dict[int, list] = {image["id"]: [] for image in truth["images"]}
    for item in truth["annotations"]:
        x, y, w, h = item["bbox"]
        for copy in range(2):
            shift = rng.normal(0, noise * (1 + 2 * copy), 4) * np.array([w, h, w, h])
            box = np.array([x, y, w, h]) + shift
            box[2:] = np.maximum(box[2:], 1)
            by_picture[item["image_id"]].append({
                "image_id": item["image_id"], "category_id": item["category_id"],
                "bbox": box.tolist(), "score": float(rng.beta(5, 1 + 10 * noise)) / (1 + copy),
                "segmentation": mask_of(box.tolist()),
            })  # fmt: skip
    predictions = [p for found in by_picture.values() for p in found]
    matches = {task: coco_ap.match_pictures(truth, predictions, task) for task in coco_ap.TASKS}
    coco_ap.write_matches(path, matches)
    accuracy = {k: v for found in matches.values() for k, v in coco_ap.accuracy(found).items()}
    return by_picture, accuracy


def write_run(folder: Path, name: str, truth: dict, accuracies: dict, bits_of: dict) -> Path:
    """What a run folder holds beside its journals, as the runner leaves it, less the bitstreams,
    which no report reads."""
    run, points = folder / name, []
    ids = [image["id"] for image in truth["images"]]
    for qp, bits in bits_of.items():
        points.append({
            "rate_point": str(qp), "bits": sum(bits), "pictures": len(ids),
            "pixels": len(ids) * SIZE[0] * SIZE[1], "accuracy": accuracies[qp],
            "per_picture": {"image_id": ids, "bits": bits},
        })  # fmt: skip
    seconds = {
        stage: {"sum": 1.0 * len(ids), "median": 1.0} for stage in ("encode", "decode", "nn_part2")
    }
    seconds["nn_part1"] = {"sum": 0.5 * len(ids), "median": 0.5}
    timings = {"wall_seconds": 1.0 * len(ids), "complexity": None, "jobs": 1}
    timings["points"] = {"uncompressed": {}, **{str(qp): seconds for qp in bits_of}}
    (run / "timings.json").write_text(json.dumps(timings))
    (run / "ground_truth.json").write_text(json.dumps(truth))
    (run / "condition.yaml").write_text(
        "name: synthetic\nmodel: none\nimages: images\nannotations: instances.json\n"
        f"class_names: {json.dumps([c['name'] for c in truth['categories']])}\ntasks: [box, mask]\n"
    )
    result = {
        "format": "vcm-plugin result", "version": 1, "key": "synthetic", "condition": "synthetic",
        "codec": name, "codec_identity": {"kind": "feature"}, "model_identity": {},
        "test": {"tasks": ["box", "mask"], "protocol": "coco", "score_threshold": 0.5,
                 "iou_threshold": 0.5, "threads_per_job": 1, "min_overlap": 5.0,
                 "near_lossless": 1.0, "human_vision": False},
        "environment": {"device": "none: synthetic"}, "skipped": [], "points": points,
        "dataset": {"name": "synthetic", "pictures": len(ids), "sha256": "synthetic",
                    "pixels": len(ids) * SIZE[0] * SIZE[1]},
        "uncompressed": {"accuracy": accuracies["uncompressed"]}, "expected": {},
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))
    return run


def write_lines(folder: Path, found: dict, bits: dict | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "pictures.jsonl").open("w") as file:
        for image_id, predictions in found.items():
            record = Record(image_id, bits and bits[image_id], predictions=predictions)
            file.write(json.dumps(to_json(record), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
