# SPDX-License-Identifier: BSD-3-Clause
"""How accurate are predictions? COCO box and mask accuracy, in percent.

COCOeval matches detections with ground truth, picture by picture (`match_pictures`). The matches
are all that accuracy needs, so they are kept: `accuracy` accumulates them as COCOeval does, and
`average_precisions` does it for many resamples of the pictures at once. `size_precisions` and
`category_accuracy` take it apart: by the size of objects, and by their category.
"""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vcm_plugin.errors import InputError
from vcm_plugin.files import write_arrays

TASKS = {"box": "bbox", "mask": "segm"}  # task -> COCOeval's name of it
AP_METRICS = ("ap", "ap50", "ap75")
MAX_DETECTIONS = 100  # per picture and category, as COCO
_ALL = (0.0, 1e10)  # square pixels: COCO's area range "all", and its sizes
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
_AP_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU, as COCOeval computes them
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Matches:
    """Detections of one task against ground truth, matched picture by picture.

    D detections, ordered by category, then by falling score (ties in picture order, as COCOeval);
    T IoU thresholds; K categories; I pictures by rising id. A detection matched with a crowd is
    neither hit nor miss.
    """

    task: str
    thresholds: np.ndarray  # (T,) IoU; the first ten are COCO's, the last is the operating point's
    image_ids: np.ndarray  # (I,) int64
    pixels: np.ndarray  # (I,) int64
    objects: np.ndarray  # (K, I) int64: objects to find, crowds not counted
    category: np.ndarray  # (D,) int64: row of `objects`
    picture: np.ndarray  # (D,) int64: column of `objects`
    score: np.ndarray  # (D,) float64
    hit: np.ndarray  # (T, D) bool
    miss: np.ndarray  # (T, D) bool
    pair_iou: np.ndarray  # (D,) float64: IoU with the object hit at the last threshold, else 0


def to_coco(detections, image_id: int, category_ids: Sequence[int]) -> list[dict]:
    """Detections of one picture as COCO results: x, y, width, height; masks as RLE strings."""
    x0, y0, x1, y1 = np.asarray(detections.boxes, dtype=np.float64).reshape(-1, 4).T
    boxes = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1).tolist()
    results = [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for label, box, score in zip(
            np.asarray(detections.classes).tolist(),
            boxes,
            np.asarray(detections.scores, dtype=np.float64).tolist(),
            strict=True,
        )
    ]
    if detections.masks is not None and results:
        planes = np.asfortranarray(np.moveaxis(detections.masks, 0, -1).astype(np.uint8))
        for result, code in zip(results, rle.encode(planes), strict=True):  # planes (H, W, n)
            height, width = (int(side) for side in code["size"])
            counts = code["counts"].decode("ascii")
            result["segmentation"] = {"size": [height, width], "counts": counts}
    return results


def evaluate(
    coco: Mapping,
    predictions: Sequence[dict],
    tasks: Sequence[str] = ("box", "mask"),
    score: float = 0.5,
    iou: float = 0.5,
) -> dict[str, float]:
    """All accuracies of COCO results against COCO ground truth, in percent (see `accuracy`)."""
    measured: dict[str, float] = {}
    for task in tasks:
        measured.update(accuracy(match_pictures(coco, predictions, task, iou), score))
    return measured


def match_pictures(
    coco: Mapping, predictions: Sequence[dict], task: str, iou: float = 0.5
) -> Matches:
    """Match predictions with ground truth as COCOeval does; `iou`: of the operating point."""
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}: use one of {', '.join(TASKS)}")
    if not 0 < iou <= 1:
        raise InputError(f"the IoU of the operating point must lie in 0 .. 1, found {iou}")
    _check_predictions(coco, predictions, task)
    evaluation = _run_cocoeval(coco, predictions, task, iou, [_ALL])
    return _matches_of_area(coco, task, evaluation, 0)


def size_precisions(coco: Mapping, predictions: Sequence[dict], task: str) -> dict[str, float]:
    """{"box_ap_small": percent, ...}: AP of the objects of each of COCO's SIZES that occur.

    An object is as large as its annotation says (`area`), else as its box or mask is; detections
    that match none count where they are of that size, as COCOeval has it.
    """
    evaluation = _run_cocoeval(coco, predictions, task, 0.5, list(SIZES.values()))
    found = {}
    for number, name in enumerate(SIZES):
        matches = _matches_of_area(coco, task, evaluation, number)
        if matches.objects.any():
            found[f"{task}_ap_{name}"] = float(average_precisions(matches, _once(matches))["ap"][0])
    return found


