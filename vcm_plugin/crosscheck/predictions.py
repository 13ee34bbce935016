# SPDX-License-Identifier: BSD-3-Clause
"""Are the predictions that a package claims ones that can be judged? pycocotools checks nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from vcm_plugin.ctc.results import Record
from vcm_plugin.errors import InputError, brief
from vcm_plugin.testsets.rle import check_rle

_MOST = 1 << 40  # of a number in a prediction


def check_predictions(
    records: Iterable[Record],
    sizes: Mapping[int, tuple[int, int]],
    where: str,
    tracks: bool = False,
) -> None:
    """Raise InputError, which names picture and field, for a prediction that no detector makes.

    sizes: (height, width) of each picture, as the ground truth has them; where: the file. tracks:
    every prediction has an identity, which no other has in its frame.
    """
    for record in records:
        for item in (*(record.predictions or ()), *(record.painted or ())):
            try:
                _check(item, sizes)
            except ValueError as error:
                raise InputError(
                    f"{where}: picture {record.image_id}: prediction: {error}"
                ) from error
        if tracks:
            _check_identities(record, where)


def _check(item: Any, sizes: Mapping[int, tuple[int, int]]) -> None:
    if not isinstance(item, dict):
        raise ValueError(f"expected keys and values, found {brief(item)}")
    if type(item.get("image_id")) is not int or item["image_id"] not in sizes:
        raise ValueError(f"image_id: expected a picture of the ground truth, "
                         f"found {brief(item.get('image_id'))}")  # fmt: skip
    if "confusion" in item:
        _check_confusion(item["confusion"])
        return
    if type(item.get("category_id")) is not int or abs(item["category_id"]) > _MOST:
        raise ValueError(f"category_id: expected a whole number, "
                         f"found {brief(item.get('category_id'))}")  # fmt: skip
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"bbox: expected [x, y, width, height], found {brief(box)}")
    if not _is_number(item.get("score")):
        raise ValueError(f"score: expected a number, found {brief(item.get('score'))}")
    if "segmentation" in item:
        try:
            check_rle(item["segmentation"], *sizes[item["image_id"]])
        except ValueError as error:
            raise ValueError(f"segmentation: {error}") from error


def _check_identities(record: Record, where: str) -> None:
    seen = set()
    for item in record.predictions or ():
        identity = item.get("track_id")
        if type(identity) is not int or (item["image_id"], identity) in seen:
            raise InputError(
                f"{where}: sequence {record.image_id}: prediction: track_id: expected a whole "
                f"number, once in frame {item['image_id']}, found {brief(identity)}"
            )
        seen.add((item["image_id"], identity))


def _check_confusion(matrix: Any) -> None:
    rows = matrix if isinstance(matrix, list) else []
    square = rows and all(isinstance(row, list) and len(row) == len(rows) for row in rows)
    if not square or not all(type(n) is int and 0 <= n < _MOST for row in rows for n in row):
        raise ValueError(f"confusion: expected counts of points, found {brief(matrix)}")


def _is_number(value: Any) -> bool:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and abs(value) < _MOST and math.isfinite(value)
