# SPDX-License-Identifier: BSD-3-Clause
"""The built-in test set: the same bytes on every machine, COCO layout, disjoint splits."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from vcm_plugin.errors import InputError
from vcm_plugin.testsets import minictc


def test_val_split_is_the_published_one(tmp_path):
    annotations = minictc.generate("val", tmp_path)  # raises where the digest differs
    assert "val" in minictc.DIGESTS
    layout = json.loads(annotations.read_text())
    assert len(layout["images"]) == 64
    assert [c["name"] for c in layout["categories"]] == list(minictc.CLASS_NAMES)


def test_first_test_picture_is_byte_exact():
    picture, objects = minictc.draw_picture(minictc.FIRST_SEED["test"])
    digest = hashlib.sha256(picture.tobytes())
    for category, mask in objects:
        digest.update(bytes([category]) + np.packbits(mask).tobytes())
    assert digest.hexdigest() == "df4de188c875b1f8e61743cfb5295ed01148b78eeb4d954bd368fa0d1c893ef2"


def test_annotations_are_coco_and_fit_the_pictures(tmp_path, capsys):
    annotations = minictc.generate("test", tmp_path, count=6)
    coco = COCO(str(annotations))
    for image in coco.dataset["images"]:
        picture = np.asarray(Image.open(tmp_path / "images" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3)
        assert min(picture.shape[:2]) >= 256 and max(picture.shape[:2]) >= 320
    union = {}
    for annotation in coco.dataset["annotations"]:
        mask = coco.annToMask(annotation)
        x, y, w, h = annotation["bbox"]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert [columns[0], rows[0]] == [x, y]
        assert [columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1] == [w, h]
        assert mask.sum() == annotation["area"] >= minictc.MIN_VISIBLE_PIXELS
        seen = union.setdefault(annotation["image_id"], np.zeros_like(mask))
        assert not (seen & mask).any(), "visible masks of two objects overlap"
        seen |= mask


def test_every_class_and_varied_sizes_occur():
    categories, areas = set(), []
    for seed in range(minictc.FIRST_SEED["test"], minictc.FIRST_SEED["test"] + 24):
        _, objects = minictc.draw_picture(seed)
        categories.update(category for category, _ in objects)
        areas += [int(mask.sum()) for _, mask in objects]
    assert categories == set(range(len(minictc.CLASS_NAMES)))
    assert min(areas) < 32 * 32 / 3 and max(areas) > 64 * 64


def test_splits_draw_from_disjoint_seeds():
    ranges = [
        range(first, first + minictc.PICTURES[split]) for split, first in minictc.FIRST_SEED.items()
    ]
    assert sum(len(r) for r in ranges) == len(set().union(*ranges))


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="train, val or test.*'tset'"):
        minictc.generate("tset", tmp_path)
