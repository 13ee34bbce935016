# SPDX-License-Identifier: BSD-3-Clause
"""How well are objects found and kept apart? HOTA, in percent.

J. Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-object Tracking", IJCV 2021. At
an IoU threshold a, with the matches TP, and what was not found (FN) or is not there (FP):

    HOTA_a = sqrt(DetA_a * AssA_a),  DetA_a = TP / (TP + FN + FP)
    AssA_a = mean over TP of  TPA / (TPA + FNA + FPA)

of the frames that an object and its track share, or that one has without the other. HOTA is the
mean over a = 0.05, 0.10 .. 0.95. A frame is matched so that objects and tracks which share most
frames come together first. TrackEval, the authors' code, gives the same numbers; it is not called
since its releases want NumPy 2, which CompressAI does not take.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

THRESHOLDS = np.arange(0.05, 0.99, 0.05)
_LEAST = np.finfo(float).eps


@dataclass(frozen=True)
class Frame:
    """Identities of objects (n,) and of tracks (m,) in a frame, and their IoU (n, m)."""

    objects: Sequence[int]
    tracks: Sequence[int]
    overlap: np.ndarray


@dataclass(frozen=True)
class HotaCounts:
    """What HOTA is computed of, at each threshold; those of several sequences add up.

    hits, misses, extra: TP, FN and FP. association: the sum over the hits of their shares.
    """

    hits: np.ndarray
    misses: np.ndarray
    extra: np.ndarray
    association: np.ndarray


def count(frames: Sequence[Frame]) -> HotaCounts:
    """The counts of one sequence."""
    objects = _numbers(frame.objects for frame in frames)
    tracks = _numbers(frame.tracks for frame in frames)
    shared = np.zeros((len(objects), len(tracks)))
    of_object, of_track = np.zeros((len(objects), 1)), np.zeros((1, len(tracks)))
    placed = []
    for frame in frames:
        rows = np.array([objects[name] for name in frame.objects], int)
        columns = np.array([tracks[name] for name in frame.tracks], int)
        placed.append((rows, columns, frame.overlap))
        of_object[rows, 0] += 1
        of_track[0, columns] += 1
        if len(rows) and len(columns):
            either = frame.overlap.sum(0)[None] + frame.overlap.sum(1)[:, None] - frame.overlap
            part = np.where(either > _LEAST, frame.overlap / np.maximum(either, _LEAST), 0.0)
            shared[np.ix_(rows, columns)] += part
    alignment = shared / np.maximum(of_object + of_track - shared, _LEAST)
    return _matched(placed, alignment, of_object, of_track)


def hota(sequences: Iterable[HotaCounts]) -> float:
    """HOTA of one or several sequences, in percent."""
    parts = list(sequences)
    hits, misses, extra, association = (
        sum(getattr(part, name) for part in parts)
        for name in ("hits", "misses", "extra", "association")
    )
    detection = hits / np.maximum(hits + misses + extra, 1)
    return float(100.0 * np.sqrt(detection * association / np.maximum(hits, 1)).mean())


def _numbers(names: Iterable[Sequence[int]]) -> dict[int, int]:
    """Identity -> its place among all of a sequence."""
    each = dict.fromkeys(name for of_frame in names for name in of_frame)
    return {name: place for place, name in enumerate(each)}


def _matched(placed: list, alignment: np.ndarray, of_object, of_track) -> HotaCounts:
    """Match every frame, and count at every threshold."""
    hits, misses, extra = (np.zeros(len(THRESHOLDS)) for _ in range(3))
    pairs = np.zeros((len(THRESHOLDS), *alignment.shape), np.int32)
    for rows, columns, overlap in placed:
        found = np.zeros(len(THRESHOLDS))
        if len(rows) and len(columns):
            score = alignment[np.ix_(rows, columns)] * overlap
            left, right = linear_sum_assignment(-score)
            for index, threshold in enumerate(THRESHOLDS):
                good = overlap[left, right] >= threshold - _LEAST
                found[index] = good.sum()
                pairs[index, rows[left[good]], columns[right[good]]] += 1
        hits += found
        misses += len(rows) - found
        extra += len(columns) - found
    association = (pairs * (pairs / np.maximum(of_object + of_track - pairs, 1))).sum(axis=(1, 2))
    return HotaCounts(hits, misses, extra, association)
