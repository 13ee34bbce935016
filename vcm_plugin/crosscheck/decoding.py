# SPDX-License-Identifier: BSD-3-Clause
"""What does this machine make of the bitstreams of a package? One process's work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as rle

from vcm_plugin.crosscheck.package import Limits
from vcm_plugin.ctc.picture_worker import Plan
from vcm_plugin.ctc.results import UNCOMPRESSED, bitstream_path
from vcm_plugin.ctc.sequence_worker import worker_class
from vcm_plugin.errors import InputError


@dataclass(frozen=True)
class DecodingPlan:
    """All that a process must know.

    run: as if the claimed run were repeated in its folder; its data set is the one here, or the
    claimed one, whose files are not here. with_sources: whether they are.
    """

    run: Plan
    with_sources: bool


class Decoder:
    """Does again what the worker of the claimed run did, and writes nothing.

    Its methods are generators, as `Workers` calls them; an entry is a picture or a sequence.
    """

    def __init__(self, plan: DecodingPlan):
        self.plan = plan
        self.worker = worker_class(plan.run.dataset)(plan.run)
        self.entries = {entry.image_id: entry for entry in plan.run.dataset.entries}

    def identify(self) -> Iterator[dict[str, Any]]:
        """What decides about results here."""
        return self.worker.identify()

    def decode(self, point: str, entry_id: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """A bitstream -> what a line of pictures.jsonl says of it, without seconds; or why not."""
        file = bitstream_path(self.plan.run.folder / point, entry_id, self.worker.kind.suffix)
        try:
            found = self.worker.decode(self.entries[entry_id], file, self.plan.with_sources)
            found["bits"] = 8 * file.stat().st_size
        except InputError as error:
            found = {"error": f"picture {entry_id}: {error}"}
        yield point, entry_id, found

    def measure(self, entry_id: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """An entry of the test set here -> its sha256, and predictions without any codec."""
        for record in self.worker.measure(self.entries[entry_id]):
            yield UNCOMPRESSED, entry_id, record

    def encode(
        self, entry_id: int, points: Sequence[str]
    ) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """An entry of the test set here -> its bitstreams again: size, and whether identical."""
        for point, data in self.worker.encode(self.entries[entry_id], points):
            file = bitstream_path(self.plan.run.folder / point, entry_id, self.worker.kind.suffix)
            same = data == file.read_bytes()
            yield point, entry_id, {"bits": 8 * len(data), "identical": same}


def feature_deviation(claimed: dict, found: dict) -> float:
    """The largest difference of a layer's mean or spread, in the claimed spread of the layer."""
    worst = 0.0
    for name in claimed.keys() | found.keys():
        if name not in claimed or name not in found:
            return float("inf")
        spread = max(claimed[name][1], 1e-12)
        pairs = zip(claimed[name], found[name], strict=True)
        worst = max(worst, *(abs(a - b) / spread for a, b in pairs))
    return worst


def unmatched(claimed: Sequence[dict], found: Sequence[dict], limits: Limits) -> tuple[int, int]:
    """(detections without a counterpart, detections) of both sides of one picture; of labelled
    points, those that another class was found for, and all.

    Counterparts have one class, an IoU of their boxes of at least `box_iou`, and scores at most
    `score` apart; claimed detections choose by falling score.
    """
    if claimed and found and "confusion" in claimed[0]:
        matrices = [np.array(side[0]["confusion"]) for side in (claimed, found)]
        return int(np.abs(matrices[0] - matrices[1]).sum() // 2), int(matrices[0].sum())
    total = len(claimed) + len(found)
    if not claimed or not found:
        return total, total
    boxes = [np.array([item["bbox"] for item in side]) for side in (claimed, found)]
    overlaps = rle.iou(*boxes, [0] * len(found))  # (claimed, found)
    fits = overlaps >= limits.box_iou
    for key, equal in (
        ("category_id", lambda a, b: a == b),
        ("score", lambda a, b: np.abs(a - b) <= limits.score),
    ):
        ours, theirs = (np.array([item[key] for item in side]) for side in (found, claimed))
        fits &= equal(theirs[:, None], ours[None])
    pairs = 0
    for row in np.argsort([-item["score"] for item in claimed], kind="stable"):
        if fits[row].any():
            chosen = np.argmax(np.where(fits[row], overlaps[row], -1))
            fits[:, chosen] = False
            pairs += 1
    return total - 2 * pairs, total
