# SPDX-License-Identifier: BSD-3-Clause
"""Mirrored and turned training pictures: objects stay where their pixels go."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from vcm_plugin.testsets.coco import load_coco
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training.crops import annotation_mask
from vcm_plugin.training.turned import VARIANTS, turned


def test_every_variant_shows_its_objects_where_it_says(tmp_path):
    picture = np.full((40, 60, 3), 60, np.uint8)
    picture[5:15, 30:50] = 200
    mask = np.zeros((40, 60), np.uint8)
    mask[5:15, 30:50] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    rle["counts"] = rle["counts"].decode()
    polygon = [[30, 5, 50, 5, 50, 15, 30, 15]]
    Image.fromarray(picture).save(tmp_path / "one.png")
    shared = {"image_id": 7, "category_id": 1, "bbox": [30, 5, 20, 10], "area": 200, "iscrowd": 0}
    annotations = [
        {"id": n, **shared} | extra
        for n, extra in enumerate(({}, {"segmentation": polygon}, {"segmentation": rle}), start=1)
    ]
    (tmp_path / "truth.json").write_text(json.dumps({
        "images": [{"id": 7, "file_name": "one.png", "height": 40, "width": 60}],
        "annotations": annotations, "categories": [{"id": 1, "name": "box"}],
    }))  # fmt: skip
    found = turned(load_coco(tmp_path, tmp_path / "truth.json"), tmp_path / "turned")
    assert len(found.pictures) == VARIANTS == len({p.image_id for p in found.pictures})
    places = set()
    for entry in found.pictures:
        shown = read_picture(entry.path).mean(axis=2)
        assert shown.shape == (entry.height, entry.width)
        bright = shown > (shown.min() + shown.max()) / 2
        items = [a for a in found.coco["annotations"] if a["image_id"] == entry.image_id]
        assert len(items) == 3
        for item in items:
            assert (annotation_mask(item, entry.height, entry.width) == bright).all()
            x, y, w, h = (round(v) for v in item["bbox"])
            assert bright[y : y + h, x : x + w].all() and w * h == 200
        places.add((entry.height, tuple(items[0]["bbox"])))
    assert len(places) == VARIANTS
    before = {p.path: p.path.stat().st_mtime_ns for p in found.pictures}
    turned(load_coco(tmp_path, tmp_path / "truth.json"), tmp_path / "turned")
    assert {p: p.stat().st_mtime_ns for p in before} == before  # made once
