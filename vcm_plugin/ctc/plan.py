# SPDX-License-Identifier: BSD-3-Clause
"""What a process must know to do the work of a run; networks are imported where it is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vcm_plugin.conditions import TestCondition
from vcm_plugin.testsets.coco import CocoDataset

if TYPE_CHECKING:
    from vcm_plugin.ctc.picture_worker import Worker


@dataclass(frozen=True)
class Plan:
    """All that a worker process must know."""

    condition: TestCondition
    codec_name: str
    folder: Path
    dataset: CocoDataset
    device: str = "cpu"
    keep_going: bool = False
    feature_cache_bytes: int = 0


def make_worker(plan: Plan) -> Worker:
    """The worker that the entries of the test set want: pictures or sequences."""
    from vcm_plugin.ctc.picture_worker import Worker
    from vcm_plugin.ctc.sequence_worker import SequenceWorker

    return (SequenceWorker if plan.dataset.sequences else Worker)(plan)
