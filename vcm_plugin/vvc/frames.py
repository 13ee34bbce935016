# SPDX-License-Identifier: BSD-3-Clause
"""What the encoders share about several pictures: access units, one size, the intra period."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.vvc.planes import check_planes
from vcm_plugin.vvc.stream import PARAMETER_SETS, raw_nal_units

T = TypeVar("T")


def once(units: Iterable[bytes]) -> Iterator[bytes]:
    """Intra pictures, each coded by itself; parameter sets that are those of the first are left
    out of the others."""
    sets: set[bytes] = set()
    for unit in units:
        nals = list(raw_nal_units(unit))
        yield b"".join(raw for _, raw in nals if raw not in sets)
        sets = sets or {raw for kind, raw in nals if kind in PARAMETER_SETS}


def of_one_size(frames: Iterable[Sequence[np.ndarray]], qp: int) -> Iterator[Sequence[np.ndarray]]:
    """The frames, each checked. Raises InputError where one has another size than the first."""
    expected = None
    for planes in frames:
        check_planes(planes, qp)
        found = [plane.shape for plane in planes]
        expected = expected or found
        if found != expected:
            raise InputError(f"expected frames of one size, {expected}, found one of {found}")
        yield planes


def counted(frames: Iterable[T], expected: int) -> Iterator[T]:
    """The decoded frames of a stream; raises BitstreamError behind them unless it holds so many."""
    found = 0
    for frame in frames:
        found += 1
        yield frame
    if found != expected:
        raise BitstreamError(
            f"expected {expected} frames, the VVC stream holds {found}: it is corrupt"
        )


def batches(
    frames: Iterable[Sequence[np.ndarray]], count: int, samples: int
) -> Iterator[list[Sequence[np.ndarray]]]:
    """The frames in groups of up to `count` with up to so many luma samples; at least one in each.

    >>> [len(group) for group in batches([(np.zeros((4, 4)),)] * 8, 3, 1 << 20)]
    [3, 3, 2]
    """
    group: list[Sequence[np.ndarray]] = []
    for planes in frames:
        group.append(planes)
        if len(group) == count or (len(group) + 1) * planes[0].size > samples:
            yield group
            group = []
    if group:
        yield group


def intra_period(frame_rate: tuple[int, int], random_access: bool) -> int:
    """Frames from one intra picture to the next: about a second, as the test conditions have it.

    >>> [intra_period((fps, 1), True) for fps in (24, 30, 50, 60)], intra_period((50, 1), False)
    ([32, 32, 64, 64], 1)
    """
    return 32 * max(1, round(frame_rate[0] / frame_rate[1] / 32)) if random_access else 1
