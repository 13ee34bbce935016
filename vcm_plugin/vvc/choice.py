# SPDX-License-Identifier: BSD-3-Clause
"""At which size and QP is a picture coded? What "QP", "QP@percent" and "auto:Q" stand for.

"auto:Q" codes a picture as at QP Q, but where a smaller size at a lower QP is the better bargain it
takes that one: the least squared error plus lambda(Q) times bits decides, picture by picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from vcm_plugin.rate_points import parse_picture
from vcm_plugin.vvc.planes import coded_size as smallest_coded_size

# Size in percent -> how far below Q its QP is tried: about as many bits, on the val split.
OFFSETS = {100: 0, 75: 4, 50: 7, 25: 13}
# Squared error of R, G and B together that a bit is worth: the slope of plain VVC's curve at QP Q,
# on 24 val pictures 84 at QP 24.5, 265 at 29.5, 717 at 34.5, 1760 at 39.5 and 5690 at 44.5.
LAMBDA_AT_32, LAMBDA_OCTAVE = 440.0, 3.3


@dataclass(frozen=True)
class Coding:
    """One way to code a picture: QP of VVC, and size in percent of its height and width."""

    qp: int
    percent: int


@dataclass(frozen=True)
class Candidate:
    """A coded picture: its bytes, and a call that gives what they decode to, uint8 (H, W, 3)."""

    data: bytes
    decode: Callable[[], np.ndarray]


def codings(rate_point: str) -> list[Coding]:
    """The ways that a rate point "QP", "QP@percent" or "auto:Q" allows. Raises InputError.

    >>> codings("32@50"), len(codings("auto:42"))
    ([Coding(qp=32, percent=50)], 4)
    """
    qp, percent = parse_picture(rate_point)
    if percent is not None:
        return [Coding(qp, percent)]
    return [Coding(qp - lower, percent) for percent, lower in OFFSETS.items() if qp >= lower]


def bit_price(rate_point: str) -> float:
    """lambda of a rate point: the squared error of R, G, B in 0 .. 255 that one bit is worth."""
    qp, percent = parse_picture(rate_point)
    nominal = qp if percent is None else qp + OFFSETS[percent]
    return LAMBDA_AT_32 * 2.0 ** ((nominal - 32) / LAMBDA_OCTAVE)


def best(picture: np.ndarray, candidates: Iterable[Candidate], price: float) -> bytes:
    """The bytes with the least squared error plus `price` times bits; a single candidate is not
    decoded."""
    candidates = list(candidates)
    if len(candidates) == 1:
        return candidates[0].data

    def cost(candidate: Candidate) -> float:
        error = picture.astype(np.float64) - candidate.decode()
        return float((error * error).sum()) + price * 8 * len(candidate.data)

    return min(candidates, key=cost).data


def coded_size(source: tuple[int, int], percent: int) -> tuple[int, int]:
    """(height, width) at which a picture is coded: even, and not under the encoder's minimum.

    >>> coded_size((321, 481), 100), coded_size((321, 481), 75)
    ((322, 482), (240, 360))
    """
    if percent == 100:
        return smallest_coded_size(*source)
    height, width = (2 * round(n * percent / 200) for n in source)
    return smallest_coded_size(height, width)
