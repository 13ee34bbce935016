# SPDX-License-Identifier: BSD-3-Clause
"""Do warnings of other packages, which no user can act on, stay away from users?"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("vcm_plugin", "anchors")
    for path in (ROOT / package).rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py") and "hydra_plugins" not in path.parts
)


def ran(*words, **environment) -> subprocess.CompletedProcess:
    """A command that a user types: without the warnings that the tests ask for."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True,
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


def test_no_module_warns_of_the_future_when_it_is_imported():
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error:\n"  # Detectron2 and the harness
        "        assert error.name.split('.')[0] in ('detectron2', 'compressai_vision'), error\n"
    )
    done = ran("-W", "error::FutureWarning", "-c", code, *MODULES)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_shows_no_warning(tiny_condition, shared_cache, tmp_path, jobs):
    command = ["-m", "vcm_plugin.cli", "run", tiny_condition, "--codec", "diff_fchm"]
    done = ran(*command, "--jobs", jobs, "-o", tmp_path / "run", VCM_CACHE=str(shared_cache))
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
