# SPDX-License-Identifier: BSD-3-Clause
"""The rows of final_<SET>.csv: ours, and those that the harness's own script makes of our files."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def script_rows(results: Path, data: Path, name: str, count: int = 4) -> list[dict[str, str]]:
    """The rows of final_<SET>.csv as the script of CompressAI-Vision makes it."""
    harness = pytest.importorskip("compressai_vision", reason="needs CompressAI-Vision")
    script = Path(harness.__file__).parents[1] / "scripts/metrics/gen_mpeg_cttc_csv.py"
    if not script.is_file():
        pytest.skip(f"CompressAI-Vision is installed without its scripts ({script.name})")
    path = results / f"final_{name}.csv"
    path.unlink()
    command = [sys.executable, script, "-r", results, "-dp", data, "-dn", name,
               "--nb_operation_points", str(count)]  # fmt: skip
    numpy = str(Path(np.__file__).parents[1])  # of this process: motmetrics 1.4 needs NumPy 1
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": numpy},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return rows_of(path)


def assert_same_rows(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs) and list(ours[0])[1:] == list(theirs[0])[1:]
    for a, b in zip(ours, theirs, strict=True):
        assert (a["Dataset"], a["qp"]) == (b["Dataset"], b["qp"])
        for key in list(a)[3:]:
            assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-9), (a["Dataset"], key)
