# SPDX-License-Identifier: BSD-3-Clause
"""Is a run-length coded mask sound? pycocotools never returns from some that are not."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vcm_plugin.errors import brief

_MOST_GROUPS = 7  # of 5 bits, in one run of a compressed mask: runs are 32-bit


def check_rle(mask: Any, height: int, width: int) -> None:
    """Raise ValueError, which says what was expected and found, where a mask is none of a picture.

    mask: {"size": [height, width], "counts": ...}, the counts a list of runs or compressed text, as
    in COCO's annotations; the runs must add up to height x width.
    """
    if not isinstance(mask, Mapping) or "size" not in mask or "counts" not in mask:
        raise ValueError(f"expected polygons, or RLE with size and counts, found {brief(mask)}")
    if list_of_sides(mask["size"]) != [height, width]:
        raise ValueError(
            f"expected the size [{height}, {width}] of the picture, found {brief(mask['size'])}"
        )
    runs = _runs(mask["counts"])
    if len(runs) and (runs.min() < 0 or runs.max() > height * width):
        raise ValueError(f"expected runs of 0 to {height * width} pixels, found another")
    if runs.sum() != height * width:
        raise ValueError(
            f"expected runs that add up to {height} x {width}, found {runs.sum()} pixels"
        )


def inflated(data: bytes, height: int, width: int) -> bytes:
    """Compressed counts out of zlib: no more of them than a mask of this size can have.

    Raises ValueError, or zlib.error where the data is damaged.
    """
    most = _MOST_GROUPS * (height * width + 1)
    decoder = zlib.decompressobj()
    counts = decoder.decompress(data, most + 1)
    if len(counts) > most or not decoder.eof:
        raise ValueError(f"expected the counts of a mask of {height} x {width}, found more or less")
    return counts


def list_of_sides(size: Any) -> list | None:
    """The [height, width] of a mask where they are two whole numbers."""
    whole = isinstance(size, (list, tuple)) and len(size) == 2
    return list(size) if whole and all(type(side) is int for side in size) else None


def _runs(counts: Any) -> np.ndarray:
    """The runs of a mask, int64; raises ValueError where there is none."""
    if isinstance(counts, list):
        if not all(type(run) is int and abs(run) < 1 << 40 for run in counts):
            raise ValueError(f"expected counts of whole numbers, found {brief(counts)}")
        return np.array(counts, dtype=np.int64)
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "replace")
    if not isinstance(counts, bytes):
        raise ValueError(f"expected counts as a list or as text, found {brief(counts)}")
    return _decompressed(counts)


def _decompressed(counts: bytes) -> np.ndarray:
    """The runs in COCO's compressed text: groups of 5 bits from character 48 on, the lowest first;
    bit 5 says that more follow; from the fourth on, a run is told by its difference from the one
    two before. Source: rleFrString of the COCO API's maskApi.c.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if len(codes) and (codes.min() < 0 or codes.max() > 63):
        raise ValueError("expected COCO's compressed counts, found other characters")
    ends = np.flatnonzero(codes < 32)
    if len(codes) and (not len(ends) or ends[-1] != len(codes) - 1):
        raise ValueError("expected COCO's compressed counts, found them cut short")
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    lengths = ends - starts + 1
    if len(lengths) and lengths.max() > _MOST_GROUPS:
        raise ValueError(f"expected runs of at most {_MOST_GROUPS} characters, found longer ones")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts) if len(starts) else starts
    values = values - np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs
