# SPDX-License-Identifier: BSD-3-Clause
"""Is YAML read as it really comes, and every file that is no configuration refused in one line?"""

import time

import pytest

from vcm_plugin.errors import InputError
from vcm_plugin.settings import read_yaml


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "file"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_read(tmp_path, encoding):
    path = written(tmp_path, "a: ö\n", encoding)
    assert read_yaml(path, "test condition") == {"a": "ö"}


YAML_FAULTS = {
    "a key twice": ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' stands twice"),
    "a key twice, deep": ("a:\n- {b: 1, b: 1}\n", "line 2: the key 'b' stands twice"),
    "a key of two spellings": ("1: a\n0x1: b\n", "the key 1 stands twice"),
    "tags that run code": ("a: !!python/object/apply:os.system [ls]", "could not determine"),
    "an open list": ("a: [1", "not a readable test condition"),
    "no date": ("a: 2024-13-77", "month must be"),
    "a list as key": ("? [1]\n: 2\n", "unhashable"),
    "a control character": ("a: \x07", "not allowed"),
    "lists in lists": ("[" * 100_000, "nested too deeply"),
    "a list in itself": ("b: &a [*a]", "over 100000 values"),
}


@pytest.mark.parametrize("case", YAML_FAULTS)
def test_yaml_that_is_refused(tmp_path, case):
    text, message = YAML_FAULTS[case]
    with pytest.raises(InputError, match=f"file: .*{message}") as caught:
        read_yaml(written(tmp_path, text), "test condition")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_yaml_that_unfolds_without_end_is_refused_soon(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    started = time.perf_counter()
    with pytest.raises(InputError, match="over 100000 values"):
        read_yaml(written(tmp_path, "\n".join(lines)), "test condition")
    assert time.perf_counter() - started < 5


def test_merged_keys_of_yaml_may_be_overridden(tmp_path):
    text = "base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\n"
    assert read_yaml(written(tmp_path, text), "test condition")["more"] == {"a": 1, "b": 3}
