# SPDX-License-Identifier: BSD-3-Clause
"""At which size and QP is a picture coded best? The choice of "auto:Q", for whoever codes pictures.

"auto:Q" codes a picture as at QP Q, but where a smaller size at a lower QP is the better bargain it
takes that one: the least squared error plus lambda(Q) times bits decides, picture by picture.
"""

from __future__ import annotations

from dataclasses import dataclass

from anchors import vvc
from anchors.vvc_remote import PERCENTS, parse_rate_point
from vcm_plugin.errors import InputError

AUTO = "auto:"
# Size in percent -> how far below Q its QP is tried: where their curves meet on the val split.
OFFSETS = {100: 0, 75: 4, 50: 10, 25: 18}
# Squared error of R, G and B together that a bit is worth: the slope of plain VVC's curve at QP Q,
# fitted on the val split.
LAMBDA_AT_32, LAMBDA_OCTAVE = 160.0, 3.6


@dataclass(frozen=True)
class Coding:
    """One way to code a picture: QP of VVC, and size in percent of its height and width."""

    qp: int
    percent: int


def codings(rate_point: str) -> list[Coding]:
    """The ways that a rate point "QP", "QP@percent" or "auto:Q" allows. Raises InputError.

    >>> codings("32@50"), len(codings("auto:42"))
    ([Coding(qp=32, percent=50)], 4)
    """
    if not rate_point.startswith(AUTO):
        return [Coding(*parse_rate_point(rate_point))]
    try:
        nominal = vvc.parse_qp(rate_point.removeprefix(AUTO))
    except InputError as error:
        raise InputError(f"{rate_point}: after {AUTO} {error}") from error
    return [
        Coding(nominal - OFFSETS[percent], percent)
        for percent in PERCENTS
        if nominal >= OFFSETS[percent]
    ]


def bit_price(rate_point: str) -> float:
    """lambda of a rate point: the squared error of R, G, B in 0 .. 255 that one bit is worth."""
    if rate_point.startswith(AUTO):
        qp = vvc.parse_qp(rate_point.removeprefix(AUTO))
    else:
        qp, percent = parse_rate_point(rate_point)
        qp += OFFSETS[percent]
    return LAMBDA_AT_32 * 2.0 ** ((qp - 32) / LAMBDA_OCTAVE)
