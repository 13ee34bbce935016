# SPDX-License-Identifier: BSD-3-Clause
"""What does a rate point say, and which integer QP stands for it? The only parser and printer.

    S           scale of IVN                         1.4
    QP          of VVC, 0 .. 63                      32
    QP@percent  of a picture at that size            32@50
    auto:Q      of a picture, as at QP Q, at the size that suits it best   auto:32
    MACHINE+HUMAN  of a codec with two layers        2.8+37@50

The integer is for harnesses whose rate points are QPs: higher is fewer bits. A QP stands for
itself, a scale for 32 + 6 log2 s, since doubling s, like a QP higher by six, doubles the step of
the quantiser. A codec names its grammar: QP, SIZED_QP, PICTURE, SCALE, or layered(...) of two.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vcm_plugin.errors import InputError

SCALES = (0.0625, 16.0)  # lowest and highest s that a codec takes
PERCENTS = (100, 75, 50, 25)  # of height and width, at which a picture may be coded
MAX_QP = 63
AUTO = "auto:"


@dataclass(frozen=True)
class Grammar:
    """How the rate points of a codec are written.

    parse: text -> what it says; raises InputError where it is none. integer: text -> integer QP.
    named: integer QP -> the rate point that it stands for.
    """

    form: str
    parse: Callable[[str], Any]
    integer: Callable[[str], int]
    named: Callable[[int], str] = str


def parse_scale(text: str) -> float:
    """The scale s that a rate point names.

    >>> parse_scale("0.5")
    0.5
    """
    low, high = SCALES
    try:
        s = float(text)
    except ValueError:
        s = math.nan
    if not low <= s <= high:
        raise InputError(
            f"rate point: expected a scale s between {low:g} and {high:g}, as in 0.5 (more "
            f"bits) or 2 (fewer), found {text!r}"
        )
    return s


def qp_of_scale(s: float) -> int:
    """The integer that stands for a scale: 32 + 6 log2 s, rounded.

    >>> qp_of_scale(0.5), qp_of_scale(1), qp_of_scale(4)
    (26, 32, 44)
    """
    return round(32 + 6 * math.log2(s))


def scale_of_qp(qp: int) -> str:
    """The rate point that an integer stands for; its own qp_of_scale is that integer.

    >>> scale_of_qp(26), scale_of_qp(33)
    ('0.5', '1.12246')
    """
    return f"{2 ** ((qp - 32) / 6):.6g}"


def parse_qp(text: str) -> int:
    """A QP of VVC, 0 .. 63.

    >>> parse_qp("32")
    32
    """
    if not re.fullmatch(r"[0-9]{1,2}", text) or int(text) > MAX_QP:
        raise InputError(f"expected a QP from 0 to {MAX_QP} as rate point, found {text!r}")
    return int(text)


def parse_sized_qp(text: str) -> tuple[int, int]:
    """QP and size in percent of "QP" or "QP@percent".

    >>> parse_sized_qp("32"), parse_sized_qp("27@50")
    ((32, 100), (27, 50))
    """
    qp, at, percent = text.partition("@")
    if at and percent not in map(str, PERCENTS):
        raise InputError(
            f"expected a rate point QP or QP@percent with one of {PERCENTS} percent, found {text!r}"
        )
    return parse_qp(qp), int(percent or 100)


def parse_picture(text: str) -> tuple[int, int | None]:
    """QP and size in percent of "QP" or "QP@percent"; Q and None of "auto:Q".

    >>> parse_picture("27@50"), parse_picture("auto:32")
    ((27, 50), (32, None))
    """
    if not text.startswith(AUTO):
        return parse_sized_qp(text)
    try:
        return parse_qp(text.removeprefix(AUTO)), None
    except InputError as error:
        raise InputError(f"{text}: after {AUTO} {error}") from error


def split_layers(text: str) -> tuple[str, str]:
    """The machine's and the person's part of a rate point of two layers, each as it is written.

    >>> split_layers("2.8+37@50")
    ('2.8', '37@50')
    """
    machine, plus, human = text.partition("+")
    if not plus:
        raise InputError(
            f"expected a rate point MACHINE+HUMAN such as 2.8+37 (diff_fchm_picture, "
            f"diff_fchm_learned, simulcast) or 2.8+1 (diff_fchm_human), found {text!r}"
        )
    return machine, human


def layered(machine: Grammar, human: Grammar) -> Grammar:
    """The grammar of a codec with two layers; its integer is that of the machine layer.

    >>> layered(SCALE, SIZED_QP).parse("2.8+37@50")
    (2.8, (37, 50))
    """

    def parse(text: str) -> tuple[Any, Any]:
        first, second = split_layers(text)
        return machine.parse(first), human.parse(second)

    return Grammar(
        f"{machine.form}+{human.form}", parse, lambda text: machine.integer(split_layers(text)[0])
    )


def show(value: float | str, percent: int = 100) -> str:
    """A rate point as it is written: of a scale or QP, and a size in percent.

    >>> show(2.8), show(32), show(32, 50), show("1.4+37")
    ('2.8', '32', '32@50', '1.4+37')
    """
    text = value if isinstance(value, str) else f"{value:g}"
    return text if percent == 100 else f"{text}@{percent}"


def sort_value(text: str) -> float | None:
    """A number by which rate points of one codec sort: by their first value, then by that of the
    person, then by size, the largest first; None for a label of a table of QPs.

    >>> sorted(["32@50", "4", "32", "27"], key=sort_value)
    ['4', '27', '32', '32@50']
    """
    machine, _, human = text.partition("+")
    parts = [part.partition("@")[0].removeprefix(AUTO) for part in (machine, human or "0")]
    try:
        first, second = map(float, parts)
        return first + 1e-4 * second + 1e-7 * (100 - percent_of(text))
    except ValueError:
        return None


def percent_of(text: str) -> int:
    """The size in percent at which a rate point codes a picture; 100 where it says none.

    >>> percent_of("32@50"), percent_of("32"), percent_of("2.8")
    (50, 100, 100)
    """
    return int(text.partition("@")[2] or 100)


def value_and_percent(text: str) -> tuple[str, str]:
    """A rate point of one layer as it is written: its value, and its size in percent or nothing.

    >>> value_and_percent("32@50"), value_and_percent("2.8")
    (('32', '50'), ('2.8', ''))
    """
    return text.partition("@")[::2]


def machine_part(text: str) -> str:
    """The machine's part of a rate point of two layers; of any other, all of it.

    >>> machine_part("2.8+37@50"), machine_part("32")
    ('2.8', '32')
    """
    return text.partition("+")[0]


def has_layers(text: str) -> bool:
    """Whether a rate point is one of two layers."""
    return "+" in text


def checked(
    grammar: Grammar, values: Sequence[float | str], key: str, percents: Sequence[int] = (100,)
) -> list[str]:
    """The rate points of a key of a test condition, at every size; raises InputError where one is
    none, or stands there twice."""
    points = [show(value, percent) for percent in percents for value in values]
    for point, count in Counter(points).most_common(1):
        if count > 1:
            raise InputError(f"{key}: expected each value once, found {point} {count} times")
    for point in points:
        try:
            grammar.parse(point)
        except InputError as error:
            raise InputError(f"{key}: {error}") from error
    return points


SCALE = Grammar("S", parse_scale, lambda text: qp_of_scale(parse_scale(text)), scale_of_qp)
QP = Grammar("QP", parse_qp, parse_qp)
SIZED_QP = Grammar("QP@percent", parse_sized_qp, lambda text: parse_sized_qp(text)[0])
PICTURE = Grammar("QP@percent or auto:Q", parse_picture, lambda text: parse_picture(text)[0])
