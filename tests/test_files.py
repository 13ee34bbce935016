# SPDX-License-Identifier: BSD-3-Clause
"""Are text, JSON and YAML read as they really come, and files written whole or not at all?"""

import time

import pytest

from vcm_plugin.errors import InputError, brief
from vcm_plugin.files import read_json, read_yaml, write_bytes


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "file"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_read_alike(tmp_path, encoding):
    assert read_json(written(tmp_path, '{"a": "ö"}', encoding)) == {"a": "ö"}
    assert read_yaml(written(tmp_path, "a: ö\n", encoding)) == {"a": "ö"}


YAML_FAULTS = {
    "a key twice": ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' stands twice"),
    "a key twice, deep": ("a:\n- {b: 1, b: 1}\n", "line 2: the key 'b' stands twice"),
    "a key of two spellings": ("1: a\n0x1: b\n", "the key 1 stands twice"),
    "tags that run code": ("a: !!python/object/apply:os.system [ls]", "could not determine"),
    "an open list": ("a: [1", "not readable YAML"),
    "no date": ("a: 2024-13-77", "month must be"),
    "a list as key": ("? [1]\n: 2\n", "unhashable"),
    "a control character": ("a: \x07", "not allowed"),
    "lists in lists": ("[" * 100_000, "lists in lists without end"),
    "a list in itself": ("&a [*a]", "over 100000 values"),
}


@pytest.mark.parametrize("case", YAML_FAULTS)
def test_yaml_that_is_refused(tmp_path, case):
    text, message = YAML_FAULTS[case]
    with pytest.raises(InputError, match=f"file: .*{message}") as caught:
        read_yaml(written(tmp_path, text))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_yaml_that_unfolds_without_end_is_refused_soon(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    started = time.perf_counter()
    with pytest.raises(InputError, match="over 100000 values"):
        read_yaml(written(tmp_path, "\n".join(lines)))
    assert time.perf_counter() - started < 5


def test_merged_keys_of_yaml_may_be_overridden(tmp_path):
    text = "base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\n"
    assert read_yaml(written(tmp_path, text))["more"] == {"a": 1, "b": 3}


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000, '{"a": "\x01"}'])
def test_json_that_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="file: not readable JSON") as caught:
        read_json(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_the_longest_names_that_the_file_system_takes_are_written(tmp_path):
    path = tmp_path / ("n" * 255)
    write_bytes(path, b"whole")
    assert path.read_bytes() == b"whole" and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_found_values_are_shown_briefly():
    values = [
        "x" * 10**6,
        [[1] * 9999] * 9999,
        {"a" * 99: {"b": [1] * 99}},
        10**6000,
        "1\n2\0",
        None,
    ]
    for value in values:
        assert len(brief(value)) <= 60 and brief(value).isprintable()
