# SPDX-License-Identifier: BSD-3-Clause
"""How does a spreadsheet compute BD-rates by itself? PCHIP in cell formulas, without macros."""

from __future__ import annotations

from collections.abc import Sequence

from openpyxl.chart import Reference
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.worksheet.worksheet import Worksheet

from vcm_plugin.report.curves import Curve
from vcm_plugin.report.tables import Comparison
from vcm_plugin.report.titles import title_of

FORMULAS = "BD-rate formulas"
HEAD = PatternFill("solid", fgColor="D9E2EC")


def write_head(sheet: Worksheet, row: int, titles: Sequence[str]) -> None:
    """The heads of a table in a row of a sheet."""
    for place, title in enumerate(titles, start=1):
        cell = sheet.cell(row, place, title)
        cell.font, cell.fill = Font(bold=True), HEAD
        cell.alignment = Alignment(wrap_text=True, vertical="top")


class Formulas:
    """The sheet that computes: blocks of one curve and metric, and rows of comparisons.

    A curve block has one row per point, by rising accuracy. Columns: A rate point, B bpp,
    C accuracy x, D log10(bpp) y, E step h, F slope, G slope at an end before its limits,
    H derivative (SciPy's PchipInterpolator), I and J second and third coefficient of the
    segment, K area up to the point. A comparison stands in the columns M to T.
    """

    def __init__(self, sheet: Worksheet, min_overlap: float):
        self.sheet, self.blocks, self.results = sheet, {}, {}
        sheet["A1"] = "BD-rate: mean difference of log10(rate) over the common accuracy"
        sheet["A1"].font = Font(bold=True, size=14)
        sheet["M1"], sheet["N1"] = "least common accuracy", min_overlap
        heads = "comparison", "low", "high", "anchor, low", "anchor, high", "test, low"
        for place, title in enumerate((*heads, "test, high", "BD-rate (%)"), start=13):
            sheet.cell(2, place, title).font = Font(bold=True)
        self.row, self.comparison_row = 3, 3

    def columns(self, curve: str, metric: str) -> tuple[Reference, Reference]:
        """The rates and accuracies of a curve, for a chart."""
        first, last = self.blocks[curve, metric]
        return tuple(Reference(self.sheet, min_col=c, min_row=first, max_row=last) for c in (2, 3))

    def add_curve(self, curve: Curve, metric: str, cells: dict) -> None:
        """A block of the points that make a curve; a hull keeps those that are on it now."""
        put, top = self.sheet.cell, self.row
        put(top, 1, f"{curve.name}, {title_of(metric)}").font = Font(bold=True)
        heads = (
            "rate point",
            "bpp",
            "x",
            "y = log10 bpp",
            "h",
            "slope",
            "end",
            "d",
            "c",
            "b",
            "area",
        )
        write_head(self.sheet, top + 1, heads)
        points, first = curve.chosen(metric), top + 2
        last = first + len(points) - 1
        for row, point in enumerate(points, start=first):
            put(row, 1, point.rate_point)
            put(row, 2, "=" + cells[point.codec, point.rate_point, "bpp"])
            put(row, 3, "=" + cells[point.codec, point.rate_point, metric])
            put(row, 4, f"=LOG10(B{row})")
            if row < last:
                put(row, 5, f"=C{row + 1}-C{row}")
                put(row, 6, f"=(D{row + 1}-D{row})/E{row}")
                put(row, 9, f"=(3*F{row}-2*H{row}-H{row + 1})/E{row}")
                put(row, 10, f"=(H{row}+H{row + 1}-2*F{row})/E{row}^2")
            put(row, 11, 0 if row == first else "=" + self._area(row - 1, f"E{row - 1}"))
            if len(points) > 2:
                self._derivative(row, first, last)
        self.blocks[curve.name, metric] = (first, last)
        self.row = last + 2

    def _derivative(self, row: int, first: int, last: int) -> None:
        put = self.sheet.cell
        if first < row < last:
            h, g, s, r = f"E{row}", f"E{row - 1}", f"F{row}", f"F{row - 1}"
            mean = f"(3*{h}+3*{g})/((2*{h}+{g})/{r}+({h}+2*{g})/{s})"
            put(row, 8, f"=IF({r}*{s}<=0,0,{mean})")
            return
        near, far = (first, first + 1) if row == first else (last - 1, last - 2)
        h, g, s, r = f"E{near}", f"E{far}", f"F{near}", f"F{far}"
        put(row, 7, f"=((2*{h}+{g})*{s}-{h}*{r})/({h}+{g})")
        end = f"G{row}"
        limited = f"IF(AND(SIGN({s})<>SIGN({r}),ABS({end})>3*ABS({s})),3*{s},{end})"
        put(row, 8, f"=IF(SIGN({end})<>SIGN({s}),0,{limited})")

    @staticmethod
    def _area(row: int, step: str) -> str:
        """The area up to `step` behind the point in a row."""
        terms = f"D{row}*{step}+H{row}*{step}^2/2+I{row}*{step}^3/3+J{row}*{step}^4/4"
        return f"K{row}+{terms}"

    def _area_at(self, block: tuple[int, int], accuracy: str) -> str:
        """The area under a curve up to an accuracy, which lies on it."""
        first, last = block

        def at(column: str) -> str:
            place = f"MIN(MATCH({accuracy},$C${first}:$C${last},1),{last - first})"
            return f"INDEX(${column}${first}:${column}${last},{place})"

        t = f"({accuracy}-{at('C')})"
        terms = f"{at('D')}*{t}+{at('H')}*{t}^2/2+{at('I')}*{t}^3/3+{at('J')}*{t}^4/4"
        return f"={at('K')}+{terms}"

    def add_comparison(self, comparison: Comparison) -> None:
        """One BD-rate; for one that is refused there is nothing to compute."""
        key = comparison.test, comparison.anchor, comparison.metric
        name = f"{comparison.test} against {comparison.anchor}, {title_of(comparison.metric)}"
        if comparison.raw.percent is None:
            self.results[key] = "refused"
            return
        put, row = self.sheet.cell, self.comparison_row
        anchor, test = (
            self.blocks[c, comparison.metric] for c in (comparison.anchor, comparison.test)
        )
        put(row, 13, name)
        put(row, 14, f"=MAX(C{anchor[0]},C{test[0]})")
        put(row, 15, f"=MIN(C{anchor[1]},C{test[1]})")
        for place, (block, end) in enumerate(
            ((anchor, "N"), (anchor, "O"), (test, "N"), (test, "O"))
        ):
            put(row, 16 + place, self._area_at(block, f"${end}${row}"))
        mean = f"((S{row}-R{row})-(Q{row}-P{row}))/(O{row}-N{row})"
        put(row, 20, f'=IF(O{row}-N{row}<$N$1,"no overlap",100*(10^({mean})-1))')
        self.results[key] = f"='{FORMULAS}'!$T${row}"
        self.comparison_row += 1
