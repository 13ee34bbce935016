# SPDX-License-Identifier: BSD-3-Clause
"""Is the accuracy that of COCOeval, and that of a second implementation?"""

import contextlib
import copy
import io
import time
from dataclasses import dataclass

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vcm_plugin.errors import InputError
from vcm_plugin.metrics import coco_ap
from vcm_plugin.metrics.bd_rate import bootstrap_counts

SIZE = (40, 56)  # (height, width)


@dataclass(frozen=True)
class Found:
    """Detections of one picture, the fields that a split model returns."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None


def rectangle(x0, y0, x1, y1):
    mask = np.zeros(SIZE, dtype=bool)
    mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    return mask


def code(mask):
    found = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(SIZE), "counts": found["counts"].decode("ascii")}


def random_box(rng):
    x0, y0 = rng.uniform(0, 40), rng.uniform(0, 26)
    return np.array([x0, y0, x0 + rng.uniform(3, 15), y0 + rng.uniform(3, 13)])


def drawn_set(pictures=12, categories=3, seed=4, crowds=True, ties=True):
    """Rectangles as ground truth, and the moved, missed and invented ones of a poor detector."""
    rng = np.random.default_rng(seed)
    truth, predictions = [], []
    for image_id in rng.permutation(np.arange(10, 10 + pictures)).tolist():
        for _ in range(rng.integers(0, 6)):
            box, category_id = random_box(rng), int(rng.integers(1, categories + 1))
            crowd = int(crowds and rng.random() < 0.15)
            truth.append(annotation(image_id, category_id, box, id=len(truth) + 1, iscrowd=crowd))
            for _ in range(rng.integers(0, 3)):
                moved = np.clip(box + rng.normal(0, 0.8, 4), 0, [56, 40, 56, 40])
                score = round(float(rng.random()), 1 if ties else 16)
                predictions.append(annotation(image_id, category_id, moved, score=score))
        if rng.random() < 0.7:
            invented = annotation(image_id, 1, random_box(rng), score=float(rng.random()))
            predictions.append(invented)
    images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(10, 10 + pictures)]
    names = [{"id": k, "name": f"shape {k}"} for k in range(1, categories + 2)]  # one never drawn
    return {"images": images, "annotations": truth, "categories": names}, predictions


def annotation(image_id, category_id, box, **more):
    x0, y0, x1, y1 = box.tolist()
    bbox = [x0, y0, x1 - x0, y1 - y0]
    mask = code(rectangle(*box))
    item = {"image_id": image_id, "category_id": category_id, "bbox": bbox, "segmentation": mask}
    return {**item, "area": bbox[2] * bbox[3], **more}


def stock_cocoeval(coco, predictions, task):
    """COCOeval exactly as its manual uses it; returns it accumulated, with its statistics."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(coco)
        truth.createIndex()
        results = truth.loadRes(copy.deepcopy(predictions))
        evaluation = COCOeval(truth, results, coco_ap.TASKS[task])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("task", coco_ap.TASKS)
@pytest.mark.parametrize("seed", range(6))
def test_average_precision_equals_cocoeval(task, seed):
    coco, predictions = drawn_set(seed=seed)
    measured = coco_ap.evaluate(coco, predictions, [task])
    expected = 100 * stock_cocoeval(coco, predictions, task).stats[:3]
    found = [measured[f"{task}_{name}"] for name in coco_ap.AP_METRICS]
    np.testing.assert_allclose(found, expected, atol=1e-9, rtol=0)
    assert 5 < found[0] < 95  # neither trivially perfect nor empty


@pytest.mark.parametrize("task", coco_ap.TASKS)
@pytest.mark.parametrize("seed", range(4))
def test_sizes_and_recall_equal_cocoeval(task, seed):
    """Annotated areas, up to a hundred times those of the boxes, decide about the size."""
    coco, predictions = drawn_set(seed=seed, pictures=30)
    rng = np.random.default_rng(seed)
    for item in coco["annotations"]:
        item["area"] *= rng.choice([1, 30, 200])
    stock = predictions
    if task == "mask":  # else COCO takes the area of the box for that of the detection
        stock = [{k: v for k, v in p.items() if k != "bbox"} for p in predictions]
    expected = 100 * stock_cocoeval(coco, stock, task).stats
    sizes = coco_ap.size_precisions(coco, predictions, task)
    found = [sizes[f"{task}_ap_{size}"] for size in coco_ap.SIZES]
    np.testing.assert_allclose(found, expected[3:6], atol=1e-9, rtol=0)
    measured = coco_ap.evaluate(coco, predictions, [task])
    assert measured[f"{task}_ar"] == pytest.approx(expected[8], abs=1e-9)


