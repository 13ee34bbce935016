# SPDX-License-Identifier: BSD-3-Clause
"""How do few training pictures become more? Each mirrored and turned, in other light.

For test sets where up, down, left and right mean nothing, as under a microscope.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from vcm_plugin.testsets.coco import CocoDataset, PictureEntry
from vcm_plugin.testsets.pictures import read_picture

VARIANTS = 8  # mirrored left-right, upside down, transposed: each or not; the first is the picture
CONTRAST, BRIGHTNESS, TINT = 0.2, 16.0, 0.06  # largest changes of light; of 255 the second


def turned(dataset: CocoDataset, folder: Path, seed: int = 1) -> CocoDataset:
    """Every picture in VARIANTS variants with its ground truth; those of other light lie in
    `folder` as PNG, made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    objects: dict[int, list[dict]] = {entry.image_id: [] for entry in dataset.pictures}
    for item in dataset.coco["annotations"]:
        objects[item["image_id"]].append(item)
    entries, images, annotations = [], [], []
    for number, entry in enumerate(dataset.pictures):
        for variant in range(VARIANTS):
            image_id = number * VARIANTS + variant + 1
            made = _variant(entry, variant, image_id, folder, (seed, number, variant))
            entries.append(made)
            images.append({"id": image_id, "file_name": made.path.name,
                           "height": made.height, "width": made.width})  # fmt: skip
            for item in objects[entry.image_id]:
                moved = _moved(item, (entry.height, entry.width), variant)
                moved |= {"id": len(annotations) + 1, "image_id": image_id}
                annotations.append(moved)
    coco = dataset.coco | {"images": images, "annotations": annotations}
    return dataclasses.replace(dataset, pictures=tuple(entries), coco=coco, whole=len(entries))


def _variant(
    entry: PictureEntry, variant: int, image_id: int, folder: Path, seed: tuple[int, ...]
) -> PictureEntry:
    if variant == 0:
        return dataclasses.replace(entry, image_id=image_id)
    path = folder / f"{entry.path.stem}_{variant}.png"
    if not path.is_file():
        rng = np.random.default_rng(seed)
        picture = read_picture(entry.path).astype(np.float32)
        gain = (1 + rng.uniform(-CONTRAST, CONTRAST)) * (1 + rng.uniform(-TINT, TINT, 3))
        lit = (picture - 128) * gain + 128 + rng.uniform(-BRIGHTNESS, BRIGHTNESS)
        samples = np.ascontiguousarray(_on_its_side(np.rint(lit).clip(0, 255), variant))
        partial = path.with_suffix(".partial")
        Image.fromarray(samples.astype(np.uint8)).save(partial, "png", compress_level=1)
        os.replace(partial, path)
    size = (entry.height, entry.width)
    height, width = size[::-1] if variant & 4 else size
    return PictureEntry(image_id, path, height, width)


def _on_its_side(x: np.ndarray, variant: int) -> np.ndarray:
    """Samples (H, W, ...) of a variant."""
    x = x[:: -1 if variant & 2 else 1, :: -1 if variant & 1 else 1]
    return x.swapaxes(0, 1) if variant & 4 else x


def _moved(item: dict, size: tuple[int, int], variant: int) -> dict:
    """An annotation of a picture of this (height, width) in its variant."""
    left, top, width, height = item["bbox"]
    corners = np.array([_place(left, top, size, variant),
                        _place(left + width, top + height, size, variant)])  # fmt: skip
    x, y = corners.min(axis=0).tolist()
    sides = [height, width] if variant & 4 else [width, height]
    moved = item | {"bbox": [x, y, *sides]}
    segmentation = item.get("segmentation")
    if isinstance(segmentation, list):
        moved["segmentation"] = [
            [v for pair in zip(polygon[::2], polygon[1::2], strict=True)
             for v in _place(*pair, size, variant)]
            for polygon in segmentation
        ]  # fmt: skip
    elif segmentation:
        mask = _on_its_side(coco_mask.decode(segmentation), variant)
        moved["segmentation"] = coco_mask.encode(np.asfortranarray(mask))
    return moved


def _place(x: float, y: float, size: tuple[int, int], variant: int) -> tuple[float, float]:
    """Where a point of a picture of this (height, width) lies in its variant."""
    x = size[1] - x if variant & 1 else x
    y = size[0] - y if variant & 2 else y
    return (y, x) if variant & 4 else (x, y)
