# SPDX-License-Identifier: BSD-3-Clause
"""Are the survey's measures those of a second implementation, pixel by pixel, object by object?"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_tasks import SIZE, annotation, code, drawn_set, rectangle
from torchvision.ops import roi_align

from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.results import Record
from vcm_plugin.metrics.class_maps import decoded, pixel_measures
from vcm_plugin.metrics.classification import Objects, of_records, top1
from vcm_plugin.split import load_split_model
from vcm_plugin.testsets.coco import CocoDataset, PictureEntry
from vcm_plugin.testsets.minictc import FIRST_SEED, draw_picture


def by_brute_force(coco, predictions, score=0.5):
    """Every pixel on its own, in plain Python."""
    tallies = {c["id"]: [0, 0, 0] for c in coco["categories"]}  # true, found, both
    right = total = right_objects = objects = 0
    for image in coco["images"]:
        here = [[a for a in items if a["image_id"] == image["id"]]
                for items in (coco["annotations"], predictions)]  # fmt: skip
        truth = [(a, decoded(a["segmentation"], *SIZE)) for a in here[0]]
        found = [(p, decoded(p["segmentation"], *SIZE)) for p in here[1] if p["score"] >= score]
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                true = [a["category_id"] for a, m in truth if m[y, x] and not a["iscrowd"]]
                if not true and any(m[y, x] for a, m in truth if a["iscrowd"]):
                    continue
                over = [(p["score"], -k, p["category_id"]) for k, (p, m) in enumerate(found)
                        if m[y, x]]  # fmt: skip
                shown = max(over)[2] if over else 0
                total, right = total + 1, right + (shown == (true[0] if true else 0))
                if true:
                    objects, right_objects = objects + 1, right_objects + (shown == true[0])
                for k, tally in tallies.items():
                    a, b = k in true, k in [c for *_, c in over]
                    tally[0], tally[1], tally[2] = tally[0] + a, tally[1] + b, tally[2] + (a and b)
    held = [t for t in tallies.values() if t[0]]
    return {
        "union_iou": 100 * sum(c / (a + b - c) for a, b, c in held) / len(held),
        "union_dice": 100 * sum(2 * c / (a + b) for a, b, c in held) / len(held),
        "pixel_accuracy": 100 * right / total,
        "object_pixel_accuracy": 100 * right_objects / objects,
    }


@pytest.mark.parametrize("seed", [4, 5])
def test_pixel_measures_are_those_of_brute_force(seed):
    coco, predictions = drawn_set(pictures=5, seed=seed)
    found, wanted = pixel_measures(coco, predictions), by_brute_force(coco, predictions)
    assert found == pytest.approx(wanted)
    assert all(0.0 < value < 100.0 for value in found.values())


def one_picture(*items):
    coco, _ = drawn_set(pictures=1)
    return {**coco, "annotations": [{**item, "iscrowd": 0} for item in items]}


def test_perfect_predictions_and_none():
    truth = annotation(10, 1, np.array([2.0, 3.0, 20.0, 18.0]))
    coco = one_picture(truth)
    assert set(pixel_measures(coco, [{**truth, "score": 0.9}]).values()) == {100.0}
    missed = pixel_measures(coco, [{**truth, "score": 0.4}])
    assert missed["union_iou"] == missed["object_pixel_accuracy"] == 0.0
    assert missed["pixel_accuracy"] == pytest.approx(100 * (1 - 18 * 15 / (40 * 56)))


def test_where_masks_overlap_the_higher_score_shows():
    box = np.array([0.0, 0.0, 10.0, 10.0])
    coco = one_picture(annotation(10, 1, box))
    both = [annotation(10, 1, box, score=0.8), annotation(10, 2, box, score=0.9)]
    assert pixel_measures(coco, both)["object_pixel_accuracy"] == 0.0
    assert pixel_measures(coco, both)["union_iou"] == 100.0  # class 1 alone is in the truth
    both[0]["score"] = 0.95
    assert pixel_measures(coco, both)["object_pixel_accuracy"] == 100.0


def test_masks_in_every_form_of_coco():
    mask = rectangle(4, 5, 20, 25)
    polygon = [[4, 5, 20, 5, 20, 25, 4, 25]]
    plain = {"size": list(SIZE), "counts": []}
    flat, run, last = mask.flatten(order="F"), 0, False
    for value in flat:
        if value != last:
            plain["counts"].append(run)
            run, last = 0, value
        run += 1
    plain["counts"].append(run)
    for form in (polygon, code(mask), plain):
        assert (decoded(form, *SIZE) == mask).all()


# --- classification -------------------------------------------------------------------------


def dataset_of(coco):
    pictures = tuple(
        PictureEntry(i["id"], Path(f"{i['id']}.png"), i["height"], i["width"])
        for i in coco["images"]
    )
    ids = tuple(c["id"] for c in coco["categories"])
    return CocoDataset(pictures, tuple(coco["categories"]), coco, ids, has_masks=True)


def test_top1_counts_objects_and_leaves_crowds_out():
    coco, _ = drawn_set(pictures=6)
    dataset, objects = dataset_of(coco), Objects(dataset_of(coco))
    plain = [a for a in coco["annotations"] if not a["iscrowd"]]
    told = {i["id"]: objects.classes(i["id"]) for i in coco["images"]}
    assert sum(map(len, told.values())) == len(plain)
    assert top1(dataset, told) == 100.0
    first = next(k for k, classes in told.items() if classes)
    told[first] = [-1, *told[first][1:]]
    assert top1(dataset, told) == pytest.approx(100 * (len(plain) - 1) / len(plain))
    assert top1(dataset, {k: v for k, v in told.items() if k != first}) is None
    records = [Record(k, classes=tuple(v)) for k, v in told.items()]
    assert of_records(dataset, records) == {"box_classification": top1(dataset, told)}
    assert of_records(dataset, [replace(r, classes=None) for r in records]) == {}


def test_the_box_head_sees_the_boxes_that_are_given():
    """Against the head by hand: torchvision's roi_align of the level that Detectron2 takes."""
    condition = load_condition("minictc")
    detector = load_split_model(
        condition.model_path(), condition.weights_path(), runtime="torchvision"
    )
    picture, objects = draw_picture(FIRST_SEED["val"])
    features = detector.nn_part1(picture)
    masks = [mask for _, mask in objects]
    edges = [(np.flatnonzero(m.any(0)), np.flatnonzero(m.any(1))) for m in masks]
    boxes = np.array([[x[0], y[0], x[-1] + 1, y[-1] + 1] for x, y in edges], np.float32)
    told = detector.classify(features, boxes)
    heads, wanted = detector.model.roi_heads, []
    for box in torch.from_numpy(boxes):
        side = float(((box[2] - box[0]) * (box[3] - box[1])).sqrt())
        level = int(min(max(np.floor(4 + np.log2(side / 224 + 1e-8)), 2), 5))
        roi = torch.cat((torch.zeros(1), box))[None]
        pool = heads.box_roi_pool
        pooled = roi_align(features.layers[f"p{level}"][None], roi, pool.output_size, 2.0**-level,
                           pool.sampling_ratio, True)  # fmt: skip
        logits, _ = heads.box_predictor(heads.box_head(pooled))
        wanted.append(int(logits[0, 1:].argmax()))
    assert told == wanted
    assert np.mean([a == c for a, (c, _) in zip(told, objects)]) > 0.7
    assert detector.classify(features, boxes[:0]) == []
