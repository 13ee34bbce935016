# SPDX-License-Identifier: BSD-3-Clause
"""How do the survey's classes of human-machine codecs compare, on the same pictures and detector?

    MBID  independent streams          simulcast, simulcast_learned
    MBHD  the machine's part is first  diff_fchm_picture, diff_fchm_human
                                       diff_fchm_learned, latent_scalable
    SBMD  one stream, several heads    multi_head
    SBAR  rebuilt, then analysed       vvc_remote, picture_learned

Classes may be compared within a family, of codecs whose pictures VVC codes or a network: across
families it is picture codecs that differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcm_plugin.metrics.bd_rate import BdRate, bd_rate, bits_at
from vcm_plugin.report.document import Column, Table
from vcm_plugin.report.figures import (
    NO_DATES,
    SETTINGS,
    STYLES,
    Figure,
    bits_axis,
    legend_label,
    rc_context,
)
from vcm_plugin.report.human_vision import HumanCurve
from vcm_plugin.report.runs import Run
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import title_of

VVC, LEARNED = "VVC inside", "learned inside"
# Codec -> its class, its family, and the codec whose curve is that of its machine side.
CLASSES = {
    "simulcast": ("MBID", VVC, "diff_fchm"),
    "simulcast_learned": ("MBID", LEARNED, "diff_fchm"),
    "diff_fchm_picture": ("MBHD", VVC, "diff_fchm"),
    "diff_fchm_learned": ("MBHD", LEARNED, "diff_fchm"),
    "diff_fchm_human": ("MBHD", LEARNED, "diff_fchm"),
    "latent_scalable": ("MBHD", LEARNED, "latent_scalable"),
    "multi_head": ("SBMD", LEARNED, "multi_head"),
    "vvc_remote": ("SBAR", VVC, "vvc_remote"),
    "picture_learned": ("SBAR", LEARNED, "picture_learned"),
}
MEASURES = ("psnr", "ms_ssim", "vmaf_neg", "haarpsi")


@dataclass(frozen=True)
class Operating:
    """A codec where its picture has a stated quality: its machine accuracy, and total bits."""

    curve: str
    codec: str
    bpp: float
    accuracy: float


def class_tables(report: Report) -> list[Table]:
    """Those of a report whose runs show people pictures and are of two classes or more: one table
    for each anchor that is one picture for both."""
    curves = report.human_vision.curves if report.human_vision else ()
    both = {curve.run for curve in curves if not curve.machine}
    shown = {run.result.codec for run in report.runs if run.name in {c.run for c in curves}}
    if len({CLASSES[codec][0] for codec in shown & CLASSES.keys()}) < 2:
        return []
    return [class_table(report, None, anchor) for anchor in report.anchors if anchor in both]


def class_table(human: Report, machine: Report | None, anchor: str) -> Table:
    """A row for every machine rate of every run of a human condition whose codec has a class.

    machine: runs of the same test set with whole machine curves; None leaves that column empty.
    anchor: name of the run that is compared with, in both.
    """
    columns = (
        Column("curve", "codec"), Column("class", "class"), Column("family", "family"),
        Column("machine", "machine BD-rate (box AP) %", "+.1f"),
        *(Column(key, f"total bits BD-rate ({title_of(key)}) %", "+.1f") for key in MEASURES),
        Column("break_even", "break-even share (PSNR)", ".2f"),
        Column("parameters", "parameters", ",d"),
        Column("encode_kmac", "encoder kMAC/pixel", ".1f"),
        Column("decode_kmac", "decoder kMAC/pixel", ".1f"),
        Column("encode_seconds", "encode s", ".3f"), Column("decode_seconds", "decode s", ".3f"),
    )  # fmt: skip
    (reference,) = (c for c in human.human_vision.curves if c.run == anchor and not c.machine)
    rows = [
        _row(human, machine, curve, reference)
        for curve in human.human_vision.curves
        if _codec_of(human, curve.run) in CLASSES
    ]
    rows.sort(key=lambda row: (row["family"], row["class"], row["curve"]))
    notes = (
        f"against {anchor}; negative: fewer bits at the same value",
        "break-even share: up to it, of the pictures that are ever looked at, the machine's bits "
        "and that share of the others are fewer than one picture for both; never: the machine's "
        "bits alone are more; always: all of them together are fewer",
    )
    return Table("Classes of human-machine codecs", columns, tuple(rows), notes)


def at_quality(report: Report, metric: str, value: float) -> list[Operating]:
    """Machine accuracy and total bits of every curve that reaches a value of a measure."""
    found = []
    for curve in report.human_vision.curves:
        if _codec_of(report, curve.run) not in CLASSES:
            continue
        bits = bits_at(curve.rates(metric), value).bits if curve.measured(metric) else None
        accuracy = None if bits is None else accuracy_at(curve, bits)
        if accuracy is not None:
            found.append(Operating(curve.name, _codec_of(report, curve.run), bits, accuracy))
    return found


def accuracy_at(curve: HumanCurve, bpp: float) -> float | None:
    """Box AP of a curve at a rate: its own at any rate where the machine's part is apart, else
    between its points along the logarithm of bits; None without ground truth."""
    import numpy as np

    known = curve.accuracies()
    if not known:
        return None
    logs = np.log([rate for rate, _ in known])
    return float(np.interp(np.log(bpp), logs, [accuracy for _, accuracy in known]))


def write_class_plots(
    report: Report, out: Path, formats: Sequence[str], psnr: float, accuracy: float
) -> None:
    """Write classes_machine: machine accuracy over total bits at a stated PSNR; and classes_human:
    PSNR over total bits at a stated machine accuracy or more."""
    with rc_context(SETTINGS):
        for name, draw, title in (
            ("machine", lambda axes: _draw_machine(axes, report, psnr),
             f"Machine accuracy where the picture has {psnr:g} dB"),
            ("human", lambda axes: _draw_human(axes, report, accuracy),
             f"Picture where the detector has box AP {accuracy:g} or more"),
        ):  # fmt: skip
            figure = Figure(figsize=(6.4, 5.2), layout="constrained")
            axes = figure.subplots()
            draw(axes)
            axes.set_title(title, fontsize=11)
            if axes.get_legend_handles_labels()[0]:
                figure.legend(fontsize=8, loc="outside lower center", ncols=2)
            for form in formats:
                figure.savefig(out / f"classes_{name}.{form}", dpi=150, metadata=NO_DATES[form])


def _draw_machine(axes, report: Report, psnr: float) -> None:
    points = defaultdict(list)
    for point in at_quality(report, "psnr", psnr):
        points[point.codec].append((point.bpp, point.accuracy))
    for codec, rates in points.items():  # the machine rates of one codec are joined
        axes.plot(*zip(*sorted(rates)), label=_label(codec, codec), **_style(codec))
    axes.set_ylabel("box AP@[.5:.95] (%)")
    bits_axis(axes)


def _draw_human(axes, report: Report, accuracy: float) -> None:
    for curve in report.human_vision.curves:
        codec = _codec_of(report, curve.run)
        points = [p for p in curve.points if p.accuracy is not None and p.accuracy >= accuracy]
        if not points or codec not in CLASSES:
            continue
        values = [point.values["psnr"] for point in points]
        rates = [point.bpp for point in points]
        axes.plot(rates, values, label=_label(curve.name, codec), **_style(codec))
    axes.set_ylabel("PSNR (dB)")
    bits_axis(axes)


def _label(name: str, codec: str) -> str:
    coding_class, family, _ = CLASSES[codec]
    return legend_label(f"{name}: {coding_class}, {family}")


def _style(codec: str) -> dict[str, Any]:
    """A colour and marker of its own within a family, hollow where a picture is a network's."""
    family = CLASSES[codec][1]
    number = [name for name, known in CLASSES.items() if known[1] == family].index(codec)
    colour, marker, line = STYLES[number]
    face = "white" if family == LEARNED else colour
    return {"color": colour, "marker": marker, "linestyle": line, "markerfacecolor": face}


