# SPDX-License-Identifier: BSD-3-Clause
"""Do kept runs stand side by side by class and family, with what each of them costs?"""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vcm_plugin.report.classes import (
    CLASSES,
    LEARNED,
    VVC,
    _shown_shares,
    accuracy_at,
    class_table,
    class_tables,
    write_class_plots,
)
from vcm_plugin.report.human_vision import HumanCurve, HumanPoint
from vcm_plugin.report.tables import build_report
from vcm_plugin.report.views import all_tables

ROOT = Path(__file__).parents[2]


def curve(points, machine=""):
    made = [HumanPoint(str(k), bpp, None, ap, {"psnr": v}) for k, (bpp, ap, v) in enumerate(points)]
    return HumanCurve("a", "a", machine, tuple(made))


def test_one_picture_for_both_has_the_accuracy_of_its_rate():
    one = curve([(0.1, 40.0, 25.0), (0.4, 60.0, 29.0)])
    assert accuracy_at(one, 0.2) == pytest.approx(50.0)
    layers = curve([(0.1, 55.0, 25.0), (0.4, 55.0, 29.0)], "1.4")
    assert accuracy_at(layers, 0.3) == pytest.approx(55.0)
    assert accuracy_at(curve([(0.1, None, 25.0)]), 0.1) is None


def test_every_class_of_a_codec_is_of_the_survey():
    assert {found[0] for found in CLASSES.values()} <= {"MBID", "MBHD", "SBMD", "SBAR"}
    assert {found[1] for found in CLASSES.values()} == {VVC, LEARNED}


def test_the_table_holds_every_machine_rate_and_its_costs(human_runs, tmp_path):
    _, folder = human_runs
    runs = [folder / name for name in ("diff_fchm_human", "simulcast", "vvc_remote")]
    report = build_report(runs, ["vvc_remote"])
    table = class_table(report, None, "vvc_remote")
    rows = {row["curve"]: row for row in table.rows}
    assert {name: row["class"] for name, row in rows.items()} == {
        "diff_fchm_human 1": "MBHD", "simulcast 1": "MBID", "vvc_remote": "SBAR",
    }  # fmt: skip
    assert rows["diff_fchm_human 1"]["parameters"] > 0
    assert rows["vvc_remote"]["parameters"] is None
    assert all(row["encode_seconds"] > 0 for row in rows.values())
    assert table.title in {shown.title for shown in all_tables(report)}
    assert class_tables(build_report(runs[1:2], [])) == []  # one class is no comparison
    write_class_plots(report, tmp_path, ["png"], psnr=20.0, accuracy=0.0)
    for name in ("classes_machine.png", "classes_human.png"):
        assert (tmp_path / name).stat().st_size > 5000


def test_the_script_writes_its_table_and_names_a_missing_anchor(human_runs, tmp_path):
    _, folder = human_runs
    script = [sys.executable, str(ROOT / "scripts/bench_classes.py")]
    runs = [str(folder / name) for name in ("simulcast", "vvc_remote")]
    done = subprocess.run([*script, *runs, "-o", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "classes.csv").open() as file:
        assert [row["curve"] for row in csv.DictReader(file)] == ["simulcast 1", "vvc_remote"]
    refused = subprocess.run(
        [*script, *runs, "--anchor", "simulcast", "-o", str(tmp_path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert refused.returncode == 2 and "expected a run of one picture for both" in refused.stderr


def test_rates_are_interpolated_over_their_logarithm():
    one = curve([(0.1, 40.0, 25.0), (0.2, 45.0, 27.0), (0.8, 60.0, 29.0)])
    for bpp in (0.15, 0.4):
        logs = np.log([0.1, 0.2, 0.8])
        assert accuracy_at(one, bpp) == pytest.approx(np.interp(np.log(bpp), logs, [40, 45, 60]))


@pytest.mark.parametrize(
    "shares, shown",
    [([], None), ([-7.9, -0.2], "never"), ([1.2, 3.0], "always"),
     ([-0.5, 0.4], (0.0, 0.4)), ([0.3, 1.7], (0.3, 1.0))],
)  # fmt: skip
def test_break_even_shares_are_shares(shares, shown):
    assert _shown_shares(shares) == shown
