# SPDX-License-Identifier: BSD-3-Clause
"""What is the ground truth of Open Images? Its records, group-of boxes and label hierarchy."""

from __future__ import annotations

import base64
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vcm_plugin.errors import InputError, brief, one_line
from vcm_plugin.files import read_json
from vcm_plugin.testsets.rle import check_rle, inflated

NO_MASK = "nan"  # what the annotations say for an object without a mask


@dataclass(frozen=True)
class Truth:
    """The objects of one picture; boxes are x, y, width, height as shares of its size."""

    boxes: np.ndarray  # (M, 4) float64
    labels: np.ndarray  # (M,) int64, ids of the label map
    group_of: np.ndarray  # (M,) bool
    verified: frozenset[int]  # labels that are judged in this picture
    masks: tuple[dict | None, ...]  # RLE


def read_truth(coco: Mapping, task: str) -> tuple[dict[int, Truth], dict[int, int]]:
    """The objects of each picture, and category id -> label id of the categories that are labels.

    Raises InputError where the annotations are not those of Open Images.
    """
    if "oic_labelmap" not in coco or "oic_annotations" not in coco:
        raise InputError(
            "the annotations have no oic_labelmap and oic_annotations: expected those of MPEG-OIV6 "
            "for protocol open_images; are these the annotations of another data set?"
        )
    sizes = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
    named = "oic_labelmap"
    truths: dict[int, Truth] = {}
    try:
        by_name = {normal_name(item["name"]): int(item["id"]) for item in coco["oic_labelmap"]}
        names = {c["id"]: normal_name(c["name"]) for c in coco["categories"]}
        labels = {number: by_name[name] for number, name in names.items() if name in by_name}
        named = "oic_annotations"
        for item in coco["oic_annotations"]:
            named = f"oic_annotations of picture {brief(item['image_id'])[:30]}"
            if item["image_id"] in sizes:
                size = sizes[item["image_id"]]
                truths[item["image_id"]] = _truth(item["annotations"], by_name, task, size)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, zlib.error) as error:
        lacks = isinstance(error, KeyError)
        reason = f"one without {error}" if lacks else one_line(error, 80)
        raise InputError(
            f"{named}: expected bbox, cls, group_of and img_cls (and mask with img_size) of labels "
            f"in oic_labelmap, found: {reason}"
        ) from error
    lacking = {image["id"] for image in coco["images"]} - set(truths)
    if lacking:
        raise InputError(
            f"oic_annotations: {len(lacking)} of {len(coco['images'])} pictures are not in it; are "
            "these the annotations of another data set?"
        )
    return truths, labels


def expand_hierarchy(coco: Mapping, hierarchy: Path) -> dict:
    """The ground truth with every object under the ancestors of its label too.

    hierarchy: the challenge's JSON (LabelName, Subcategory), names as in oic_labelmap; its root is
    no label. A verified label without an object here is absent, and so are its descendants.
    Source: hierarchical expansion of the Open Images challenge.
    """
    try:
        below = dict(_descendants(read_json(hierarchy)))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{hierarchy}: expected a label hierarchy of Open Images: {one_line(error)}"
        ) from error
    by_name = {normal_name(item["name"]): item for item in coco["oic_labelmap"]}
    above: dict[str, list[str]] = defaultdict(list)
    for parent, children in below.items():
        for child in children:
            if parent in by_name:
                above[child].append(parent)
    names = {item["id"]: name for name, item in by_name.items()}
    expanded = []
    for item in coco["oic_annotations"]:
        old = item["annotations"]
        rows = [
            (position, label)
            for position, number in enumerate(old["cls"])
            for label in [number, *(by_name[a]["id"] for a in above[names[number]])]
        ]
        lists = {
            key: [old[key][position] for position, _ in rows]
            for key in ("bbox", "group_of", "mask", "img_size")
            if key in old
        }
        present = {names[label] for _, label in rows}
        verified = [normal_name(name) for name in old["img_cls"]]
        absent = {x for name in verified if name not in present for x in below.get(name, ())}
        judged = [*verified, *sorted((present | absent & set(by_name)) - set(verified))]
        new = old | lists | {"cls": [label for _, label in rows], "img_cls": judged}
        expanded.append(item | {"annotations": new})
    return {**coco, "oic_annotations": expanded}


def _truth(item: Mapping, by_name: Mapping[str, int], task: str, size: tuple[int, int]) -> Truth:
    """The objects of a picture of size (height, width); raises ValueError, KeyError, ..."""
    corners = np.asarray(item["bbox"], dtype=np.float64).reshape(-1, 4)  # y0, x0, y1, x1
    labels = np.asarray(item["cls"], dtype=np.int64).reshape(-1)
    group_of = np.asarray(item["group_of"]).astype(bool).reshape(-1)
    masks: tuple = (None,) * len(labels)
    if task == "mask":
        coded = zip(item["mask"], item["img_size"], strict=True)
        masks = tuple(_mask(mask, told, size) for mask, told in coded)
    if not np.isfinite(corners).all() or np.abs(corners).max(initial=0) > 2:
        raise ValueError("a bbox that is no share of the picture's size")
    if (corners[:, 2:] < corners[:, :2]).any():
        raise ValueError("a bbox of negative height or width (y0, x0, y1, x1)")
    if not len(corners) == len(labels) == len(group_of) == len(masks):
        raise ValueError("lists of different lengths")
    y0, x0, y1, x1 = corners.T
    boxes = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1)
    verified = {by_name[normal_name(name)] for name in item["img_cls"]} | set(labels.tolist())
    return Truth(boxes, labels, group_of, frozenset(verified), masks)


def _mask(coded: str, told: Mapping, size: tuple[int, int]) -> dict | None:
    if coded == NO_MASK:
        return None
    sides = [int(told["img_height"]), int(told["img_width"])]
    mask = {"size": sides, "counts": inflated(base64.b64decode(coded), *size)}
    check_rle(mask, *size)
    return mask


def _descendants(tree: Mapping) -> Iterator[tuple[str, list[str]]]:
    """(name, names of all below it) of every node of the hierarchy but its root."""
    for child in tree.get("Subcategory", ()):
        below = list(_descendants(child))
        yield normal_name(child["LabelName"]), [name for name, _ in below]
        yield from below


def normal_name(name: str) -> str:
    """A label as it is compared: lower case, underscores for blanks."""
    return name.strip().lower().replace(" ", "_")