def category_accuracy(matches: Matches) -> list[dict[str, float]]:
    """AP, AP50 and AR of each category by rising id, in percent: [{"box_ap": ...}, ...].

    Of a category without an object: {}.
    """
    aps, recalls = 100 * _precisions(matches, _once(matches))[..., 0], _recalls_of(matches)
    found = []
    for ap, recall, objects in zip(aps, recalls, matches.objects, strict=True):
        values = {"ap": ap.mean(), "ap50": ap[0], "ar": recall} if objects.any() else {}
        found.append({f"{matches.task}_{name}": float(value) for name, value in values.items()})
    return found


def accuracy(matches: Matches, score: float = 0.5) -> dict[str, float]:
    """AP, AP50, AP75 and AR at 100 detections (COCO), and the operating point at `score` and the
    IoU of the matches.

    Box: precision, recall and F1 over all categories together. Mask: mean IoU and Dice of the
    matched pairs. In percent; 0 where nothing was detected or matched.
    """
    found = {key: float(ap[0]) for key, ap in average_precisions(matches, _once(matches)).items()}
    found["ar"] = float(np.nanmean(_recalls_of(matches)))
    kept = matches.score >= score
    hit = kept & matches.hit[-1]
    hits, misses = int(hit.sum()), int((kept & matches.miss[-1]).sum())
    if matches.task == "mask":
        pairs = matches.pair_iou[hit]
        found["iou"] = 100 * float(pairs.mean()) if hits else 0.0
        found["dice"] = 100 * float((2 * pairs / (1 + pairs)).mean()) if hits else 0.0
    else:
        objects = int(matches.objects.sum())
        found["precision"] = 100 * hits / (hits + misses) if hits else 0.0
        found["recall"] = 100 * hits / objects
        found["f1"] = 100 * 2 * hits / (hits + misses + objects)
    return {f"{matches.task}_{name}": value for name, value in found.items()}


def average_precisions(matches: Matches, counts: np.ndarray) -> dict[str, np.ndarray]:
    """AP, AP50 and AP75 in percent of resamples of the pictures: {"ap": (B,), ...}.

    `counts` (B, I) says how often each resample holds each picture, columns as `image_ids`. Equals
    COCOeval's accumulation over the repeated pictures, but that of detections with equal scores
    in one picture each is repeated by itself. NaN for a resample without any object.
    """
    aps = _precisions(matches, counts)
    present = ~np.isnan(aps[:, 0])  # (K, B)
    total = np.where(present[:, None], aps, 0).sum(axis=0)  # (T, B)
    with np.errstate(invalid="ignore"):
        mean = 100 * total / present.sum(axis=0)
    return {"ap": mean.mean(axis=0), "ap50": mean[0], "ap75": mean[5]}


def _once(matches: Matches) -> np.ndarray:
    """The test set as it is: a resample (1, I) that holds each picture once."""
    return np.ones((1, len(matches.image_ids)), dtype=np.int64)


def _precisions(matches: Matches, counts: np.ndarray) -> np.ndarray:
    """AP, 0 .. 1, of each category, threshold and resample: (K, T, B); NaN without an object."""
    thresholds = len(_AP_THRESHOLDS)
    aps = np.full((len(matches.objects), thresholds, len(counts)), np.nan)
    for k, objects in enumerate(matches.objects):
        wanted = counts @ objects  # (B,) objects to find in each resample
        if not wanted.any():
            continue
        chosen = matches.category == k
        reached = _recalls_reached(wanted)
        weight = counts[:, matches.picture[chosen]]  # (B, d)
        hit, miss = matches.hit[:, chosen], matches.miss[:, chosen]
        for t in range(thresholds):
            aps[k, t] = _interpolated_precision(weight, hit[t], miss[t], reached)
        aps[k][:, wanted == 0] = np.nan
    return aps


