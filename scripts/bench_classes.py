#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The survey's classes of human-machine codecs side by side, from kept runs; it runs nothing.

    for c in diff_fchm_picture simulcast vvc_remote \\
            diff_fchm_learned simulcast_learned picture_learned; do
        vcm-plugin run minictc_human --codec $c -o runs/human/$c; done
    for c in diff_fchm vvc_remote picture_learned; do
        vcm-plugin run minictc --codec $c -o runs/machine/$c; done
    scripts/bench_classes.py runs/human/* --machine runs/machine/* -o runs/classes

Writes classes.csv, classes.md and two plots: machine accuracy against total bits at a stated PSNR,
and PSNR against total bits at a stated machine accuracy.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from vcm_plugin.errors import InputError
from vcm_plugin.report.classes import class_table, write_class_plots
from vcm_plugin.report.document import Document
from vcm_plugin.report.tables import build_report
from vcm_plugin.report.text_files import write_markdown


def main() -> int:
    """Read the runs and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="of a condition with human vision")
    parser.add_argument("--machine", nargs="+", type=Path, default=[], help="of its machine side")
    parser.add_argument("--anchor", default="vvc_remote", help="name of a run (%(default)s)")
    parser.add_argument("--psnr", type=float, default=27.0, metavar="DB")
    parser.add_argument("--accuracy", type=float, default=60.0, metavar="AP")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    try:
        human = build_report(options.runs, [options.anchor])
        machine = build_report(options.machine, [options.anchor]) if options.machine else None
        if all(c.run != options.anchor or c.machine for c in human.human_vision.curves):
            raise InputError(
                f"--anchor {options.anchor}: expected a run of one picture for both, with human "
                "vision, such as vvc_remote; run it on the same condition"
            )
        table = class_table(human, machine, options.anchor)
    except InputError as error:
        print(f"bench_classes: error: {error}", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "classes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([column.key for column in table.columns])
        writer.writerows([row.get(column.key) for column in table.columns] for row in table.rows)
    write_markdown(Document(table.title, (table,)), options.output / "classes.md")
    write_class_plots(human, options.output, ["png"], options.psnr, options.accuracy)
    print((options.output / "classes.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
