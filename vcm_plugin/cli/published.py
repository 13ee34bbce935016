# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin published` do? It lists what others have published, by class, task, set."""

from __future__ import annotations

from argparse import Namespace

from vcm_plugin.cli.options import command
from vcm_plugin.errors import InputError


def add(commands) -> None:
    """The parser of the command."""
    parser = command(
        commands, "published", "published human-machine codecs, by class, task and data set",
        "Lists rate points that others have published, each with its source; nobody ran them here. "
        "Only points of one data set and metric may stand beside each other.",
    )  # fmt: skip
    parser.add_argument(
        "--class", dest="coding_class", metavar="CLASS", help="MBID, MBHD, SBMD or SBAR"
    )
    parser.add_argument("--task", metavar="TASK", help="such as detection or segmentation")
    parser.add_argument("--data-set", metavar="NAME", help="such as 'COCO 2017'")
    parser.add_argument(
        "--methods", action="store_true", help="the survey's methods in place of rate points"
    )
    parser.set_defaults(body=body)


def body(options: Namespace) -> None:
    """List what others have published."""
    from rich.console import Console

    from vcm_plugin.report.survey import load_survey, methods_of, points_of

    if options.methods and options.data_set:
        raise InputError("--methods: the survey gives its methods no data set; leave out one")
    console = Console()
    if options.methods:
        methods = methods_of(options.coding_class, options.task)
        console.print(_methods(methods))
        print(f"{len(methods)} methods; source: {load_survey().source}")
        return
    points = points_of(options.coding_class, options.task, options.data_set)
    console.print(_points(points))
    print(f"{len(points)} points, published, not run here; sources:")
    for source in dict.fromkeys(point.source for point in points):
        print(f"  {source}")


def _points(points):
    table = _table(("codec", "class", "task", "data set", "bpp", "metric", "value"))
    for p in sorted(points, key=lambda p: (p.data_set, p.metric, p.codec, p.bpp or 0.0)):
        bpp = "-" if p.bpp is None else f"{p.bpp:g}"
        table.add_row(
            p.codec, p.coding_class or "-", p.task, p.data_set, bpp, p.metric, f"{p.value:g}"
        )
    return table


def _methods(methods):
    table = _table(("no.", "class", "year", "tasks", "core method", "title"))
    for m in methods:
        year = "-" if m.year is None else str(m.year)
        row = (year, ", ".join(m.tasks), m.core_method, m.title or "-")
        table.add_row(str(m.reference), m.coding_class, *row)
    return table


def _table(columns):
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
