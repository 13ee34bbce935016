# SPDX-License-Identifier: BSD-3-Clause
"""Is accuracy that of the Open Images challenge? Worked examples, and the harness's evaluator."""

import base64
import copy
import json
import zlib

import drawn_sets
import numpy as np
import pytest
from pycocotools import mask as rle

from vcm_plugin.errors import InputError
from vcm_plugin.metrics.open_images_ap import evaluate
from vcm_plugin.testsets.coco import load_coco
from vcm_plugin.testsets.open_images import expand_hierarchy

SIZE = (100, 200)  # (height, width)


def box_mask(x, y, w, h):
    plane = np.zeros(SIZE, dtype=np.uint8, order="F")
    plane[y : y + h, x : x + w] = 1
    code = rle.encode(plane)
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def truth(objects, img_cls=(), labels=("cat", "dog", "animal")):
    """One picture; objects: (label, [x, y, w, h], group_of)."""
    height, width = SIZE
    numbers = {name: n for n, name in enumerate(labels, start=1)}
    item = {
        "bbox": [
            [y / height, x / width, (y + h) / height, (x + w) / width]
            for _, (x, y, w, h), _ in objects
        ],
        "cls": [numbers[name] for name, _, _ in objects],
        "group_of": [int(group) for *_, group in objects],
        "img_cls": [*img_cls],
        "mask": [
            base64.b64encode(zlib.compress(box_mask(*box)["counts"].encode())).decode()
            for _, box, _ in objects
        ],
        "img_size": [{"img_height": height, "img_width": width}] * len(objects),
    }
    return {
        "images": [{"id": 1, "height": height, "width": width, "file_name": "1.jpg"}],
        "categories": [{"id": 10 + n, "name": name.title()} for name, n in numbers.items()],
        "annotations": [],
        "oic_labelmap": [{"id": n, "name": name} for name, n in numbers.items()],
        "oic_annotations": [{"image_id": 1, "annotations": item}],
    }


def detection(category, box, score):
    return {
        "image_id": 1, "category_id": category, "bbox": list(box), "score": score,
        "segmentation": box_mask(*box),
    }  # fmt: skip


CAT, DOG = 11, 12
LEFT, RIGHT = (10, 10, 40, 40), (100, 10, 80, 80)


@pytest.mark.parametrize("task", ["box", "mask"])
@pytest.mark.parametrize(
    "name, objects, img_cls, found, expected",
    [
        ("found", [("cat", LEFT, 0)], [], [(CAT, LEFT, 0.9)], 100),
        ("nothing found", [("cat", LEFT, 0)], [], [], 0),
        ("second hit", [("cat", LEFT, 0)], [], [(CAT, LEFT, 0.9), (CAT, LEFT, 0.8)], 100),
        ("miss first", [("cat", LEFT, 0)], [], [(CAT, RIGHT, 0.9), (CAT, LEFT, 0.8)], 50),
        ("other class, not verified", [("cat", LEFT, 0)], [], [(CAT, LEFT, 0.5), (DOG, RIGHT, 1)],
         100),
        ("half of the classes", [("cat", LEFT, 0), ("dog", RIGHT, 0)], [], [(CAT, LEFT, 0.5)], 50),
        ("in a group", [("cat", RIGHT, 1)], [], [(CAT, (100, 10, 20, 20), 0.9)], 100),
        ("twice in a group", [("cat", RIGHT, 1)], [],
         [(CAT, (100, 10, 20, 20), 0.9), (CAT, (130, 10, 20, 20), 0.8)], 100),
        ("group not found", [("cat", RIGHT, 1), ("cat", LEFT, 0)], [], [(CAT, LEFT, 0.9)], 50),
        ("half outside", [("cat", RIGHT, 1)], [], [(CAT, (60, 10, 60, 20), 0.9)], 0),
    ],
)  # fmt: skip
def test_worked_examples(task, name, objects, img_cls, found, expected):
    result = evaluate(truth(objects, img_cls), [detection(*d) for d in found], task)
    assert result == {f"{task}_ap50": pytest.approx(expected)}