def _row(human: Report, machine: Report | None, curve: HumanCurve, anchor: HumanCurve) -> dict:
    run = _run(human, curve.run)
    coding_class, family, side = CLASSES[run.result.codec]
    same = curve.name == anchor.name
    row: dict[str, Any] = {"curve": curve.name, "class": coding_class, "family": family}
    row["machine"] = None if machine is None else _machine_side(machine, side, anchor.run)
    for key in MEASURES:
        rates = curve.rates(key) if curve.measured(key) else []
        comparable = rates and anchor.rates(key) and not same
        row[key] = bd_rate(anchor.rates(key), rates).percent if comparable else None
    shares = [
        equal.break_even_share
        for equal in human.human_vision.equal
        if (equal.test, equal.anchor, equal.metric) == (curve.name, anchor.name, "psnr")
        and equal.break_even_share is not None
    ]
    row["break_even"] = _shown_shares(shares)
    return row | _costs(run, curve)


def _shown_shares(shares: list[float]) -> tuple[float, float] | str | None:
    """Break-even shares over a range of qualities, as far as they are shares."""
    if not shares:
        return None
    if max(shares) <= 0.0:
        return "never"
    return "always" if min(shares) >= 1.0 else (max(min(shares), 0.0), min(max(shares), 1.0))


def _costs(run: Run, curve: HumanCurve) -> dict[str, Any]:
    timings = run.timings
    cost = timings and timings.complexity
    stages = (timings.points if timings else {}).get(curve.points[-1].rate_point, {})
    found: dict[str, Any] = {
        "parameters": cost and cost.parameters,
        "encode_kmac": cost and cost.encode_kmac,
        "decode_kmac": cost and cost.decode_kmac,
    }
    for name in ("encode", "decode"):
        found[f"{name}_seconds"] = stages[name].median if name in stages else None
    return found


def _machine_side(machine: Report, codec: str, anchor: str) -> float | str | None:
    """BD-rate in box AP of the machine's curve: the percentage, or why there is none."""
    names = {run.result.codec: run.name for run in machine.runs}
    for comparison in machine.comparisons:
        if (comparison.test, comparison.anchor, comparison.metric) == (
            names.get(codec), anchor, "box_ap",
        ):  # fmt: skip
            raw: BdRate = comparison.raw
            return raw.reason if raw.percent is None else raw.percent
    return None


def _run(report: Report, name: str) -> Run:
    return next(run for run in report.runs if run.name == name)


def _codec_of(report: Report, name: str) -> str:
    return _run(report, name).result.codec
