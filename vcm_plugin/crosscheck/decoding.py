# SPDX-License-Identifier: BSD-3-Clause
"""What does this machine make of the bitstreams of a package? One process's work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as rle

from vcm_plugin.crosscheck.package import Limits
from vcm_plugin.ctc.plan import Plan, make_worker
from vcm_plugin.ctc.results import UNCOMPRESSED, Record
from vcm_plugin.ctc.run_folder import bitstream_path
from vcm_plugin.errors import InputError


@dataclass(frozen=True)
class DecodingPlan:
    """All that a process must know.

    run: as if the claimed run were repeated in its folder; its data set is the one here, or the
    claimed one, whose files are not here. with_sources: whether they are.
    """

    run: Plan
    with_sources: bool


@dataclass(frozen=True)
class NotDecoded:
    """A bitstream that does not decode here."""

    reason: str


@dataclass(frozen=True)
class EncodedAgain:
    """What encoding an entry again gave."""

    bits: int
    identical: bool  # to the bitstream of the package


class Decoder:
    """Does again what the worker of the claimed run did, and writes nothing.

    Its methods are generators, as `Workers` calls them; an entry is a picture or a sequence.
    """

    def __init__(self, plan: DecodingPlan):
        self.plan = plan
        self.worker = make_worker(plan.run)
        self.entries = {entry.image_id: entry for entry in plan.run.dataset.entries}

    def identify(self) -> Iterator[dict[str, Any]]:
        """What decides about results here."""
        return self.worker.identify()

    def decode(self, point: str, entry_id: int) -> Iterator[tuple[str, int, Record | NotDecoded]]:
        """A bitstream -> what its record says of it, without seconds; or why it does not decode."""
        file = bitstream_path(self.plan.run.folder / point, entry_id, self.worker.kind.suffix)
        try:
            record = self.worker.decode(self.entries[entry_id], file, self.plan.with_sources)
        except InputError as error:
            yield point, entry_id, NotDecoded(f"picture {entry_id}: {error}")
        else:
            yield point, entry_id, replace(record, bits=8 * file.stat().st_size)

    def measure(self, entry_id: int) -> Iterator[tuple[str, int, Record]]:
        """An entry of the test set here -> its sha256, and predictions without any codec."""
        for record in self.worker.measure(self.entries[entry_id]):
            yield UNCOMPRESSED, entry_id, record

    def encode(
        self, entry_id: int, points: Sequence[str]
    ) -> Iterator[tuple[str, int, EncodedAgain]]:
        """An entry of the test set here -> its bitstreams again: size, and whether identical."""
        for point, data in self.worker.encode(self.entries[entry_id], points):
            file = bitstream_path(self.plan.run.folder / point, entry_id, self.worker.kind.suffix)
            same = data == file.read_bytes()
            yield point, entry_id, EncodedAgain(8 * len(data), same)


def feature_deviation(claimed: dict, decoded: dict) -> float:
    """The largest difference of a layer's mean or spread, in the claimed spread of the layer."""
    worst = 0.0
    for name in claimed.keys() | decoded.keys():
        if name not in claimed or name not in decoded:
            return float("inf")
        spread = max(claimed[name][1], 1e-12)
        pairs = zip(claimed[name], decoded[name], strict=True)
        worst = max(worst, *(abs(a - b) / spread for a, b in pairs))
    return worst


def unmatched(claimed: Sequence[dict], decoded: Sequence[dict], limits: Limits) -> tuple[int, int]:
    """(detections without a counterpart, detections) of both sides of one picture; of labelled
    points, those that another class was found for, and all.

    Counterparts have one class, an IoU of their boxes of at least `box_iou`, and scores at most
    `score` apart; claimed detections choose by falling score.
    """
    if claimed and decoded and "confusion" in claimed[0]:
        matrices = [np.array(side[0]["confusion"]) for side in (claimed, decoded)]
        return int(np.abs(matrices[0] - matrices[1]).sum() // 2), int(matrices[0].sum())
    total = len(claimed) + len(decoded)
    if not claimed or not decoded:
        return total, total
    boxes = [np.array([item["bbox"] for item in side]) for side in (claimed, decoded)]
    overlaps = rle.iou(*boxes, [0] * len(decoded))  # (claimed, decoded)
    fits = overlaps >= limits.box_iou
    for key, equal in (
        ("category_id", lambda a, b: a == b),
        ("score", lambda a, b: np.abs(a - b) <= limits.score),
    ):
        one, other = (np.array([item[key] for item in side]) for side in (claimed, decoded))
        fits &= equal(one[:, None], other[None])
    pairs = 0
    for row in np.argsort([-item["score"] for item in claimed], kind="stable"):
        if fits[row].any():
            chosen = np.argmax(np.where(fits[row], overlaps[row], -1))
            fits[:, chosen] = False
            pairs += 1
    return total - 2 * pairs, total
