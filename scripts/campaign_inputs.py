#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Does any annotation file, condition, seqinfo.ini, checkpoint or package crash or hang a reader?

Hypothesis makes sound inputs and changes nothing, one or two things in them. Each must be read, or
be refused by an InputError of one line, within SECONDS of processor time. Annotations that are read
are evaluated by pycocotools too: none may hang it.
"""

from __future__ import annotations

import argparse
import collections
import copy
import json
import math
import pickle
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from vcm_plugin.crosscheck.archive import unpack
from vcm_plugin.crosscheck.package import ALLOWED
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.errors import InputError
from vcm_plugin.metrics.coco_ap import evaluate
from vcm_plugin.split.checkpoint import read_checkpoint
from vcm_plugin.testsets.annotations import read_annotations
from vcm_plugin.testsets.sequences import read_seqinfo

SECONDS = 2.0  # of processor time, of one input
HEIGHT, WIDTH = 9, 12
CTC = Path(__file__).parents[1] / "cfg" / "ctc"
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just([]),
    st.just({}), st.lists(st.integers(), max_size=3), st.just(10**400), st.just(2**63),
)  # fmt: skip


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in a tree of objects and lists."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def as_float(value: float) -> float:
    return float(value) if abs(value) < 1e300 else math.inf


def near(value: Any) -> st.SearchStrategy:
    """Values of the kind that is there, and some that are like it only to the eye."""
    if isinstance(value, bool) or value is None:
        return st.sampled_from([True, False, None, 0, 1, "true"])
    if isinstance(value, (int, float)):
        return st.one_of(
            st.sampled_from(
                [0, -value, value + 1, value * 2, as_float(value), str(value), -1, 1e9]
            ),
            st.integers(-3, 70), st.floats(-3, 15),
        )  # fmt: skip
    if isinstance(value, str):
        return st.one_of(
            st.sampled_from([value.upper(), f" {value}", f"{value}\0", f"../{value}", value[:-1]]),
            st.text(max_size=9),
        )
    return ODD


@st.composite
def damaged(draw: st.DrawFn, documents: st.SearchStrategy) -> Any:
    """A sound document in which nothing, one or two things are changed, lost or doubled."""
    tree = copy.deepcopy(draw(documents))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
        found = list(places(tree))
        if not found:
            break
        container, key = found[draw(st.integers(0, len(found) - 1))]
        kind = draw(st.integers(0, 7))
        if kind < 3:
            container[key] = draw(near(container[key]))
        elif kind == 3:
            container[key] = draw(ODD)
        elif kind == 4:
            del container[key]
        elif isinstance(container, list):
            container.insert(
                key, copy.deepcopy(container[draw(st.integers(0, len(container) - 1))])
            )
        elif kind == 5:
            container[str(key)[:-1]] = container.pop(key)
        else:
            container[f"{key}s"] = draw(ODD)
    return tree


def coded_runs() -> list[str]:
    """Compressed runs of some masks, as pycocotools writes them."""
    planes = np.zeros((4, HEIGHT, WIDTH), np.uint8)
    planes[1, 2:7, 3:11], planes[2, :, ::2], planes[3] = 1, 1, 1
    return [coco_mask.encode(np.asfortranarray(plane))["counts"].decode() for plane in planes]


CORNERS = st.tuples(st.integers(0, WIDTH), st.floats(0, HEIGHT)).map(list)
POLYGONS = st.lists(CORNERS, min_size=3, max_size=6).map(lambda corners: sum(corners, []))
BOXES = st.tuples(
    st.integers(0, WIDTH - 2), st.integers(0, HEIGHT - 2), st.integers(1, 9), st.floats(0.5, 9)
)
RUNS = st.integers(0, HEIGHT * WIDTH).flatmap(
    lambda first: st.integers(0, HEIGHT * WIDTH - first).map(
        lambda second: [first, second, HEIGHT * WIDTH - first - second]
    )
)
MASKS = st.one_of(
    st.lists(POLYGONS, min_size=1, max_size=2),
    st.fixed_dictionaries({"size": st.just([HEIGHT, WIDTH]), "counts": RUNS}),
    st.fixed_dictionaries(
        {"size": st.just([HEIGHT, WIDTH]), "counts": st.sampled_from(coded_runs())}
    ),
)


@st.composite
def annotations(draw: st.DrawFn) -> dict:
    """Sound annotations of up to three pictures."""
    ids = draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=3, unique=True))
    images = [
        {"id": i, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH}
        for n, i in enumerate(ids)
    ]
    objects = [
        {
            "id": n, "image_id": draw(st.sampled_from(ids)), "category_id": 3,
            "bbox": list(draw(BOXES)), "area": draw(st.floats(0.5, 99)),
            "iscrowd": draw(st.sampled_from([0, 0, 0, 1])), "segmentation": draw(MASKS),
        }
        for n in range(1, draw(st.integers(1, 4)) + 1)
    ]  # fmt: skip
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}]
    return {"images": images, "annotations": objects, "categories": categories}


CONDITIONS = st.sampled_from([yaml.safe_load(path.read_text()) for path in sorted(CTC.iterdir())])
VALUES = ["30", "29.97", "30000/1001", "0", "-1", "5", "1e3", "nan", "1e999", "30/0", "9" * 20, "",
          " 60 ", "A_50%", "sixty", "5.5", "0x10"]  # fmt: skip
NAMES = ["name", "frameRate", "seqLength", "imWidth", "imHeight", "imExt", "imDir"]


@st.composite
def seqinfo(draw: st.DrawFn) -> bytes:
    """A seqinfo.ini in which up to two lines are changed, in one of the usual encodings."""
    length = draw(st.integers(1, 999))
    lines = ["[Sequence]", "name=BQSquare_416x240_60", "imDir=images", "frameRate=60",
             f"seqLength={length}", "imWidth=416", "imHeight=240", "imExt=.png"]  # fmt: skip
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        at, kind = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, 6))
        if kind < 3:
            lines[at] = f"{lines[at].partition('=')[0]}={draw(st.sampled_from(VALUES))}"
        elif kind == 3:
            del lines[at]
        elif kind == 4:
            lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
        elif kind == 5:
            lines.insert(at, draw(st.sampled_from(["; a remark", "# another", "", "[Other]"])))
        else:
            lines[at] = draw(st.text(max_size=20))
        lines = lines or [""]
    text = draw(st.sampled_from(["\n", "\r\n"])).join(lines)
    coding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return text.encode(coding, "replace" if coding == "latin-1" else "surrogatepass")


MEMBERS = ["manifest.json", "claims.json", "runs/a/run.json", "runs/a/result.json",
           "runs/a/condition.yaml", "runs/a/32/point.json", "runs/a/32/pictures.jsonl",
           "runs/a/32/bitstreams/1.fcm"]  # fmt: skip
FOREIGN = ["__MACOSX/x", "../x", "/x", "a.pkl", "p.zip", "runs/a/../../x", "runs/A/result.json",
           "CON", "a/", "runs/a/.DS_Store", "C:x", "runs/a/x\0.json", "Thumbs.db"]  # fmt: skip


@st.composite
def package(draw: st.DrawFn) -> tuple[list[tuple[str, bytes, int]], int]:
    """Members (name, bytes, mode) of a sound package, changed in two places; bytes cut off."""
    members = [(name, draw(st.binary(max_size=9)), 0o100644) for name in MEMBERS]
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        at, kind = draw(st.integers(0, len(members) - 1)), draw(st.integers(0, 6))
        name, data, mode = members[at]
        if kind == 0:
            members[at] = (name, data, draw(st.integers(0, 0xFFFF)))
        elif kind == 1:
            members[at] = (name, bytes(draw(st.sampled_from([0, 1 << 16, 1 << 21]))), mode)
        elif kind == 2:
            members.append((draw(st.sampled_from(FOREIGN)), data, mode))
        elif kind == 3:
            members = [(f"p/{n}", d, m) for n, d, m in members]
        elif kind == 4:
            members = [(n.replace("/", "\\"), d, m) for n, d, m in members]
        elif kind == 5 and len(members) > 1:
            del members[at]
        else:
            members.append((draw(st.text(min_size=1, max_size=9)), data, mode))
    return members, draw(st.sampled_from([0, 0, 0, 0, 1, 30, 300]))


@st.composite
def checkpoint(draw: st.DrawFn) -> dict:
    """Sound weights in the wrappers that trainers put around them."""
    prefix = draw(st.sampled_from(["", "module."]))
    arrays = (np.ones((2, 3), np.float32), np.zeros(4, np.float64), np.ones(1, np.float16))
    weights = {f"{prefix}w{number}": array for number, array in enumerate(arrays)}
    wrapper = draw(st.sampled_from([None, "model", "state_dict", "student", "teacher", "blobs"]))
    return {wrapper: weights, "iteration": 3} if wrapper else weights


def read_annotation_file(content, folder: Path) -> None:
    path = folder / "instances.json"
    path.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")
    coco = read_annotations(path).coco
    masks = all("segmentation" in item for item in coco["annotations"])
    if any(not item["iscrowd"] for item in coco["annotations"]):
        found = evaluate(coco, [], ["box", "mask"] if masks else ["box"])
        assert found["box_recall"] == 0.0


def read_condition_file(content, folder: Path) -> None:
    path = folder / "case.yaml"
    try:
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
    except (yaml.YAMLError, ValueError):  # what PyYAML itself cannot write
        return
    load_condition(path)


def read_seqinfo_file(content, folder: Path) -> None:
    path = folder / "seqinfo.ini"
    path.write_bytes(content)
    name, rate, count = read_seqinfo(path)
    assert name and rate[0] > 0 and rate[1] > 0 and count > 0


def read_package_file(content, folder: Path) -> None:
    path, (members, lost) = folder / "p.zip", content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, mode in members:
            member = zipfile.ZipInfo("placeholder")
            member.filename, member.external_attr = name, mode << 16
            try:
                archive.writestr(member, data)
            except (UnicodeEncodeError, ValueError):
                return
    path.write_bytes(path.read_bytes()[: path.stat().st_size - lost])
    with tempfile.TemporaryDirectory(dir=folder) as out:
        unpack(path, Path(out), ALLOWED, 1 << 20, 200)
        names = [p.relative_to(out).as_posix() for p in Path(out).rglob("*") if p.is_file()]
        assert all(re.fullmatch(ALLOWED, name) for name in names)
    assert sorted(item.name for item in folder.iterdir()) == ["p.zip"]


def read_checkpoint_file(content, folder: Path) -> None:
    path = folder / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    assert all(x.dtype.is_floating_point for x in read_checkpoint(path).weights.values())


KINDS: dict[str, tuple[st.SearchStrategy, Callable]] = {
    "annotations": (damaged(annotations()), read_annotation_file),
    "conditions": (damaged(CONDITIONS), read_condition_file),
    "seqinfo": (seqinfo(), read_seqinfo_file),
    "packages": (package(), read_package_file),
    "checkpoints": (damaged(checkpoint()), read_checkpoint_file),
}


def main() -> int:
    """Run the campaigns; the exit code is 1 where an input was found that breaks a reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=20_000, metavar="N", help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    broken = 0
    for kind in options.kinds:
        counts, started = collections.Counter(), time.process_time()
        try:
            campaign(kind, options.examples, options.seed, counts)
        except Exception as error:  # what the campaign looks for
            broken += 1
            print(f"{kind}: BROKEN by an input: {type(error).__name__}: {error}"[:2000])
        seconds = time.process_time() - started
        print(f"{kind}: seed {options.seed}, {sum(counts.values())} inputs: {counts['read']} read, "
              f"{counts['refused']} refused; {seconds:.0f} s", flush=True)  # fmt: skip
    return 1 if broken else 0


def campaign(kind: str, examples: int, number: int, counts: collections.Counter) -> None:
    strategy, read = KINDS[kind]

    @seed(number)
    @settings(max_examples=examples, database=None, deadline=None, print_blob=False,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def one(content) -> None:
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            try:
                read(content, Path(folder))
                counts["read"] += 1
            except InputError as error:
                counts["refused"] += 1
                message = str(error)
                assert "\n" not in message and len(message) < 1000, message
            assert time.process_time() - started < SECONDS, "too slow"

    one()


if __name__ == "__main__":
    sys.exit(main())