def test_a_class_verified_to_be_absent_is_judged():
    both = {**truth([("cat", LEFT, 0)]), "images": []}
    second = copy.deepcopy(both["oic_annotations"][0]) | {"image_id": 2}
    second["annotations"] |= {"bbox": [], "cls": [], "group_of": [], "mask": [], "img_size": []}
    size = {"height": SIZE[0], "width": SIZE[1]}
    both["images"] = [{"id": n, **size} for n in (1, 2)]
    both["oic_annotations"].append(second)
    found = [detection(CAT, LEFT, 0.8), detection(CAT, LEFT, 0.9) | {"image_id": 2}]
    assert evaluate(both, found, "box")["box_ap50"] == pytest.approx(100)
    second["annotations"]["img_cls"] = ["Cat"]
    assert evaluate(both, found, "box")["box_ap50"] == pytest.approx(50)


def test_an_object_with_a_box_only_counts_neither_way():
    coco = truth([("cat", LEFT, 0), ("cat", RIGHT, 0)])
    coco["oic_annotations"][0]["annotations"]["mask"][1] = "nan"
    found = [detection(CAT, RIGHT, 0.9), detection(CAT, LEFT, 0.8)]
    assert evaluate(coco, found, "mask")["mask_ap50"] == pytest.approx(100)
    assert evaluate(coco, found, "box")["box_ap50"] == pytest.approx(100)
    assert evaluate(coco, found[:1], "box")["box_ap50"] == pytest.approx(50)


def test_hierarchy_expansion(tmp_path):
    path = tmp_path / "hierarchy.json"
    tree = {
        "LabelName": "Entity",
        "Subcategory": [
            {"LabelName": "animal", "Subcategory": [{"LabelName": n} for n in ("cat", "dog")]}
        ],
    }
    path.write_text(json.dumps(tree))
    coco = truth([("cat", LEFT, 0), ("dog", RIGHT, 1)])
    item = expand_hierarchy(coco, path)["oic_annotations"][0]["annotations"]
    assert item["cls"] == [1, 3, 2, 3]
    assert item["group_of"] == [0, 0, 1, 1]
    assert item["bbox"][0] == item["bbox"][1] and item["bbox"][2] == item["bbox"][3]
    assert sorted(item["img_cls"]) == ["animal", "cat", "dog"]
    absent = truth([], ["animal"])
    item = expand_hierarchy(absent, path)["oic_annotations"][0]["annotations"]
    assert sorted(item["img_cls"]) == ["animal", "cat", "dog"] and item["cls"] == []
    path.write_text("[]")
    with pytest.raises(InputError, match="expected a label hierarchy"):
        expand_hierarchy(coco, path)


def test_annotations_of_another_data_set():
    coco = truth([("cat", LEFT, 0)])
    plain = {key: value for key, value in coco.items() if not key.startswith("oic")}
    with pytest.raises(InputError, match="annotations of another data set"):
        evaluate(plain, [], "box")
    with pytest.raises(InputError, match="1 of 1 pictures are not in it"):
        evaluate({**coco, "oic_annotations": []}, [], "box")
    broken = copy.deepcopy(coco)
    del broken["oic_annotations"][0]["annotations"]["group_of"]
    with pytest.raises(InputError, match="found an entry without: KeyError"):
        evaluate(broken, [], "box")
    with pytest.raises(InputError, match="no object"):
        evaluate(truth([]), [], "box")


# --- the harness's evaluator ----------------------------------------------------------------