@pytest.mark.parametrize("task", coco_ap.TASKS)
def test_a_category_has_the_accuracy_of_a_set_of_it_alone(task):
    coco, predictions = drawn_set(seed=3)
    found = coco_ap.category_accuracy(coco_ap.match_pictures(coco, predictions, task))
    assert found[3] == {}  # never drawn
    for category, values in zip(coco["categories"][:3], found, strict=False):
        of = [
            [item for item in items if item["category_id"] == category["id"]]
            for items in (coco["annotations"], predictions)
        ]
        alone = coco_ap.evaluate(coco | {"annotations": of[0]}, of[1], [task])
        assert set(values) == {f"{task}_{name}" for name in ("ap", "ap50", "ar")}
        for key, value in values.items():
            assert value == pytest.approx(alone[key], abs=1e-9)


def test_a_size_without_objects_has_no_accuracy():
    coco, predictions = drawn_set(seed=3)
    assert list(coco_ap.size_precisions(coco, predictions, "box")) == ["box_ap_small"]


def iou_of_boxes(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def iou_of_masks(a, b):
    a, b = (rle.decode(item).astype(bool) for item in (a, b))
    return (a & b).sum() / (a | b).sum()


def direct_average_precision(coco, predictions, iou, threshold, key):
    """AP by definition: greedy matching, then the precision envelope read at 101 recalls."""
    results = []
    for category in coco["categories"]:
        truth = [a for a in coco["annotations"] if a["category_id"] == category["id"]]
        if not truth:
            continue
        taken, outcome = set(), []
        mine = [p for p in predictions if p["category_id"] == category["id"]]
        for p in sorted(mine, key=lambda p: (-p["score"], p["image_id"])):
            free = [t for t in truth if t["image_id"] == p["image_id"] and t["id"] not in taken]
            best = max(free, key=lambda t: iou(p[key], t[key]), default=None)
            good = best is not None and iou(p[key], best[key]) >= threshold
            if good:
                taken.add(best["id"])
            outcome.append(good)
        hits = np.cumsum(outcome)
        recall, precision = hits / len(truth), hits / np.arange(1, len(outcome) + 1)
        at = [precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]
        results.append(np.mean(at))
    return 100 * float(np.mean(results))


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_a_direct_implementation(seed):
    coco, predictions = drawn_set(seed=seed, crowds=False)
    measured = coco_ap.evaluate(coco, predictions)
    for task, iou, key in (("box", iou_of_boxes, "bbox"), ("mask", iou_of_masks, "segmentation")):
        by_threshold = [
            direct_average_precision(coco, predictions, iou, t, key)
            for t in np.linspace(0.5, 0.95, 10)
        ]
        assert measured[f"{task}_ap"] == pytest.approx(np.mean(by_threshold), abs=1e-9)
        assert measured[f"{task}_ap50"] == pytest.approx(by_threshold[0], abs=1e-9)
        assert measured[f"{task}_ap75"] == pytest.approx(by_threshold[5], abs=1e-9)


@pytest.mark.parametrize("task", coco_ap.TASKS)
def test_resamples_equal_cocoeval_on_pictures_that_are_really_repeated(task):
    coco, predictions = drawn_set(seed=2, ties=False)
    matches = coco_ap.match_pictures(coco, predictions, task)
    counts = bootstrap_counts(len(matches.image_ids), 8, seed=1)
    resampled = coco_ap.average_precisions(matches, counts)
    for b, row in enumerate(counts):
        really = repeat(coco, predictions, matches.image_ids.tolist(), row)
        expected = 100 * stock_cocoeval(*really, task).stats[:3]
        found = [resampled[name][b] for name in coco_ap.AP_METRICS]
        np.testing.assert_allclose(found, expected, atol=1e-9, rtol=0)


def repeat(coco, predictions, image_ids, counts):
    """A data set that holds each picture as often as `counts` says, neighbours in id order."""
    images, truth, results = [], [], []
    for image_id, count in zip(image_ids, counts, strict=True):
        for copy_number in range(count):
            new_id = image_id * 100 + copy_number
            images.append({"id": new_id, "height": SIZE[0], "width": SIZE[1]})
            for items, into in ((coco["annotations"], truth), (predictions, results)):
                mine = [item for item in items if item["image_id"] == image_id]
                into.extend({**item, "image_id": new_id} for item in mine)
    truth = [{**item, "id": number} for number, item in enumerate(truth, start=1)]
    return {**coco, "images": images, "annotations": truth}, results


def test_operating_point_counts_by_hand():
    box = np.array([10.0, 10.0, 30.0, 30.0])
    coco, _ = drawn_set()
    coco["annotations"] = [
        annotation(10, 1, box, id=0, iscrowd=0),  # the id 0 is an object like any other
        annotation(11, 1, box, id=1, iscrowd=0),
        annotation(12, 2, box, id=2, iscrowd=1),
    ]
    predictions = [
        annotation(10, 1, box, score=0.9),  # hit
        annotation(10, 1, box, score=0.8),  # second on the same object: miss
        annotation(11, 1, box + [0, 0, -8, 0], score=0.7),  # hit, IoU 0.6
        annotation(12, 2, box, score=0.9),  # on a crowd: neither
        annotation(12, 3, box, score=0.4),  # a miss, but under the score
    ]
    measured = coco_ap.evaluate(coco, predictions, score=0.5, iou=0.5)
    assert measured["box_precision"] == pytest.approx(100 * 2 / 3)
    assert measured["box_recall"] == pytest.approx(100)
    assert measured["box_f1"] == pytest.approx(80)
    assert measured["mask_iou"] == pytest.approx(80)  # of 1.0 and 0.6
    assert measured["mask_dice"] == pytest.approx(100 * (1 + 1.2 / 1.6) / 2)
    assert coco_ap.evaluate(coco, predictions, score=0.75)["box_recall"] == pytest.approx(50)
    assert coco_ap.evaluate(coco, predictions, iou=0.65)["box_recall"] == pytest.approx(50)
    strict = coco_ap.evaluate(coco, predictions, iou=0.65)
    assert strict["box_ap"] == measured["box_ap"]  # the operating point leaves AP alone


def empty_cases():
    coco, predictions = drawn_set()
    nowhere = [{**p, "bbox": [0, 0, 0.5, 0.5], "segmentation": code(rectangle(0, 0, 1, 1))}
               for p in predictions]  # fmt: skip
    pixel = {
        "images": [{"id": 1, "height": 1, "width": 1}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 1, "name": "dot"}],
    }
    dot = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.9}
    return {
        "no predictions": (coco, [], ("box", "mask"), 0.0),
        "nothing matches": (coco, nowhere, ("box", "mask"), 0.0),
        "only unknown categories": (coco, [{**predictions[0], "category_id": 99}], ("box",), 0.0),
        "one pixel": (pixel, [dot], ("box",), 100.0),
        "no area in the annotations": (pixel, [], ("box",), 0.0),
        "perfect": (coco, [{**a, "score": 1.0} for a in coco["annotations"]], ("box", "mask"), 100),
    }


