# SPDX-License-Identifier: BSD-3-Clause
"""How does MPEG's reporting template lay a test beside its anchor? A sheet for each such pair.

A block of rows for each sequence (or for the set of pictures), the anchor on the left, the test on
the right, each with its real rate points by falling rate; then BD-rate as a live formula, and the
time of encoder and decoder in percent of the anchor's. A summary of classes stands above.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xlsxwriter.utility import xl_rowcol_to_cell

from vcm_plugin.ctc.results import PointResult
from vcm_plugin.ctc.run_folder import read_seconds
from vcm_plugin.metrics.bd_rate import bd_rate
from vcm_plugin.metrics.rate import bpp
from vcm_plugin.rate_points import has_layers, percent_of
from vcm_plugin.report.document import Footnotes
from vcm_plugin.report.runs import Run
from vcm_plugin.report.sequence_tables import ALL, parts_of
from vcm_plugin.report.sheet_formulas import Formulas, SheetPoint
from vcm_plugin.report.sheets import NAME_LENGTH, Book, Sheet, as_number
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import label_of, title_of

SIDE = ("rate point", "rate", "accuracy", "encode (s)", "decode (s)")
SPECS = ("", ".4f", ".2f", ".2f", ".2f")
FIRST = {"anchor": 3, "test": 8}  # column of the first of SIDE
RESULTS = ("BD-rate (%)", "EncT (%)", "DecT (%)")
RESULT_COLUMN = 13
Seconds = Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One side of a row: a sequence, a class or a set of pictures at one rate point."""

    rate_point: str
    rate: float
    accuracy: float | None
    encode: float | None
    decode: float | None


Parts = dict[tuple[str, str], list[Row]]  # (class, sequence or "") -> rows by falling rate


@dataclass(frozen=True)
class Template:
    """One sheet: what it compares, and the rows of both sides."""

    sheet: Sheet
    heading: str
    names: tuple[str, str]  # anchor, test
    metric: str
    unit: str
    sides: tuple[Parts, Parts]
    min_overlap: float

    def write(self, formulas: Formulas) -> None:
        """Fill the sheet; its formulas need the sheet that computes."""
        self._head()
        summary, row, notes = {}, 5 + len(self._groups()) + 3, Footnotes()
        for column, title in enumerate(self._titles(), start=1):
            self.sheet.put(row, column, title, "head")
        row += 1
        for key in self.sides[0]:
            if key in self.sides[1]:
                summary[key] = self._block(key, row, formulas, notes)
                row += max(len(side[key]) for side in self.sides) + 1
        for number, note in enumerate(notes.texts, start=row + 1):
            self.sheet.put(number, 1, note, "note")
        for number, key in enumerate(self._groups(), start=5):
            self.sheet.put(number, 1, key[0] or "all pictures")
            for place, (formula, value, style) in enumerate(summary.get(key, ()), start=2):
                self.sheet.put(number, place, value, style, formula=formula)

    def _head(self) -> None:
        anchor, test = self.names
        text = f"{test} against {anchor}, {label_of(self.metric)}; {self.heading}"
        self.sheet.put(1, 1, text, "title")
        self.sheet.put(2, 1, "Rate points at full size; EncT and DecT: means over them.", "note")
        self.sheet.put(3, 1, "Summary", "bold")
        for place, title in enumerate(("class", *RESULTS), start=1):
            self.sheet.put(4, place, title, "head")
        row = 5 + len(self._groups()) + 2
        for name, column in zip(self.names, FIRST.values(), strict=True):
            role = "anchor" if name == anchor else "test"
            last = column + len(SIDE) - 2
            cells = row - 1, column - 1, row - 1, last
            style = self.sheet.book.format_of("group")
            self.sheet.file.merge_range(*cells, f"{role}: {name}", style)

    def _titles(self) -> list[str]:
        side = [SIDE[0], self.unit, label_of(self.metric), *SIDE[3:]]
        return ["class", "sequence", *side, *side, *RESULTS]

    def _groups(self) -> list[tuple[str, str]]:
        """The blocks that are classes, all sequences, or the set of pictures."""
        return [key for key in self.sides[0] if not key[1]]

    def _block(
        self, key: tuple[str, str], top: int, formulas: Formulas, notes: Footnotes
    ) -> list[tuple[str, float | str | None, str]]:
        """Write the rows of both sides; returns (formula, value, style) of each of RESULTS."""
        self.sheet.put(top, 1, key[0] or "all pictures")
        self.sheet.put(top, 2, key[1] or "(all)")
        for side, first in zip(self.sides, FIRST.values(), strict=True):
            for row, point in enumerate(side[key], start=top):
                values = as_number(point.rate_point), point.rate, point.accuracy
                values += point.encode, point.decode
                for column, value in enumerate(values, start=first):
                    self.sheet.put(row, column, value, SPECS[column - first])
        results = [self._bd_rate(key, top, formulas, notes), *self._times(key, top)]
        linked = []
        for place, (formula, value, style) in enumerate(results, start=RESULT_COLUMN):
            self.sheet.put(top, place, value, style, formula=formula)
            linked.append((f"={_cell(top, place)}" if formula else "", value, style))
        return linked

    def _bd_rate(
        self, key: tuple[str, str], top: int, formulas: Formulas, notes: Footnotes
    ) -> tuple[str, float | str | None, str]:
        curves = [
            sorted((p.rate, p.accuracy) for p in side[key] if p.accuracy is not None)
            for side in self.sides
        ]
        result = bd_rate(*curves, "pchip", self.min_overlap)
        if result.percent is None:
            return "", notes.mark(result.reason), "+.2f"
        keys = []
        for name, side, first in zip(self.names, self.sides, FIRST.values(), strict=True):
            points = [
                SheetPoint(
                    as_number(p.rate_point), self._ref(row, first + 1), self._ref(row, first + 2),
                    p.rate, p.accuracy,
                )
                for row, p in enumerate(side[key], start=top)
                if p.accuracy is not None
            ]  # fmt: skip
            title = f"{name}, {' '.join(filter(None, key)) or 'all pictures'}, {self.unit}"
            keys.append((self.sheet.name, name, key))
            formulas.add_curve(keys[-1], title, sorted(points, key=lambda p: p.accuracy))
        anchor, test = self.names
        label = f"{test} against {anchor}, {' '.join(filter(None, key))}"
        return *formulas.add_comparison(label, *keys), "+.2f"

    def _times(self, key: tuple[str, str], top: int) -> list[tuple[str, float | None, str]]:
        """EncT and DecT: means over the rate points, in percent of the anchor's."""
        found = []
        for place, stage in enumerate(("encode", "decode"), start=3):
            means, ranges = [], []
            for side, first in zip(self.sides, FIRST.values(), strict=True):
                values = [getattr(point, stage) for point in side[key]]
                known = values and None not in values
                means.append(sum(values) / len(values) if known else None)
                last = top + len(values) - 1
                ranges.append(f"AVERAGE({_cell(top, first + place)}:{_cell(last, first + place)})")
            known = None not in means and means[0]
            value = 100 * means[1] / means[0] if known else None
            formula = f"=100*{ranges[1]}/{ranges[0]}" if known else ""
            found.append((formula, value, ".0f"))
        return found

    def _ref(self, row: int, column: int) -> str:
        return f"'{self.sheet.name}'!{_cell(row, column, fixed=True)}"