def random_detections(coco, count, seed):
    """Detections near objects and anywhere, of all classes, no two with one score."""
    random = np.random.default_rng(seed)
    found = []
    scores = iter(random.permutation(100_000) / 100_000)
    for image in coco["images"]:
        objects = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        for _ in range(count):
            near = objects[random.integers(len(objects))]
            x, y, w, h = near["bbox"]
            moved = [x + random.normal(0, 0.1) * w, y + random.normal(0, 0.1) * h]
            moved += [w * random.uniform(0.6, 1.3), h * random.uniform(0.6, 1.3)]
            x0, y0 = (int(np.clip(v, 0, 180)) for v in moved[:2])
            w, h = max(2, int(moved[2])), max(2, int(moved[3]))
            w, h = min(w, image["width"] - x0), min(h, image["height"] - y0)
            category = near["category_id"]
            if random.random() < 0.3:
                category = coco["categories"][random.integers(len(coco["categories"]))]["id"]
            plane = np.zeros((image["height"], image["width"]), dtype=np.uint8, order="F")
            plane[y0 : y0 + h, x0 : x0 + w] = 1
            found.append(
                {
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [x0, y0, w, h],
                    "score": float(next(scores)),
                    "segmentation": rle.encode(plane),
                }
            )
    return found


def harness_ap(coco, found, task):
    """What the Open Images evaluator of CompressAI-Vision says of the same."""
    utils = pytest.importorskip(
        "compressai_vision.evaluators.tf_evaluation_utils", reason="needs CompressAI-Vision"
    )
    truths, results = utils.InputDataFields, utils.DetectionResultFields
    masks = task == "mask"
    evaluator = utils.OpenImagesChallengeEvaluator(coco["oic_labelmap"], evaluate_masks=masks)
    labels = {item["name"].lower(): item["id"] for item in coco["oic_labelmap"]}
    names = {c["id"]: c["name"].lower() for c in coco["categories"]}
    for item in coco["oic_annotations"]:
        old = item["annotations"]
        new = {
            truths.groundtruth_boxes: np.array(old["bbox"]),
            truths.groundtruth_classes: np.array(old["cls"]),
            truths.groundtruth_group_of: np.array(old["group_of"]),
            truths.groundtruth_image_classes: np.array([labels[n.lower()] for n in old["img_cls"]]),
        }
        if masks:
            planes, _ = utils.decode_gt_raw_data_into_masks_and_boxes(old["mask"], old["img_size"])
            new[truths.groundtruth_instance_masks] = planes
        evaluator.add_single_ground_truth_image_info(item["image_id"], new)
    for image in coco["images"]:
        chosen = [d for d in found if d["image_id"] == image["id"]]
        shares = [image["height"], image["width"]] * 2
        boxes = np.array([[d["bbox"][1], d["bbox"][0], d["bbox"][1] + d["bbox"][3],
                           d["bbox"][0] + d["bbox"][2]] for d in chosen]) / shares  # fmt: skip
        result = {
            results.detection_classes: np.array([labels[names[d["category_id"]]] for d in chosen]),
            results.detection_scores: np.array([d["score"] for d in chosen]),
            results.detection_boxes: boxes,
        }
        if masks:
            result[results.detection_masks] = np.stack(
                [rle.decode(d["segmentation"]) for d in chosen]
            )
        evaluator.add_single_detected_image_info(image["id"], result)
    return 100 * next(v for k, v in evaluator.evaluate().items() if "Precision/mAP" in k)


@pytest.mark.harness
@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize("task", ["box", "mask"])
@pytest.mark.parametrize("seed", range(3))
def test_the_harness_says_the_same(tmp_path, task, seed, expanded):
    folder = drawn_sets.draw_open_images(tmp_path, pictures=4)
    kind = {"box": "detection", "mask": "segmentation"}[task]
    coco = load_coco(folder / "images", folder / f"annotations/mpeg-oiv6-{kind}-coco.json").coco
    if expanded:
        coco = expand_hierarchy(coco, folder / "annotations/hierarchy.json")
    found = random_detections(coco, 25, seed)
    ours = evaluate(coco, found, task)[f"{task}_ap50"]
    assert 5 < ours < 95
    assert ours == pytest.approx(harness_ap(coco, found, task), abs=1e-6)