@pytest.mark.parametrize("name", empty_cases())
def test_degenerate_inputs_give_plain_numbers(name, capsys):
    coco, predictions, chosen, expected = empty_cases()[name]
    measured = coco_ap.evaluate(coco, predictions, chosen)
    assert {f"{task}_ap" for task in chosen} <= set(measured)
    for metric, value in measured.items():
        assert type(value) is float
        assert value == pytest.approx(expected), metric
    assert capsys.readouterr().out == ""  # the library never prints


def bad_cases():
    coco, predictions = drawn_set()
    one = predictions[0]
    bare = {key: value for key, value in one.items() if key != "segmentation"}
    no_masks = [{k: v for k, v in a.items() if k != "segmentation"} for a in coco["annotations"]]
    crowds = [{**a, "iscrowd": 1} for a in coco["annotations"]]
    return [
        (coco, [{**one, "image_id": 999}], ("box",), "names picture 999"),
        (coco, [bare], ("mask",), "has no segmentation"),
        (coco, [{**one, "score": float("nan")}], ("box",), "score nan: not finite"),
        (coco, predictions, ("pose",), "unknown task 'pose': use one of box, mask"),
        ({**coco, "annotations": []}, predictions, ("box",), "holds no object"),
        ({**coco, "annotations": crowds}, predictions, ("box",), "holds no object"),
        ({**coco, "annotations": no_masks}, predictions, ("mask",), "without a mask"),
    ]