def write_templates(book: Book, report: Report) -> list[Template]:
    """The sheets, still empty, one for each test, anchor and task."""
    unit = "kbps" if report.dataset.sequences else "bits per pixel"
    runs = [run for run in report.runs if not has_layers(run.points[0].rate_point)]
    templates = []
    for test in runs:
        for anchor in runs:
            if test.name in report.anchors or anchor.name not in report.anchors:
                continue
            for metric in report.main_metrics:
                sides = tuple(_parts(run, metric) for run in (anchor, test))
                name = _sheet_name(anchor.name, metric, [t.sheet.name for t in templates])
                templates.append(
                    Template(
                        book.sheet(name),
                        report.heading,
                        (anchor.name, test.name),
                        metric,
                        unit,
                        sides,
                        report.rules.min_overlap,
                    )  # fmt: skip
                )
    return templates


def _sheet_name(anchor: str, metric: str, taken: Sequence[str]) -> str:
    """The anchor and the metric, where that is a name that formulas can hold and nobody has."""
    name = f"vs {anchor}, {title_of(metric)}"
    if len(name) > NAME_LENGTH or name in taken or not re.fullmatch(r"[\w ,.+-]+", name):
        return f"Template {len(taken) + 1}"
    return name


def _parts(run: Run, metric: str) -> Parts:
    """Every sequence, class and all of them; or the set of pictures."""
    found: Parts = {}
    points = [p for p in run.result.points if percent_of(p.rate_point) == 100]
    for point in sorted(points, key=lambda point: -point.bits):
        if not run.result.dataset.sequences:
            seconds = _seconds_of_point(run, point)
            accuracy, rate = point.accuracy.get(metric), bpp(point.bits, point.pixels)
            found.setdefault(("", ""), []).append(
                Row(point.rate_point, rate, accuracy, seconds.get("encode"), seconds.get("decode"))
            )
            continue
        seconds_of = _seconds_of_sequences(run, point)
        for part in parts_of(run.result, point):
            seconds = seconds_of.get((part.group, part.sequence), {})
            found.setdefault((part.group, part.sequence), []).append(
                Row(
                    point.rate_point,
                    part.kbps,
                    part.accuracy.get(metric),
                    seconds.get("encode"),
                    seconds.get("decode"),
                )  # fmt: skip
            )
    return found


def _seconds_of_point(run: Run, point: PointResult) -> Seconds:
    stages = run.timings.points.get(point.rate_point, {}) if run.timings else {}
    return {stage: values.sum for stage, values in stages.items()}


def _seconds_of_sequences(run: Run, point: PointResult) -> dict[tuple[str, str], Seconds]:
    """(class, sequence) -> stage -> seconds; of a class and of all, sums."""
    seconds = read_seconds(run.folder / point.rate_point)
    found: dict[tuple[str, str], dict[str, float]] = {}
    for number, sequence in enumerate(run.result.dataset.sequences or (), start=1):
        if number not in seconds:
            return {}
        for key in ((sequence.group, sequence.name), (sequence.group, ""), (ALL, "")):
            sums = found.setdefault(key, {})
            for stage, value in seconds[number].items():
                sums[stage] = sums.get(stage, 0.0) + value
    return found


def _cell(row: int, column: int, fixed: bool = False) -> str:
    return xl_rowcol_to_cell(row - 1, column - 1, row_abs=fixed, col_abs=fixed)
