# SPDX-License-Identifier: BSD-3-Clause
"""What do COCO annotations say? Every value is checked against its picture before it is used.

What is taken, and how:
- ids, sizes and iscrowd: whole numbers, 3.0 as 3; ids in 64 bits. Ids of pictures may be text, as
  in MPEG-OIV6: those are numbered.
- iscrowd: 0, 1, false or true; null or none at all is 0. area: that of the box where there is none.
- segmentation: polygons of at least three points that leave the picture by no more than its own
  size, or RLE of the picture's size; [] and null are no mask, as in Detectron2.
- bbox: [x, y, width, height], none of the sides negative. A box without area inside its picture is
  an object that no detector can find, and real sets hold some: it is passed over and counted.
- A category that is no class and that nothing is annotated as, such as the root category of
  exports, is passed over; `match_categories` of coco.py does that.
- Of tracks (`tracks`): track_id, confidence, object_class and visibility, as testsets/tracking.py
  makes them of gt.txt, whose boxes may leave the picture by more.
Keys that nothing here reads are left out. pycocotools never sees what was not checked.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vcm_plugin.errors import InputError, brief
from vcm_plugin.files import read_json
from vcm_plugin.testsets.rle import check_rle

MOST_PIXELS = 1 << 30  # of one picture
MOST_OUTLINE = 1_000_000  # pixels along a polygon: pycocotools needs some 100 bytes for each
MOST_NAME = 255  # bytes of a file's name, on the file systems that there are
_ID = 1 << 63
MOST_CHARACTERS = 200  # of a refusal
_PATH = 70  # of them for the path


@dataclass(frozen=True)
class Annotations:
    """Checked COCO annotations.

    coco: images, annotations and categories, and for Open Images its oic_ lists, unchecked.
    passed_over: ids of the annotations that were left out, their boxes having no area.
    """

    coco: dict[str, Any]
    passed_over: tuple[int, ...]


def read_annotations(path: Path) -> Annotations:
    """The content of a COCO annotation file; raises InputError, which names file, entry and field.

    Messages are short, whatever the file holds.
    """
    try:
        content = read_json(path)
    except InputError as error:
        if not path.exists():
            raise InputError(
                f"{_shown(path)}: no such file; give the annotations with --annotations, or the "
                "folder in which the condition's paths start with --data-root or $VCM_DATA"
            ) from error
        reason = str(error).removeprefix(f"{path}: ")[:100]
        raise InputError(f"{_shown(path)}: no COCO annotations: {reason}") from error
    return check_annotations(content, path)


def check_annotations(content: Any, path: Path, tracks: bool = False) -> Annotations:
    """The checked content of an annotation file; path: what a refusal names. Raises InputError.

    tracks: every annotation has an identity, too.
    """
    try:
        return _checked(content, tracks)
    except ValueError as error:
        raise InputError(f"{_shown(path)}: {error}"[:MOST_CHARACTERS]) from error


def _checked(content: Any, tracks: bool) -> Annotations:
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"expected COCO annotations with a list {key!r}, found none")
    numbers = _numbers_of_text_ids(content["images"])
    images = _all("picture", content["images"], lambda item: _image(item, numbers))
    categories = _all("category", content["categories"], _category)
    if not images:
        raise ValueError("expected at least one picture, found none")
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    known = {category["id"] for category in categories}
    annotations = _all(
        "annotation", content["annotations"],
        lambda item: (
            _annotation(item, sizes, known, numbers, tracks) | (_track(item) if tracks else {})
        ),
    )  # fmt: skip
    empty = [item for item in annotations if not _area_in_picture(item, sizes)]
    if empty:
        left_out = {item["id"] for item in empty}
        annotations = [item for item in annotations if item["id"] not in left_out]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    for key in ("oic_labelmap", "oic_annotations"):
        if key in content:
            coco[key] = content[key]
    for item in coco.get("oic_annotations", ()) if numbers else ():
        if isinstance(item, dict) and isinstance(item.get("image_id"), str):
            item["image_id"] = numbers.get(item["image_id"], item["image_id"])
    return Annotations(coco, tuple(item["id"] for item in empty))


def _all(what: str, items: list, check: Callable[[dict], dict]) -> list[dict]:
    """The checked entries of a list; a refusal says which entry, by its id where it has one."""
    checked = []
    for position, item in enumerate(items):
        try:
            if not isinstance(item, dict):
                raise ValueError(f"expected keys and values, found {brief(item)}")
            checked.append(check(item))
        except ValueError as error:
            named = isinstance(item, dict) and isinstance(item.get("id"), (int, str))
            which = brief(item["id"]) if named else f"at position {position}"
            raise ValueError(f"{what} {which[:30]}: {error}") from error
    ids = Counter(item["id"] for item in checked).most_common(1)
    if ids and ids[0][1] > 1:
        raise ValueError(f"{what} {ids[0][0]}: id: expected once, found {ids[0][1]} times")
    return checked


def _numbers_of_text_ids(images: list) -> dict[str, int]:
    """A number for each picture whose id is text: its position."""
    ids = [image.get("id") if isinstance(image, dict) else None for image in images]
    return {found: n for n, found in reversed([*enumerate(ids, 1)]) if isinstance(found, str)}


def _image(item: dict, numbers: Mapping[str, int]) -> dict:
    name = item.get("file_name")
    if not _is_text(name):
        raise ValueError(f"file_name: expected the name of a file, found {brief(name)}")
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or (name[1:2] == ":" and "\\" in name):
        raise ValueError(f"file_name: expected a path inside the images, found {brief(name)}")
    if max(len(part.encode()) for part in parts) > MOST_NAME:
        raise ValueError(f"file_name: expected at most {MOST_NAME} bytes, found {brief(name)}")
    height, width = (_whole(item, key, 1, MOST_PIXELS) for key in ("height", "width"))
    if height * width > MOST_PIXELS:
        raise ValueError(f"height, width: expected at most {MOST_PIXELS} pixels, "
                         f"found {height}x{width}")  # fmt: skip
    return {
        "id": _id(item, "id", numbers), "file_name": name, "height": height, "width": width
    }  # fmt: skip


def _category(item: dict) -> dict:
    name = item.get("name")
    if not _is_text(name):
        raise ValueError(f"name: expected text, found {brief(name)}")
    return {"id": _id(item, "id"), "name": name}


def _annotation(
    item: dict,
    sizes: Mapping[int, tuple[int, int]],
    categories: set,
    numbers: Mapping[str, int],
    tracks: bool,
) -> dict:
    found = {
        "id": _id(item, "id"),
        "image_id": _id(item, "image_id", numbers),
        "category_id": _id(item, "category_id"),
    }
    for key, known, where in (
        ("image_id", sizes, "images"), ("category_id", categories, "categories")
    ):  # fmt: skip
        if found[key] not in known:
            raise ValueError(f"{key}: expected one of {where}, found {brief(item[key])}")
    size = sizes[found["image_id"]]
    found["bbox"] = box = _box(item.get("bbox"))
    if not tracks:  # whose boxes may leave the picture by any length
        _check_extent("bbox", (box[0], box[0] + box[2]), (box[1], box[1] + box[3]), *size)
    found["iscrowd"] = 0 if item.get("iscrowd") is None else _whole(item, "iscrowd", 0, 1)
    area = item.get("area")
    if area is not None and not (_is_number(area) and area >= 0):
        raise ValueError(f"area: expected a number from 0 on, found {brief(area)}")
    found["area"] = box[2] * box[3] if area is None else area
    mask = item.get("segmentation")
    if mask is not None and mask != []:
        try:
            _check_mask(mask, *size)
        except ValueError as error:
            raise ValueError(f"segmentation: {error}") from error
        found["segmentation"] = mask
    return found


def _track(item: dict) -> dict:
    """Identity, class and what else a line of gt.txt says of an object."""
    found: dict[str, Any] = {"track_id": _whole(item, "track_id", 0, _ID - 1)}
    for key in ("confidence", "visibility"):
        if not _is_number(item.get(key)):
            raise ValueError(f"{key}: expected a number, found {brief(item.get(key))}")
        found[key] = item[key]
    return found | {"object_class": _whole(item, "object_class", -_ID, _ID - 1)}


def _id(item: dict, key: str, numbers: Mapping[str, int] | None = None) -> int:
    """A whole number of 64 bits; text where it is the id of a picture."""
    found = item.get(key)
    if numbers is not None and isinstance(found, str) and found in numbers:
        return numbers[found]
    return _whole(item, key, -_ID, _ID - 1)


def _whole(item: dict, key: str, least: int, most: int) -> int:
    """A whole number, whole floats and truth values included."""
    found = item.get(key)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, bool) and (least, most) == (0, 1):
        found = int(found)
    if type(found) is not int or not least <= found <= most:
        limits = "64 bits" if most >= _ID - 1 else f"{least} to {most}"
        raise ValueError(
            f"{key}: expected a whole number of {limits}, found {brief(item.get(key))}"
        )
    return found


def _is_text(value: Any) -> bool:
    """Text of one line that can be written."""
    if not isinstance(value, str) or not value.strip():
        return False
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in value.strip())


def _is_number(value: Any) -> bool:
    """A finite number that a float holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= 1e300 and math.isfinite(value)