def _recalls_of(matches: Matches) -> np.ndarray:
    """Recall in percent, the mean over COCO's IoU thresholds, of each category: (K,); NaN where
    it has no object."""
    wanted = matches.objects.sum(axis=1)
    hits = matches.hit[: len(_AP_THRESHOLDS)].mean(axis=0)  # (D,) share of the thresholds
    found = np.bincount(matches.category, weights=hits, minlength=len(wanted))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(wanted > 0, 100 * found / wanted, np.nan)


def write_matches(path: Path, matches: Mapping[str, Matches]) -> None:
    """Keep the matches of each task in one compressed .npz file, which `read_matches` reads."""
    arrays = {
        f"{task}.{name}": value
        for task, found in matches.items()
        for name, value in vars(found).items()
        if name != "task"
    }
    write_arrays(path, arrays)


def read_matches(path: Path) -> dict[str, Matches]:
    """Read what `write_matches` wrote: {task: Matches}."""
    fields = [name for name in Matches.__dataclass_fields__ if name != "task"]
    try:
        with np.load(path, allow_pickle=False) as stored:
            tasks = sorted({name.split(".")[0] for name in stored.files})
            return {
                task: Matches(task, **{field: stored[f"{task}.{field}"] for field in fields})
                for task in tasks
            }
    except FileNotFoundError:
        raise InputError(f"{path}: no matches stored here; run the rate point again") from None
    except Exception as error:  # zipfile and numpy raise many kinds for a damaged file
        raise InputError(f"{path}: expected stored matches, {error}; run it again") from None


def _check_predictions(coco: Mapping, predictions: Sequence[dict], task: str) -> None:
    known = {image["id"] for image in coco["images"]}
    needed = {"box": "bbox", "mask": "segmentation"}[task]
    for number, prediction in enumerate(predictions):
        if prediction["image_id"] not in known:
            raise InputError(
                f"prediction {number} names picture {prediction['image_id']}, which is not in the "
                "ground truth: evaluate against the data set the predictions were made on"
            )
        if needed not in prediction:
            raise InputError(
                f"prediction {number} has no {needed}: task {task} needs a detector that gives it"
            )
        if not math.isfinite(prediction["score"]):
            raise InputError(f"prediction {number} has the score {prediction['score']}: not finite")
    if not any(not annotation.get("iscrowd", 0) for annotation in coco["annotations"]):
        raise InputError("the ground truth holds no object: accuracy needs at least one")
    if task == "mask" and not all("segmentation" in a for a in coco["annotations"]):
        raise InputError("the ground truth holds objects without a mask: use the task box only")


def _run_cocoeval(
    coco: Mapping,
    predictions: Sequence[dict],
    task: str,
    iou: float,
    areas: Sequence[tuple[float, float]],
) -> COCOeval:
    """COCOeval over all pictures; quiet, and without touching the caller's objects."""
    of_mask = task == "mask" and len(areas) > 1  # where areas do not matter, boxes are quicker
    with contextlib.redirect_stdout(io.StringIO()):
        indexes = []
        for items in (coco["annotations"], predictions):
            index = COCO()
            index.dataset = {**coco, "annotations": _numbered(items, of_mask)}
            index.createIndex()
            indexes.append(index)
        evaluation = COCOeval(*indexes, iouType=TASKS[task])
        evaluation.params.areaRng = [list(area) for area in areas]
        evaluation.params.areaRngLbl = list(map(str, areas))
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.iouThrs = np.append(_AP_THRESHOLDS, iou)
        evaluation.evaluate()
    return evaluation


def _numbered(items: Sequence[Mapping], of_mask: bool) -> list[dict]:
    """Copies with what COCOeval needs: ids from 1 (it takes 0 for "not matched") and an area."""
    return [
        {
            **item,
            "id": number,
            "iscrowd": int(item.get("iscrowd", 0)),
            "area": _area_of(item, of_mask),
        }
        for number, item in enumerate(items, start=1)
    ]


def _area_of(item: Mapping, of_mask: bool) -> float:
    """Square pixels: of an object as annotated; else, and of a detection, of its mask or box."""
    if "area" in item and "score" not in item:
        return item["area"]
    if of_mask and isinstance(item["segmentation"], Mapping):
        return float(rle.area(item["segmentation"]))
    return item["bbox"][2] * item["bbox"][3] if "bbox" in item else 0.0


