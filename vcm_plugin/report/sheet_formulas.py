# SPDX-License-Identifier: BSD-3-Clause
"""How does a spreadsheet compute BD-rates by itself? PCHIP in cell formulas, without macros.

Every formula is written with the value that it has (a cached value), so that programs that do not
recalculate show it, too. The values are computed here as the formulas say, cell by cell, and not
taken from vcm_plugin.metrics: that both agree is a check of either.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from vcm_plugin.report.sheets import Sheet

FORMULAS = "BD-rate formulas"
HEADS = ("rate point", "rate", "x", "y = log10 rate", "h", "slope", "end", "d", "c", "b", "area")
NONE = math.nan  # of a formula that divides by zero


@dataclass(frozen=True)
class SheetPoint:
    """A point of a curve: the cells that hold its rate and accuracy, and what they hold."""

    rate_point: str | float
    rate_cell: str
    accuracy_cell: str
    rate: float
    accuracy: float


@dataclass(frozen=True)
class Block:
    """Where a curve stands, and the values of its columns C, D, H to K, by rising accuracy."""

    first: int
    last: int
    x: list[float]
    y: list[float]
    d: list[float]
    c: list[float]
    b: list[float]
    area: list[float]


class Formulas:
    """The sheet that computes: blocks of one curve and metric, and rows of comparisons.

    A curve block has one row per point, by rising accuracy. Columns: A rate point, B rate,
    C accuracy x, D log10(rate) y, E step h, F slope, G slope at an end before its limits,
    H derivative (SciPy's PchipInterpolator), I and J second and third coefficient of the
    segment, K area up to the point. A comparison stands in the columns M to T.
    """

    def __init__(self, sheet: Sheet, min_overlap: float):
        self.sheet, self.min_overlap = sheet, min_overlap
        self.blocks: dict[Hashable, Block] = {}
        sheet.put(1, 1, "BD-rate: mean difference of log10(rate) over the common accuracy", "title")
        sheet.put(1, 13, "least common accuracy")
        sheet.put(1, 14, min_overlap)
        heads = "comparison", "low", "high", "anchor, low", "anchor, high", "test, low"
        for place, title in enumerate((*heads, "test, high", "BD-rate (%)"), start=13):
            sheet.put(2, place, title, "head")
        self.row, self.comparison_row = 3, 3

    def columns(self, key: Hashable) -> tuple[list, list]:
        """The rates and accuracies of a curve, for a chart of XlsxWriter."""
        block = self.blocks[key]
        return tuple([self.sheet.name, block.first - 1, c, block.last - 1, c] for c in (1, 2))

    def add_curve(self, key: Hashable, title: str, points: Sequence[SheetPoint]) -> None:
        """A block of the points that make a curve, which `add_comparison` knows by its key."""
        put, top = self.sheet.put, self.row
        put(top, 1, title, "bold")
        for place, head in enumerate(HEADS, start=1):
            put(top + 1, place, head, "head")
        first = top + 2
        last = first + len(points) - 1
        block = self._block(points, first, last)
        for row, point in enumerate(points, start=first):
            put(row, 1, point.rate_point)
            put(row, 2, point.rate, formula="=" + point.rate_cell)
            put(row, 3, point.accuracy, formula="=" + point.accuracy_cell)
            put(row, 4, block.y[row - first], formula=f"=LOG10(B{row})")
            self._segment(row, block)
            if len(points) > 2:
                self._derivative(row, block)
        self.blocks[key] = block
        self.row = last + 2

    def _block(self, points: Sequence[SheetPoint], first: int, last: int) -> Block:
        x = [point.accuracy for point in points]
        y = [math.log10(point.rate) if point.rate > 0 else NONE for point in points]
        h = [high - low for low, high in zip(x, x[1:])]
        s = [_ratio(high - low, step) for low, high, step in zip(y, y[1:], h)]
        d = [_derivative(k, h, s) for k in range(len(x))] if len(x) > 2 else [0.0] * len(x)
        c = [_ratio(3 * s[k] - 2 * d[k] - d[k + 1], h[k]) for k in range(len(h))]
        b = [_ratio(d[k] + d[k + 1] - 2 * s[k], h[k] ** 2) for k in range(len(h))]
        area = [0.0]
        for k, step in enumerate(h):
            area.append(area[k] + _integral(y[k], d[k], c[k], b[k], step))
        return Block(first, last, x, y, d, c, b, area[: len(x)])

    def _segment(self, row: int, block: Block) -> None:
        """The cells of the segment behind a point, and the area up to it."""
        put, k = self.sheet.put, row - block.first
        if row < block.last:
            step = block.x[k + 1] - block.x[k]
            put(row, 5, step, formula=f"=C{row + 1}-C{row}")
            slope = _ratio(block.y[k + 1] - block.y[k], step)
            put(row, 6, slope, formula=f"=(D{row + 1}-D{row})/E{row}")
            put(row, 9, block.c[k], formula=f"=(3*F{row}-2*H{row}-H{row + 1})/E{row}")
            put(row, 10, block.b[k], formula=f"=(H{row}+H{row + 1}-2*F{row})/E{row}^2")
        if row == block.first:
            put(row, 11, 0)
        else:
            put(row, 11, block.area[k], formula="=" + _area(row - 1, f"E{row - 1}"))

    def _derivative(self, row: int, block: Block) -> None:
        put, first, last = self.sheet.put, block.first, block.last
        value = block.d[row - first]
        if first < row < last:
            h, g, s, r = f"E{row}", f"E{row - 1}", f"F{row}", f"F{row - 1}"
            mean = f"(3*{h}+3*{g})/((2*{h}+{g})/{r}+({h}+2*{g})/{s})"
            put(row, 8, value, formula=f"=IF({r}*{s}<=0,0,{mean})")
            return
        near, far = (first, first + 1) if row == first else (last - 1, last - 2)
        h, g, s, r = f"E{near}", f"E{far}", f"F{near}", f"F{far}"
        end = _end(*(self._values(block, k) for k in (near - first, far - first)))
        put(row, 7, end, formula=f"=((2*{h}+{g})*{s}-{h}*{r})/({h}+{g})")
        end = f"G{row}"
        limited = f"IF(AND(SIGN({s})<>SIGN({r}),ABS({end})>3*ABS({s})),3*{s},{end})"
        put(row, 8, value, formula=f"=IF(SIGN({end})<>SIGN({s}),0,{limited})")

    @staticmethod
    def _values(block: Block, k: int) -> tuple[float, float]:
        """Step and slope of a segment."""
        step = block.x[k + 1] - block.x[k]
        return step, _ratio(block.y[k + 1] - block.y[k], step)

    def add_comparison(self, name: str, anchor: Hashable, test: Hashable) -> tuple[str, float]:
        """One BD-rate; returns the formula of a cell that shows it, and its value in percent."""
        put, row = self.sheet.put, self.comparison_row
        blocks = self.blocks[anchor], self.blocks[test]
        low = max(block.x[0] for block in blocks)
        high = min(block.x[-1] for block in blocks)
        put(row, 13, name)
        put(row, 14, low, formula=f"=MAX(C{blocks[0].first},C{blocks[1].first})")
        put(row, 15, high, formula=f"=MIN(C{blocks[0].last},C{blocks[1].last})")
        areas = []
        for block in blocks:
            for column, accuracy in (("N", low), ("O", high)):
                areas.append(_area_value(block, accuracy))
                place = 15 + len(areas)
                put(row, place, areas[-1], formula=_area_at(block, f"${column}${row}"))
        mean = ((areas[3] - areas[2]) - (areas[1] - areas[0])) / (high - low)
        percent = 100 * (10**mean - 1)
        formula = f"((S{row}-R{row})-(Q{row}-P{row}))/(O{row}-N{row})"
        formula = f'=IF(O{row}-N{row}<$N$1,"no overlap",100*(10^({formula})-1))'
        shown = percent if high - low >= self.min_overlap else "no overlap"
        put(row, 20, shown, formula=formula)
        self.comparison_row += 1
        return f"='{self.sheet.name}'!$T${row}", shown


def _area(row: int, step: str) -> str:
    """The area up to `step` behind the point in a row."""
    terms = f"D{row}*{step}+H{row}*{step}^2/2+I{row}*{step}^3/3+J{row}*{step}^4/4"
    return f"K{row}+{terms}"


def _area_at(block: Block, accuracy: str) -> str:
    """The area under a curve up to an accuracy, which lies on it."""
    first, last = block.first, block.last

    def at(column: str) -> str:
        place = f"MIN(MATCH({accuracy},$C${first}:$C${last},1),{last - first})"
        return f"INDEX(${column}${first}:${column}${last},{place})"

    t = f"({accuracy}-{at('C')})"
    terms = f"{at('D')}*{t}+{at('H')}*{t}^2/2+{at('I')}*{t}^3/3+{at('J')}*{t}^4/4"
    return f"={at('K')}+{terms}"


def _area_value(block: Block, accuracy: float) -> float:
    """The value of `_area_at`."""
    k = min(max(n for n, x in enumerate(block.x) if x <= accuracy), len(block.x) - 2)
    step = accuracy - block.x[k]
    return block.area[k] + _integral(block.y[k], block.d[k], block.c[k], block.b[k], step)


def _integral(y: float, d: float, c: float, b: float, t: float) -> float:
    return y * t + d * t**2 / 2 + c * t**3 / 3 + b * t**4 / 4


def _derivative(k: int, h: Sequence[float], s: Sequence[float]) -> float:
    """The derivative at a point, from steps and slopes."""
    if 0 < k < len(h):
        if s[k - 1] * s[k] <= 0:
            return 0.0
        weights = 2 * h[k] + h[k - 1], h[k] + 2 * h[k - 1]
        return sum(weights) / (weights[0] / s[k - 1] + weights[1] / s[k])
    near, far = (0, 1) if k == 0 else (len(h) - 1, len(h) - 2)
    end = _end((h[near], s[near]), (h[far], s[far]))
    if _sign(end) != _sign(s[near]):
        return 0.0
    if _sign(s[near]) != _sign(s[far]) and abs(end) > 3 * abs(s[near]):
        return 3 * s[near]
    return end


def _end(near: tuple[float, float], far: tuple[float, float]) -> float:
    """The slope at an end before its limits."""
    (h, s), (g, r) = near, far
    return _ratio((2 * h + g) * s - h * r, h + g)


def _ratio(one: float, two: float) -> float:
    return one / two if two else NONE


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
