# SPDX-License-Identifier: BSD-3-Clause
"""What does the viewer of the web report show? Some pictures, as they were and as they decode."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.results import UNCOMPRESSED, Record, TestSettings
from vcm_plugin.ctc.run_folder import Journal, decoded_path, read_predictions, read_records
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json
from vcm_plugin.report.runs import Run
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import METRICS, UNDER_PICTURES
from vcm_plugin.testsets.annotations import check_annotations
from vcm_plugin.testsets.coco import FRAMES
from vcm_plugin.testsets.pictures import read_picture


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
    test = first.result.test
    if test.protocol == "semantic":
        return {"pictures": [], "note": "The viewer is empty: labelled points have no boxes."}
    skipped = {picture.image_id for picture in report.skipped}
    truth = check_annotations(read_json(path), path, test.protocol == "tracking").coco
    images = [image for image in truth["images"] if image["id"] not in skipped]
    shown = _shown(report, images, options)
    objects = _objects(truth, [image["id"] for image in shown])
    classes = {category["id"]: category["name"] for category in truth["categories"]}
    pictures = len(images)
    del truth, images  # a large set is not held twice
    files, missing = _files(first, options)
    data = {
        "pictures": [
            {
                "id": image["id"],
                "name": _name(first, image),
                "size": [image["width"], image["height"]],
                "thumbnail": _thumbnail(files.get(image["id"]), options),
                "truth": [_drawn(item, None) for item in objects[image["id"]]],
            }
            for image in shown
        ],
        "classes": classes,
        "points": list(_points(report, objects, options)),
    }
    decoded = any("decoded" in one for p in data["points"] for one in p["pictures"].values())
    count = f"{len(shown)} of {pictures} pictures"
    return data | {"note": _note(count, test, options, decoded, missing)}


def _shown(report: Report, images: list[dict], options: ViewerOptions) -> list[dict]:
    """The pictures that the page shows, evenly spaced; fewer where every point has decoded ones."""
    folders = [run.folder / point.rate_point for run in report.runs for point in run.points]
    each = sum(decoded_path(folder, 0).parent.is_dir() for folder in folders)
    limit = max(1, options.decoded // each) if each else len(images)
    count = min(options.pictures, limit, len(images))
    return [images[place] for place in np.linspace(0, len(images) - 1, count).astype(int)]


def _note(
    count: str, test: TestSettings, options: ViewerOptions, decoded: bool, missing: str
) -> str:
    """What the page says of its pictures; missing: which are not here."""
    judged = (
        "Boxes of tracks (a track is told from its second frame on), whatever their identity"
        if test.protocol == "tracking"
        else f"Detections with a score of at least {test.score_threshold:g}"
    )
    note = (
        f"{count}, evenly spaced over the test set; thumbnails of at most {options.side} pixels. "
        f"{judged}; matched: same class and a box IoU of at least {test.iou_threshold:g} with an "
        "object that is still free."
    )
    if decoded:
        note += (
            f" Decoded pictures are thumbnails, too, at most {options.decoded} in all; the run "
            "folders keep them whole and lossless (<rate point>/decoded/<id>.png). Where a codec "
            "decodes features only, its detections lie over the original."
        )
    return note + (f" The pictures themselves are not here ({missing})." if missing else "")


def _name(run: Run, image: dict) -> str:
    """Of a picture; a frame's begins with its sequence, since others have frames of that name."""
    sequences, name = run.result.dataset.sequences, image["file_name"]
    own = sequences[image["id"] // FRAMES - 1].name if sequences else ""
    return name if name.startswith(own) else f"{own}/{name}"


def match(
    objects: Sequence[dict], detections: Sequence[dict], iou: float
) -> tuple[list[int], set[int]]:
    """Index of the object that each detection matches (-1: none), and the objects that are missed.

    Detections choose by falling score among the free objects of their class; crowds are no objects
    to find, and a detection on one is not counted as wrong (-2).
    """
    taken: set[int] = set()
    chosen = [-1] * len(detections)
    if objects and detections:
        crowds = [int(item.get("iscrowd", 0)) for item in objects]
        boxes = [np.array([item["bbox"] for item in side], float) for side in (detections, objects)]
        overlaps = rle.iou(*boxes, crowds)  # (detections, objects)
        for k in sorted(range(len(detections)), key=lambda k: -detections[k]["score"]):
            same = [
                (overlaps[k, j], j)
                for j, item in enumerate(objects)
                if item["category_id"] == detections[k]["category_id"] and overlaps[k, j] >= iou
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
    for run in report.runs:
        points = {point.rate_point: point.bits_by_picture for point in run.result.points}
        if run is report.runs[0]:
            points = {UNCOMPRESSED: {}} | points
        for point, bits in points.items():
            name = point if point == UNCOMPRESSED else f"{run.name}, {point}"
            yield {"name": name, "pictures": _pictures(run, point, bits, objects, options)}


def _pictures(
    run: Run, point: str, bits: dict[int, int], objects: dict[int, list], options: ViewerOptions
) -> dict[int, dict[str, Any]]:
    """Image id -> what the page shows of it at one point of a run."""
    test, folder, pictures = run.result.test, run.folder / point, {}
    records = _records_of_frames if run.result.dataset.sequences else read_records
    for record in records(folder, objects):
        predictions = record.predictions or []
        lowest = 0.0 if test.protocol == "tracking" else test.score_threshold
        kept = [item for item in predictions if item["score"] >= lowest]
        chosen, missed = match(objects[record.image_id], kept, test.iou_threshold)
        pictures[record.image_id] = {
            "bits": bits.get(record.image_id),
            "found": [_drawn(item, place) for item, place in zip(kept, chosen, strict=True)],
            "missed": sorted(missed),
            **_looks(folder, record, options),
        }
    return pictures


def _looks(folder: Path, record: Record, options: ViewerOptions) -> dict[str, Any]:
    """Of a decoded picture: its thumbnail, the bits before the human layer, and its measures."""
    path = decoded_path(folder, record.image_id)
    if not path.is_file():
        return {}
    measured = record.picture or {}
    measures = {METRICS[key].label: measured.get(key) for key in UNDER_PICTURES}
    kept = {name: value for name, value in measures.items() if isinstance(value, float)}
    machine = {} if record.machine_bits is None else {"machine_bits": record.machine_bits}
    return machine | {"decoded": _thumbnail(path, options), "measures": kept}


def _records_of_frames(folder: Path, wanted: dict[int, Any]) -> Iterator[Record]:
    """A record of each wanted frame; those of sequences hold the predictions of all frames."""
    by_frame: dict[int, list[dict]] = {image_id: [] for image_id in wanted}
    for item in read_predictions(folder, list(Journal(folder).records)):
        if item["image_id"] in by_frame:
            by_frame[item["image_id"]].append(item)
    for image_id, predictions in by_frame.items():
        yield Record(image_id, predictions=predictions)


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
