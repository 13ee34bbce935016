# SPDX-License-Identifier: BSD-3-Clause
"""Do the examples in docstrings give what they say?"""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(
    path for folder in ("vcm_plugin", "anchors")
    for path in (ROOT / folder).rglob("*.py") if ">>>" in path.read_text(encoding="utf-8")
)  # fmt: skip


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_run(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    result = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert result.attempted > 0 and result.failed == 0