def _box(box: Any) -> list:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"bbox: expected [x, y, width, height], found {brief(box)}")
    if box[2] < 0 or box[3] < 0:
        raise ValueError(f"bbox: expected a width and height from 0 on, found {brief(box)}")
    return box


def _check_extent(
    what: str, xs: Iterable[float], ys: Iterable[float], height: int, width: int
) -> None:
    """Refuse what leaves a picture by more than its own size: pixels or shares of another one."""
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    if left < -width or right > 2 * width or top < -height or bottom > 2 * height:
        raise ValueError(
            f"{what}: expected pixels of a picture of {height}x{width}, found x "
            f"{left:.6g} to {right:.6g}, y {top:.6g} to {bottom:.6g}"
        )


def _area_in_picture(item: dict, sizes: Mapping[int, tuple[int, int]]) -> bool:
    height, width = sizes[item["image_id"]]
    x, y, w, h = item["bbox"]
    return min(x + w, width) > max(x, 0) and min(y + h, height) > max(y, 0)


def _check_mask(mask: Any, height: int, width: int) -> None:
    if not isinstance(mask, list):
        check_rle(mask, height, width)
        return
    for number, polygon in enumerate(mask):
        try:
            _check_polygon(polygon, height, width)
        except ValueError as error:
            raise ValueError(f"polygon {number}: {error}") from error


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"expected [x, y, x, y, x, y, ...], found {brief(polygon)}")
    numbers = np.array(polygon) if all(map(_is_number, polygon)) else None
    if numbers is None:
        odd = next(value for value in polygon if not _is_number(value))
        raise ValueError(f"expected finite numbers, found {brief(odd)}")
    points = numbers.astype(np.float64).reshape(-1, 2)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    _check_extent("points", (left, right), (top, bottom), height, width)
    outline = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    if outline > MOST_OUTLINE:
        raise ValueError(f"expected an outline of at most {MOST_OUTLINE} pixels, "
                         f"found {outline:.0f}")  # fmt: skip


def _shown(path: Path) -> str:
    """A path for a message of at most 200 characters: its end where it is long."""
    text = str(path)
    return text if len(text) <= _PATH else "..." + text[3 - _PATH :]
