# SPDX-License-Identifier: BSD-3-Clause
"""What the encoders share about sequences: all-intra access units, one size, the intra period."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from vcm_plugin.errors import InputError
from vcm_plugin.vvc.planes import check_planes
from vcm_plugin.vvc.stream import (
    PARAMETER_SETS,
    raw_nal_units,
)


class PictureEncoder(Protocol):
    """What VVenC and Vtm have in common."""

    def encode(self, planes: Sequence[np.ndarray], qp: int) -> bytes:
        """The VVC byte stream of one picture."""


def intra_frames(
    encoder: PictureEncoder, frames: Iterable[Sequence[np.ndarray]], qp: int
) -> Iterator[bytes]:
    """Each picture coded by itself; parameter sets that are those of the first are left out."""
    first, sets = None, set()
    for planes in frames:
        first = planes if first is None else first
        unit = encoder.encode(same_planes(planes, first, qp), qp)
        nals = list(raw_nal_units(unit))
        yield b"".join(raw for _, raw in nals if raw not in sets)
        sets = sets or {raw for kind, raw in nals if kind in PARAMETER_SETS}


def same_planes(
    planes: Sequence[np.ndarray], first: Sequence[np.ndarray], qp: int
) -> Sequence[np.ndarray]:
    check_planes(planes, qp)
    found, expected = ([plane.shape for plane in frame] for frame in (planes, first))
    if found != expected:
        raise InputError(f"expected frames of one size, {expected}, found one of {found}")
    return planes


def intra_period(frame_rate: tuple[int, int], random_access: bool) -> int:
    """Frames from one intra picture to the next: about a second, as the test conditions have it.

    >>> [intra_period((fps, 1), True) for fps in (24, 30, 50, 60)], intra_period((50, 1), False)
    ([32, 32, 64, 64], 1)
    """
    return 32 * max(1, round(frame_rate[0] / frame_rate[1] / 32)) if random_access else 1