def _matches_of_area(coco: Mapping, task: str, evaluation: COCOeval, area: int) -> Matches:
    """The matches of one area range of a COCOeval, by its number."""
    rows = [
        row
        for k, category_id in enumerate(evaluation.params.catIds)
        for row in _category_rows(evaluation, k, category_id, area)
    ]
    sizes = {image["id"]: image["height"] * image["width"] for image in coco["images"]}
    image_ids = [int(image_id) for image_id in evaluation.params.imgIds]
    return _matches(task, evaluation, rows, image_ids, [sizes[i] for i in image_ids])


def _category_rows(evaluation: COCOeval, k: int, category_id: int, area: int) -> list[tuple]:
    """Per picture of a category: k, i, scores, hit, miss, pair IoU, number of objects to find."""
    pictures = len(evaluation.params.imgIds)
    first = (k * len(evaluation.params.areaRng) + area) * pictures
    rows = []
    for i, found in enumerate(evaluation.evalImgs[first : first + pictures]):
        if found is None:  # neither objects nor detections
            continue
        matched, ignored = found["dtMatches"] > 0, found["dtIgnore"].astype(bool)
        hit, miss = matched & ~ignored, ~matched & ~ignored  # (T, d)
        key = found["image_id"], category_id
        column = {truth["id"]: g for g, truth in enumerate(evaluation._gts[key])}
        pair_iou = np.zeros(hit.shape[1])
        for d in np.flatnonzero(hit[-1]):
            pair_iou[d] = evaluation.ious[key][d, column[int(found["dtMatches"][-1, d])]]
        wanted = int(np.count_nonzero(np.asarray(found["gtIgnore"]) == 0))
        rows.append((k, i, np.asarray(found["dtScores"]), hit, miss, pair_iou, wanted))
    return rows


def _matches(
    task: str, evaluation: COCOeval, rows: list[tuple], image_ids: list[int], pixels: list[int]
) -> Matches:
    thresholds = np.asarray(evaluation.params.iouThrs)
    objects = np.zeros((len(evaluation.params.catIds), len(image_ids)), dtype=np.int64)
    for k, i, *_, wanted in rows:
        objects[k, i] = wanted
    counts = [len(row[2]) for row in rows]
    category = np.repeat(np.array([row[0] for row in rows], dtype=np.int64), counts)
    score = np.concatenate([np.zeros(0), *(row[2] for row in rows)])
    order = np.lexsort((-score, category))  # stable: ties stay in picture order
    no_detections = np.zeros((len(thresholds), 0), dtype=bool)
    return Matches(
        task=task,
        thresholds=thresholds,
        image_ids=np.array(image_ids, dtype=np.int64),
        pixels=np.array(pixels, dtype=np.int64),
        objects=objects,
        category=category[order],
        picture=np.repeat(np.array([row[1] for row in rows], dtype=np.int64), counts)[order],
        score=score[order],
        hit=np.concatenate([no_detections, *(row[3] for row in rows)], axis=1)[:, order],
        miss=np.concatenate([no_detections, *(row[4] for row in rows)], axis=1)[:, order],
        pair_iou=np.concatenate([np.zeros(0), *(row[5] for row in rows)])[order],
    )


def _recalls_reached(wanted: np.ndarray) -> np.ndarray:
    """(B, most + 1): how many of COCO's 101 recalls are reached with 0, 1, 2 ... hits."""
    hits = np.arange(wanted.max() + 1)
    recall = hits[None] / np.maximum(wanted, 1)[:, None]
    return np.searchsorted(_RECALLS, recall, side="right")


def _interpolated_precision(
    weight: np.ndarray, hit: np.ndarray, miss: np.ndarray, reached: np.ndarray
) -> np.ndarray:
    """Mean over COCO's recalls of the best precision at that recall or above: (B,), 0 .. 1.

    Only hits raise the recall, so the curve is looked at there; `weight` (B, d) repeats
    detections as often as a resample repeats their picture.
    """
    at = np.flatnonzero(hit)
    if not len(at):
        return np.zeros(len(weight))
    hits = np.cumsum(weight[:, at], axis=1)  # (B, hits)
    misses = np.cumsum(weight * miss, axis=1)[:, at]
    precision = hits / (misses + hits + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recalls = np.take_along_axis(reached, hits, axis=1)
    gained = np.diff(recalls, axis=1, prepend=0)
    return (best * gained).sum(axis=1) / len(_RECALLS)
