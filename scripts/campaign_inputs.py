#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Does any annotation file, condition, seqinfo.ini, checkpoint or package crash or hang a reader?

Hypothesis makes inputs that are nearly sound. Each must be read, or be refused by an InputError of
one line, within SECONDS of processor time. Annotations that are read are evaluated by pycocotools
too, against detections that are the objects themselves: none may hang it or score nothing.
"""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from vcm_plugin.conditions import KEYS
from vcm_plugin.crosscheck.archive import unpack
from vcm_plugin.crosscheck.package import ALLOWED
from vcm_plugin.ctc.codecs import codec_keys, load_condition
from vcm_plugin.errors import InputError
from vcm_plugin.metrics.coco_ap import evaluate
from vcm_plugin.split.checkpoint import read_checkpoint
from vcm_plugin.testsets.annotations import read_annotations
from vcm_plugin.testsets.sequences import read_seqinfo

SECONDS = 2.0  # of processor time, of one input
HEIGHT, WIDTH = 9, 12
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just([]),
    st.just({}), st.lists(st.integers(), max_size=3), st.just(10**400), st.just(2**63),
)  # fmt: skip
NUMBERS = st.one_of(st.integers(-3, 15), st.floats(-3, 15), st.sampled_from([0, 1e9, -1e9, 24.5]))


def mostly(sound: st.SearchStrategy) -> st.SearchStrategy:
    """A sound value, or now and then an odd one."""
    return st.integers(0, 40).flatmap(lambda n: ODD if n == 40 else sound)


def some_keys(**values: st.SearchStrategy) -> st.SearchStrategy:
    """An object with these keys, some of which may be missing or odd."""
    lacking = st.fixed_dictionaries({}, optional=values)
    whole = st.fixed_dictionaries(values)
    return st.integers(0, 20).flatmap(lambda n: lacking if n == 20 else whole)


RUNS = st.one_of(
    st.lists(st.integers(-1, 120), max_size=6),
    st.just([0, HEIGHT * WIDTH]),
    st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12),
    st.just("0h3"), ODD,
)  # fmt: skip
MASKS = st.one_of(
    st.lists(st.lists(NUMBERS, max_size=9), max_size=2),
    st.just([[1, 1, 6, 1, 6, 6, 1, 6]]),
    some_keys(size=mostly(st.just([HEIGHT, WIDTH])), counts=RUNS),
)
ANNOTATIONS = some_keys(
    images=mostly(st.lists(some_keys(
        id=mostly(st.sampled_from([1, 2, 1.0, "a"])), file_name=mostly(st.text(max_size=5)),
        height=mostly(st.just(HEIGHT)), width=mostly(st.just(WIDTH)),
    ), max_size=2)),
    annotations=mostly(st.lists(some_keys(
        id=mostly(st.integers(0, 9)), image_id=mostly(st.sampled_from([1, 1.0, 2, "a"])),
        category_id=mostly(st.just(3)), bbox=mostly(st.lists(NUMBERS, min_size=4, max_size=4)),
        area=mostly(st.floats(0, 99)), iscrowd=mostly(st.sampled_from([0, 1, False, None])),
        segmentation=mostly(MASKS),
    ), max_size=3)),
    categories=mostly(st.just([{"id": 3, "name": "cat"}])),
)  # fmt: skip
CONDITIONS = st.fixed_dictionaries(
    {"name": mostly(st.just("case")), "model": mostly(st.just("minictc_mask_rcnn")),
     "class_names": mostly(st.just(["a", "b"])), "tasks": mostly(st.just(["box"]))},
    optional={
        key: st.one_of(ODD, st.integers(-2, 70), st.lists(st.integers(-2, 70), max_size=3))
        for key in sorted({*KEYS, *codec_keys()} - {"name", "model", "class_names", "tasks"})
    },
)  # fmt: skip
SEQINFO = st.lists(st.one_of(
    st.sampled_from(["[Sequence]", "name=A_50%", "frameRate=30", "seqLength=5", "frameRate=30/0",
                     "frameRate=nan", "frameRate=1e999", "seqLength=99999999999999999999"]),
    st.text(max_size=20),
), max_size=8).map("\n".join)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(["manifest.json", "runs/a/result.json", "runs/a/32/bitstreams/1.fcm",
                     "p/manifest.json", "p\\runs\\a\\run.json", "__MACOSX/x", "../x", "/x", "a.pkl",
                     "p.zip", "runs/a/../../x", "runs/A/result.json", "CON", "a/"]),
    st.text(min_size=1, max_size=9),
)  # fmt: skip
PACKAGES = st.lists(st.tuples(NAMES, st.binary(max_size=9), st.integers(0, 0xFFFF)), max_size=6)
CHECKPOINTS = st.recursive(
    st.one_of(ODD, st.just(np.ones((2, 3), np.float32)), st.just(np.array(["x"]))),
    lambda inner: st.dictionaries(
        st.sampled_from(["model", "state_dict", "module.w", "w", "student", "teacher", "blobs"]),
        inner, max_size=3,
    ),
    max_leaves=6,
)  # fmt: skip


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
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    name, rate, count = read_seqinfo(path)
    assert name and rate[0] > 0 and rate[1] > 0 and count > 0


def read_package_file(content, folder: Path) -> None:
    path = folder / "p.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data, mode in content:
            member = zipfile.ZipInfo("placeholder")
            member.filename, member.external_attr = name, mode << 16
            try:
                archive.writestr(member, data)
            except (UnicodeEncodeError, ValueError):
                return
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
    "annotations": (ANNOTATIONS, read_annotation_file),
    "conditions": (CONDITIONS, read_condition_file),
    "seqinfo": (SEQINFO, read_seqinfo_file),
    "packages": (PACKAGES, read_package_file),
    "checkpoints": (CHECKPOINTS, read_checkpoint_file),
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
