# SPDX-License-Identifier: BSD-3-Clause
"""What does the viewer of the web report show? Some pictures, as they were and as they decode."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.results import UNCOMPRESSED, Journal, decoded_path, read_predictions
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json
from vcm_plugin.report import human
from vcm_plugin.report.tables import Report, Run
from vcm_plugin.testsets.pictures import read_picture

MEASURES = ("psnr", "vmaf", "haarpsi")  # shown under a decoded picture


@dataclass(frozen=True)
class ViewerOptions:
    """pictures: at most so many, evenly spaced over the test set; data_root: where they lie.

    decoded: thumbnails of decoded pictures, at most so many in the page: runs that keep them have
    one of each picture at each rate point, and show fewer pictures.
    """

    pictures: int = 48
    data_root: Path | None = None
    side: int = 480  # of a thumbnail, in pixels
    quality: int = 80  # of its JPEG
    decoded: int = 600


def viewer_data(report: Report, options: ViewerOptions) -> dict[str, Any]:
    """What the page embeds: pictures, classes, ground truth, detections of every rate point."""
    first = report.runs[0]
    path = first.folder / "ground_truth.json"
    if not path.is_file() or options.pictures < 1:
        return {"pictures": [], "note": "The viewer is empty: the runs keep no ground truth."}
    test = first.result.get("test", {})
    if test.get("protocol") == "semantic":
        return {"pictures": [], "note": "The viewer is empty: labelled points have no boxes."}
    truth = read_json(path)
    skipped = {entry["image_id"] for entry in report.skipped}
    images = [image for image in truth["images"] if image["id"] not in skipped]
    folders = [run.folder / point.rate_point for run in report.runs for point in run.points]
    each = sum(decoded_path(folder, 0).parent.is_dir() for folder in folders)
    limit = max(1, options.decoded // each) if each else len(images)
    count = min(options.pictures, limit, len(images))
    places = np.linspace(0, len(images) - 1, count).astype(int)
    shown = [images[place] for place in places]
    files, missing = _files(first, options)
    objects = _objects(truth, [image["id"] for image in shown])
    data = {
        "pictures": [
            {
                "id": image["id"],
                "name": image["file_name"],
                "size": [image["width"], image["height"]],
                "thumbnail": _thumbnail(files.get(image["id"]), options),
                "truth": [_drawn(item, None) for item in objects[image["id"]]],
            }
            for image in shown
        ],
        "classes": {category["id"]: category["name"] for category in truth["categories"]},
        "points": list(_points(report, objects, options)),
    }
    score, iou = test.get("score_threshold", 0.5), test.get("iou_threshold", 0.5)
    data["note"] = (
        f"{len(shown)} of {len(images)} pictures, evenly spaced over the test set; thumbnails of "
        f"at most {options.side} pixels. Detections with a score of at least {score:g}; matched: "
        f"same class and a box IoU of at least {iou:g} with an object that is still free."
    )
    if any("decoded" in shown for p in data["points"] for shown in p["pictures"].values()):
        data["note"] += (
            f" Decoded pictures are thumbnails, too, at most {options.decoded} in all; the run "
            "folders keep them whole and lossless (<rate point>/decoded/<id>.png). Where a codec "
            "decodes features only, its detections lie over the original."
        )
    if missing:
        data["note"] += f" The pictures themselves are not here ({missing})."
    return data


def match(objects: Sequence[dict], found: Sequence[dict], iou: float) -> tuple[list[int], set[int]]:
    """Index of the object that each detection matches (-1: none), and the objects that are missed.

    Detections choose by falling score among the free objects of their class; crowds are no objects
    to find, and a detection on one is not counted as wrong (-2).
    """
    taken: set[int] = set()
    chosen = [-1] * len(found)
    if objects and found:
        crowds = [int(item.get("iscrowd", 0)) for item in objects]
        boxes = [np.array([item["bbox"] for item in side], float) for side in (found, objects)]
        overlaps = rle.iou(*boxes, crowds)  # (found, objects)
        for k in sorted(range(len(found)), key=lambda k: -found[k]["score"]):
            same = [
                (overlaps[k, j], j)
                for j, item in enumerate(objects)
                if item["category_id"] == found[k]["category_id"] and overlaps[k, j] >= iou
            ]
            free = [pair for pair in same if pair[1] not in taken and not crowds[pair[1]]]
            if free:
                chosen[k] = max(free)[1]
                taken.add(chosen[k])
            elif any(crowds[j] for _, j in same):
                chosen[k] = -2
    wanted = {j for j, item in enumerate(objects) if not item.get("iscrowd", 0)}
    return chosen, wanted - taken


def _points(
    report: Report, objects: dict[int, list], options: ViewerOptions
) -> Iterator[dict[str, Any]]:
    """One entry per run and rate point: bits, detections and decoded picture of each picture."""
    test = report.runs[0].result.get("test", {})
    score, iou = test.get("score_threshold", 0.5), test.get("iou_threshold", 0.5)
    for run in report.runs:
        stored = {point["rate_point"]: point["per_picture"] for point in run.result["points"]}
        for point in (UNCOMPRESSED, *stored):
            if point == UNCOMPRESSED and run is not report.runs[0]:
                continue
            listed = stored.get(point, {"image_id": [], "bits": []})
            bits = dict(zip(listed["image_id"], listed["bits"], strict=True))
            pictures = {}
            records = _frames if "sequences" in run.result["dataset"] else _records
            for image_id, record in records(run.folder / point, objects):
                kept = [item for item in record["predictions"] if item["score"] >= score]
                chosen, missed = match(objects[image_id], kept, iou)
                drawn = [_drawn(item, place) for item, place in zip(kept, chosen, strict=True)]
                pictures[image_id] = {
                    "bits": bits.get(image_id),
                    "found": drawn,
                    "missed": sorted(missed),
                    **_looks(run.folder / point, record, options),
                }
            name = point if point == UNCOMPRESSED else f"{run.name}, {point}"
            yield {"name": name, "pictures": pictures}


def _looks(folder: Path, record: dict, options: ViewerOptions) -> dict[str, Any]:
    """Of a decoded picture: its thumbnail, the bits before the human layer, and MEASURES."""
    path = decoded_path(folder, record["image_id"])
    if not path.is_file():
        return {}
    measured = record.get("picture", {})
    measures = {human.TITLES[key]: measured[key] for key in MEASURES if key in measured}
    kept = {name: value for name, value in measures.items() if isinstance(value, float)}
    machine = {"machine_bits": record["machine_bits"]} if "machine_bits" in record else {}
    return machine | {"decoded": _thumbnail(path, options), "measures": kept}


def _records(folder: Path, wanted: dict[int, Any]) -> Iterator[tuple[int, dict]]:
    """(image id, line) of the wanted pictures; other lines are passed over unparsed."""
    path = folder / "pictures.jsonl"
    if not path.is_file():
        return
    heads = tuple(f'{{"image_id":{image_id},'.encode() for image_id in wanted)
    with path.open("rb") as file:
        for line in file:
            if line.startswith(heads):
                record = json.loads(line)
                yield record["image_id"], record


def _frames(folder: Path, wanted: dict[int, Any]) -> Iterator[tuple[int, dict]]:
    """The same of the frames of sequences, whose lines hold the predictions of all their frames."""
    found: dict[int, list[dict]] = {image_id: [] for image_id in wanted}
    for item in read_predictions(folder, list(Journal(folder).records)):
        if item["image_id"] in found:
            found[item["image_id"]].append(item)
    for image_id, predictions in found.items():
        yield image_id, {"image_id": image_id, "predictions": predictions}


def _drawn(item: dict, place: int | None) -> list:
    """[class, box, score, matched object, mask as COCO's run lengths or null]."""
    box = [round(float(value), 1) for value in item["bbox"]]
    mask = item.get("segmentation")
    counts = mask["counts"] if isinstance(mask, dict) and isinstance(mask["counts"], str) else None
    score = item.get("score")
    return [item["category_id"], box, score and round(score, 3), place, counts]


def _objects(truth: dict, image_ids: Sequence[int]) -> dict[int, list[dict]]:
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    objects: dict[int, list[dict]] = {image_id: [] for image_id in image_ids}
    for item in truth["annotations"]:
        if item["image_id"] in objects:
            objects[item["image_id"]].append(_with_mask(item, *sizes[item["image_id"]]))
    return objects


def _with_mask(item: dict, height: int, width: int) -> dict:
    """An object whose polygons or uncompressed run lengths became a compressed mask."""
    shape = item.get("segmentation")
    if not shape or (isinstance(shape, dict) and isinstance(shape["counts"], str)):
        return item
    code = rle.frPyObjects(shape, height, width)
    code = rle.merge(code) if isinstance(code, list) else code
    return {**item, "segmentation": {"size": code["size"], "counts": code["counts"].decode()}}


def _files(run: Run, options: ViewerOptions) -> tuple[dict[int, Path], str]:
    """Image id -> picture file; and why there are none."""
    from vcm_plugin.testsets.open import open_test_set  # torch, which packages do without

    path = run.folder / "condition.yaml"
    if not path.is_file():
        return {}, "the run keeps no condition"
    try:
        dataset = open_test_set(load_condition(path), options.data_root)
    except InputError:
        return {}, "name their folder with --data-root"
    files = {e.image_id: e.path for e in dataset.pictures if e.path.is_file()}
    return files, "" if files else "the frames lie in video files"


def _thumbnail(path: Path | None, options: ViewerOptions) -> str | None:
    """A JPEG as a data URL."""
    if path is None:
        return None
    picture = Image.fromarray(read_picture(path))
    picture.thumbnail((options.side, options.side), Image.Resampling.LANCZOS)
    with io.BytesIO() as file:
        picture.save(file, "JPEG", quality=options.quality)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
