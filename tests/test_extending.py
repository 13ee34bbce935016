# SPDX-License-Identifier: BSD-3-Clause
"""Do the examples of docs/extending.md work as they stand there?"""

import csv
import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from vcm_plugin import conditions
from vcm_plugin.ctc import codecs
from vcm_plugin.ctc.codecs import codec_rate_points, integer_qp, load_condition
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.metrics import accuracy
from vcm_plugin.report.titles import METRICS, Metric
from vcm_plugin.testsets import minictc

PAGE = Path(__file__).parents[1] / "docs/extending.md"
FILE = re.compile(
    r"^```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Every file of the page in a folder from which Python imports."""
    found = dict(FILE.findall(PAGE.read_text(encoding="utf-8")))
    for name, text in found.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in found:
        sys.modules.pop(Path(name).stem, None)


@pytest.fixture
def condition(files, monkeypatch, own_cache):
    """The test set of the page, of two drawn pictures, and both codecs by name."""
    drawn = json.loads(minictc.generate("test", files / "drawn", count=2).read_text())
    (files / "drawn" / "images").rename(files / "pictures")
    names = {c["id"]: c["name"] for c in drawn["categories"]}
    pictures = {image["id"]: image["file_name"] for image in drawn["images"]}
    with open(files / "boxes.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "class", "x", "y", "width", "height"))
        for a in drawn["annotations"]:
            rows.writerow((pictures[a["image_id"]], names[a["category_id"]], *a["bbox"]))
    convert = importlib.import_module("boxes_to_coco").convert
    convert(files / "boxes.csv", files / "pictures", files / "instances.json")
    deflated, jpeg = (importlib.import_module(name) for name in ("deflated_features", "jpeg"))
    monkeypatch.setitem(codecs.CODECS, "deflated_features", deflated.DeflatedSettings)
    monkeypatch.setitem(codecs.CODECS, "jpeg", jpeg.JpegSettings)
    return load_condition(files / "shapes.yaml")


def test_the_page_has_its_five_files(files):
    assert {path.name for path in files.iterdir()} == {
        "deflated_features.py", "jpeg.py", "boxes_to_coco.py", "shapes.yaml", "centre_recall.py",
    }  # fmt: skip


def test_the_codec(condition, tmp_path):
    result = run(condition, "deflated_features", tmp_path / "run", RunOptions())
    fine, coarse = result.points
    assert fine.bits > coarse.bits > 0
    # Steps of 1/4 in features that span some 40 cost next to nothing in accuracy.
    assert abs(fine.accuracy["box_ap"] - result.uncompressed.accuracy["box_ap"]) < 2
    codec = codecs.make_codec("deflated_features", condition)
    (path, *_) = sorted((tmp_path / "run" / "1" / "bitstreams").iterdir())
    with pytest.raises(BitstreamError, match="the file is damaged"):
        codec.decode(path.read_bytes()[:-9])


def test_the_anchor(condition, tmp_path):
    result = run(condition, "jpeg", tmp_path / "run", RunOptions())
    bits = [point.bits for point in result.points]
    assert bits == sorted(bits) and len(bits) == 4
    integers = [integer_qp("jpeg", point) for point in codec_rate_points("jpeg", condition)]
    assert integers == sorted(integers, reverse=True)
    codec = codecs.make_codec("jpeg", condition)
    with pytest.raises(BitstreamError, match="JPEG"):
        codec.decode(b"no picture")
    with pytest.raises(InputError, match="expected a JPEG quality from 1 to 95"):
        codecs.codec_rate_points("jpeg", codecs.override(condition, {"jpeg_qualities": (99,)}))


def test_the_metric(condition, files, monkeypatch):
    recall = importlib.import_module("centre_recall").centre_recall
    monkeypatch.setitem(accuracy.PROTOCOLS, "centre", recall)
    monkeypatch.setitem(conditions.TASKS, "centre", ("box",))
    monkeypatch.setitem(
        METRICS, "centre_recall", Metric("centre_recall", "centre recall", "%", True, 2, "box")
    )
    path = files / "centre.yaml"
    path.write_text((files / "shapes.yaml").read_text() + "protocol: centre\n")
    result = run(load_condition(path), "jpeg", files / "run", RunOptions())
    values = [point.accuracy["centre_recall"] for point in result.points]
    assert 0 < values[0] <= 100 and result.uncompressed.accuracy["centre_recall"] > 50