@pytest.mark.parametrize("case", range(len(bad_cases())))
def test_bad_input_is_named(case):
    coco, predictions, chosen, line = bad_cases()[case]
    with pytest.raises(InputError, match=line) as caught:
        coco_ap.evaluate(coco, predictions, chosen)
    assert "\n" not in str(caught.value)


def test_the_iou_of_the_operating_point_is_checked():
    with pytest.raises(InputError, match="0 .. 1"):
        coco_ap.evaluate(*drawn_set(), iou=1.5)


def test_evaluate_leaves_its_arguments_alone():
    coco, predictions = drawn_set()
    before = copy.deepcopy((coco, predictions))
    coco_ap.evaluate(coco, predictions)
    assert (coco, predictions) == before


def test_to_coco_writes_corners_as_sizes_and_masks_as_strings():
    boxes = np.array([[1.5, 2, 11.5, 22], [5, 6, 7, 9]], dtype=np.float32)
    masks = np.stack([rectangle(2, 2, 11, 22), rectangle(5, 6, 7, 9)])
    found = Found(boxes, np.array([0.75, 0.25], np.float32), np.array([1, 0]), masks)
    first, second = coco_ap.to_coco(found, 7, category_ids=(30, 40))
    assert first["bbox"] == [1.5, 2.0, 10.0, 20.0] and first["score"] == 0.75
    assert (first["image_id"], first["category_id"], second["category_id"]) == (7, 40, 30)
    assert first["segmentation"]["size"] == [40, 56]
    for result, mask in zip((first, second), masks, strict=True):
        np.testing.assert_array_equal(rle.decode(result["segmentation"]), mask)


@pytest.mark.parametrize("masks", [None, np.zeros((0, *SIZE), bool)])
def test_to_coco_of_no_detections_and_of_boxes_only(masks):
    none = Found(np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, np.int64), masks)
    assert coco_ap.to_coco(none, 1, (1,)) == []
    box = Found(np.array([[0, 0, 2, 2]]), np.array([0.5]), np.array([0]), None)
    assert "segmentation" not in coco_ap.to_coco(box, 1, (1,))[0]


def test_matches_survive_the_disk_byte_for_byte(tmp_path):
    coco, predictions = drawn_set()
    matches = {task: coco_ap.match_pictures(coco, predictions, task) for task in coco_ap.TASKS}
    coco_ap.write_matches(tmp_path / "matches.npz", matches)
    coco_ap.write_matches(tmp_path / "again.npz", matches)
    assert (tmp_path / "matches.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()
    read = coco_ap.read_matches(tmp_path / "matches.npz")
    for task in coco_ap.TASKS:
        assert coco_ap.accuracy(read[task]) == coco_ap.accuracy(matches[task])
        for name, value in vars(matches[task]).items():
            np.testing.assert_array_equal(vars(read[task])[name], value)


def test_damaged_and_missing_matches_are_named(tmp_path):
    with pytest.raises(InputError, match="no matches stored"):
        coco_ap.read_matches(tmp_path / "matches.npz")
    (tmp_path / "matches.npz").write_bytes(b"PK torn")
    with pytest.raises(InputError, match="expected stored matches"):
        coco_ap.read_matches(tmp_path / "matches.npz")


def test_a_bootstrap_of_the_mini_ctc_size_is_fast():
    coco, predictions = drawn_set(pictures=64, categories=6)
    predictions = predictions * 6  # about as many detections as a detector gives
    matches = coco_ap.match_pictures(coco, predictions, "box")
    counts = bootstrap_counts(64, 200, seed=1)
    start = time.perf_counter()
    coco_ap.average_precisions(matches, counts)
    assert time.perf_counter() - start < 2  # about 0.1 s on an idle core
