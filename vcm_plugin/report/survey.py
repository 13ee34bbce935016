# SPDX-License-Identifier: BSD-3-Clause
"""What has been published of human-machine codecs, by class, task and data set?

The survey's methods and points (anchors/reference/survey/tables.json) and the rate points of
published.py as rows of one kind. None of them was run here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vcm_plugin.errors import InputError
from vcm_plugin.report.published import FOLDER, load_references, read_published
from vcm_plugin.report.titles import task_of, title_of

FORMAT, VERSION = "vcm-plugin survey", 1
TABLES = FOLDER / "survey" / "tables.json"
CLASSES = ("MBID", "MBHD", "SBMD", "SBAR")
TASKS = {"box": "detection", "mask": "segmentation"}  # ours -> the survey's
ALTOGETHER = "picture"  # the task of measures of a picture


@dataclass(frozen=True)
class PublishedPoint:
    """One published value.

    coding_class: of the survey, None where no survey gives it one. bpp: None where none is stated.
    value: as stated, so mostly a fraction in the survey, percent elsewhere.
    """

    codec: str
    coding_class: str | None
    task: str
    data_set: str
    bpp: float | None
    metric: str
    value: float
    source: str


@dataclass(frozen=True)
class Method:
    """A method of the survey's Tables 1 and 2; title and year None where it states none."""

    reference: int
    coding_class: str
    video: bool
    tasks: tuple[str, ...]
    core_method: str
    title: str | None
    year: int | None


@dataclass(frozen=True)
class Survey:
    """The survey's tables. our_data_sets: its names -> that of a result of ours."""

    source: str
    our_data_sets: dict[str, str]
    our_tasks: dict[str, str]
    methods: tuple[Method, ...]
    points: tuple[PublishedPoint, ...]


@cache
def load_survey(path: Path = TABLES) -> Survey:
    """The survey's tables; raises InputError for a file that holds none."""
    stored = read_published(path, FORMAT, VERSION)
    source = stored["source"]
    points = tuple(
        PublishedPoint(
            f"{p['method']} [{p['reference']}]", p["class"], p["task"], p["data_set"], p["bpp"],
            p["metric"], p["value"], f"Table {p['table']} of {source}",
        )
        for p in stored["points"]
    )  # fmt: skip
    methods = tuple(
        Method(m["reference"], m["class"], m["video"], tuple(m["tasks"]), m["core_method"],
               m["title"], m["year"])
        for m in stored["methods"]
    )  # fmt: skip
    return Survey(source, stored["our_data_sets"], stored["our_tasks"], methods, points)


def surveyed_for(dataset: str, tasks: Collection[str]) -> tuple[PublishedPoint, ...]:
    """The survey's points of exactly this test set of ours and of tasks (box, mask) measured on it.

    >>> surveyed_for("mini-CTC test", ["box", "mask"])
    ()
    """
    survey = load_survey()
    return tuple(
        point
        for point in survey.points
        if survey.our_data_sets.get(point.data_set) == dataset
        and survey.our_tasks.get(point.metric) in tasks
    )


def all_points() -> list[PublishedPoint]:
    """Every published point: those of the survey, then those of published.py."""
    others = [
        PublishedPoint(
            reference.codec, None, TASKS.get(task_of(metric), ALTOGETHER), reference.dataset,
            point.bpp, title_of(metric), value, reference.source,
        )
        for reference in load_references()
        for point in reference.points
        for metric, value in point.accuracy.items()
    ]  # fmt: skip
    return [*load_survey().points, *others]


def points_of(
    coding_class: str | None = None, task: str | None = None, data_set: str | None = None
) -> list[PublishedPoint]:
    """The points that agree with what is given; case and punctuation do not count.

    Raises InputError where none agrees, naming what comes nearest.

    >>> [point.value for point in points_of("sbmd", "detection", "coco-2017")]
    [0.39]
    """
    points = all_points()
    given = {"class": coding_class, "task": task, "data set": data_set}
    keys = {"class": "coding_class", "task": "task", "data set": "data_set"}
    taken: list[str] = []
    for what, wanted in given.items():
        if wanted is not None:
            known = [getattr(point, keys[what]) for point in points]
            _require(what, wanted, [name for name in known if name], CLASSES, taken)
            points = [p for p in points if _same(getattr(p, keys[what]), wanted)]
            taken.append(f"{what} {wanted}")
    return points


def methods_of(coding_class: str | None = None, task: str | None = None) -> list[Method]:
    """The survey's methods of a class, and with a task whose name holds these words.

    Raises InputError where none agrees, naming what comes nearest.
    """
    methods = list(load_survey().methods)
    if coding_class is not None:
        _require("class", coding_class, [m.coding_class for m in methods], CLASSES)
        methods = [m for m in methods if _same(m.coding_class, coding_class)]
    if task is not None:
        known = sorted({name for m in methods for name in m.tasks})
        found = [m for m in methods if any(_plain(task) in _plain(name) for name in m.tasks)]
        if not found:
            which = "no method" if coding_class is None else f"no method of class {coding_class}"
            raise InputError(f"task {task}: {which} has it; nearest: {_nearest(task, known)}")
        methods = found
    return methods


def _require(
    what: str, wanted: str, known: Sequence[str], classes: Sequence[str], taken: Sequence[str] = ()
) -> None:
    """Raise InputError unless one of the known names is the one that is wanted; taken: what they
    are known of, in words."""
    if any(_same(name, wanted) for name in known):
        return
    if what == "class" and not any(_same(name, wanted) for name in classes):
        raise InputError(f"class {wanted}: expected one of {', '.join(classes)}")
    nearest = _nearest(wanted, dict.fromkeys(known))
    of = f" together with {' and '.join(taken)}" if taken else ""
    raise InputError(f"{what} {wanted}: nothing published matches it{of}; nearest{of}: {nearest}")


def _nearest(wanted: str, known: Iterable[str]) -> str:
    by_plain = {_plain(name): name for name in known}
    found = difflib.get_close_matches(_plain(wanted), list(by_plain), n=3, cutoff=0.0)
    return ", ".join(by_plain[name] for name in found) or "none"


def _same(name: str | None, wanted: str) -> bool:
    return name is not None and _plain(name) == _plain(wanted)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
