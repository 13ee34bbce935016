# SPDX-License-Identifier: BSD-3-Clause
"""Is a codec one file and one line? Its keys, its rate points, its kind, its errors."""

import ast
import sys
from pathlib import Path

import pytest
from changed import changed

from vcm_plugin import rate_points
from vcm_plugin.cli.options import CODECS as CODECS_IN_HELP
from vcm_plugin.ctc import codecs
from vcm_plugin.ctc.codecs import codec_rate_points, integer_qp, load_condition, make_codec
from vcm_plugin.ctc.coding import KINDS
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.errors import InputError

ROOT = Path(__file__).parents[2]
# A whole anchor: features as 8-bit samples, deflated. Written to a file of its own by the test.
TOY = '''
import zlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vcm_plugin.rate_points import QP, Grammar, parse_qp


@dataclass(frozen=True)
class ToySettings:
    """What a test condition says of toy."""

    name: ClassVar[str] = "toy"
    kind: ClassVar[str] = "picture"
    grammar: ClassVar[Grammar] = QP
    points_key: ClassVar[str] = "toy_qps"

    toy_qps: tuple[int, ...] = ()
    toy_level: int = 9

    def make(self, context):
        return ToyCodec(self.toy_level)


@dataclass(frozen=True)
class ToyCodec:
    """Picture codec toy: samples divided by a step, deflated."""

    level: int
    name: ClassVar[str] = "toy"
    kind: ClassVar[str] = "picture"

    def identity(self):
        return {"codec": "toy", "level": self.level}

    def encode(self, picture, rate_point):
        step = 1 + parse_qp(rate_point)
        head = bytes([step]) + np.array(picture.shape[:2], ">u2").tobytes()
        return head + zlib.compress((picture // step).tobytes(), self.level)

    def decode(self, data):
        height, width = np.frombuffer(data[1:5], ">u2")
        samples = np.frombuffer(zlib.decompress(data[5:]), np.uint8)
        return samples.reshape(height, width, 3) * np.uint8(data[0])
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The anchor in its file and its line in CODECS."""
    (tmp_path / "toy_anchor.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    import toy_anchor

    monkeypatch.setitem(codecs.CODECS, "toy", toy_anchor.ToySettings)
    yield
    sys.modules.pop("toy_anchor")


def test_an_anchor_is_one_file_one_line_and_its_keys(toy, tiny_condition, own_cache, tmp_path):
    path = tiny_condition.with_name("toy.yaml")
    path.write_text(tiny_condition.read_text() + "toy_qps: [4, 30]\ntoy_level: 6\n")
    result = run(load_condition(path), "toy", tmp_path / "run", RunOptions())
    assert result.codec_identity == {"kind": "picture", "codec": "toy", "level": 6}
    assert [point.rate_point for point in result.points] == ["4", "30"]
    fine, coarse = (point.bits for point in result.points)
    assert fine > coarse > 0
    assert integer_qp("toy", "30") == 30
    path.write_text(path.read_text().replace("toy_level", "toy_lvel"))
    with pytest.raises(InputError, match="unknown key toy_lvel; did you mean toy_level"):
        load_condition(path)


def test_settings_and_codecs_agree(tiny_condition):
    condition = load_condition(tiny_condition)
    for name in ("diff_fchm", "vvc_feature", "vvc_remote", "simulcast"):
        known, codec = codecs.CODECS[name], make_codec(name, condition)
        assert (codec.name, codec.kind) == (known.name, known.kind) == (name, known.kind)


def test_the_help_names_every_codec():
    assert CODECS_IN_HELP.split(", ") == list(codecs.CODECS)


def test_no_key_has_two_meanings():
    seen = {}
    for known in codecs.CODECS.values():
        for key, kind in codecs.settings.types_of(known).items():
            assert seen.setdefault(key, kind) == kind


@pytest.mark.parametrize(
    "name, key, values, message",
    (
        ("vvc_feature", "vvc_feature_qps", (22, 99), "vvc_feature_qps: expected a QP from 0 to 63"),
        ("vvc_feature", "vvc_feature_qps", (22, 22), "expected each value once, found 22 2 times"),
        ("diff_fchm", "diff_fchm_scales", (0.01,), "expected a scale s between"),
        ("simulcast", "simulcast_points", ("1.4",), r"expected a rate point MACHINE\+HUMAN"),
        ("simulcast", "simulcast_points", ("1.4+32@33",), "QP@percent with one of"),
    ),
)
def test_rate_points_are_checked_before_anything_runs(tiny_condition, name, key, values, message):
    condition = changed(load_condition(tiny_condition), **{key: values})
    with pytest.raises(InputError, match=message) as caught:
        codec_rate_points(name, condition)
    assert "\n" not in str(caught.value)


def test_every_bundled_condition_has_rate_points_that_its_codecs_take():
    for path in sorted((ROOT / "cfg/ctc").glob("*.yaml")):
        condition = load_condition(path)
        for name, known in codecs.CODECS.items():
            if condition.value(known.points_key):
                points = codec_rate_points(name, condition)
                integers = [integer_qp(name, point) for point in points]
                assert len(set(points)) == len(points) and all(0 <= n <= 63 for n in integers)


def test_an_unknown_codec_names_those_that_there_are(tiny_condition):
    with pytest.raises(InputError, match="codec vvc: expected one of diff_fchm, vvc_feature"):
        make_codec("vvc", load_condition(tiny_condition))


# --- seams ----------------------------------------------------------------------------------


def sources():
    for folder in ("vcm_plugin", "anchors", "scripts"):
        yield from (ROOT / folder).rglob("*.py")


def test_only_one_module_takes_rate_points_apart():
    """No other module partitions at "@" or "+", or asks whether they are in a text."""
    odd = []
    for path in sources():
        if path == Path(rate_points.__file__) or path.parent.name == "split":
            continue  # versions of packages have a "+", too
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                given = [a.value for a in node.args if isinstance(a, ast.Constant)]
                if node.func.attr in ("partition", "split", "rpartition") and {"@", "+"} & set(
                    value for value in given if isinstance(value, str)
                ):
                    odd.append(f"{path.relative_to(ROOT)}:{node.lineno}")
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant):
                if node.left.value in ("@", "+"):
                    odd.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not odd


def test_only_coding_looks_at_the_kind_of_a_codec():
    """Comparisons with the name of a kind outside ctc/coding.py: at most 8 lines."""
    odd = set()
    for path in sources():
        if path.name == "coding.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                both = [node.left, *node.comparators]
                texts = {x.value for x in both if isinstance(x, ast.Constant)}
                if texts & set(KINDS) and any("kind" in ast.unparse(x) for x in both):
                    odd.add(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert len(odd) <= 8, odd
