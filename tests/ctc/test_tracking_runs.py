# SPDX-License-Identifier: BSD-3-Clause
"""Tracking through the runner: every sequence through one file, MOTA per sequence and per class,
and the tables that MPEG receives, as the harness's own script makes them."""

import importlib.util
import shutil

import fctm_like_tiny
import numpy as np
import pytest
from drawn_tracking import draw_set, drawn_tracking_run
from table_script import assert_same_rows, rows_of, script_rows

from vcm_plugin.ctc.codecs import load_condition, override
from vcm_plugin.ctc.results import load_result
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.errors import InputError
from vcm_plugin.report import rd_table_text
from vcm_plugin.report.ctc_tables import write_ctc_tables
from vcm_plugin.report.viewer import ViewerOptions, viewer_data
from vcm_plugin.report.write import write_report
from vcm_plugin.split.jde import JdeDetector

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def tvd(tmp_path_factory, shared_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        return drawn_tracking_run(tmp_path_factory.mktemp("tvd"))


def test_a_run_states_mota_of_each_sequence_and_class(tvd):
    result = load_result(tvd)
    assert result.test.protocol == "tracking" and len(result.points) == 4
    assert set(result.uncompressed.accuracy) == {"mota", "idf1", "hota"}
    assert 50 < result.uncompressed.accuracy["mota"] < 100
    for point in result.points:
        assert list(point.sequences) == ["TVD-01", "TVD-02", "TVD-03"]
        assert point.classes["TVD"] == point.accuracy
        assert point.accuracy["mota"] < result.uncompressed.accuracy["mota"]
    assert result.points[0].bits > result.points[-1].bits


def test_the_tables_of_tvd(tvd, tmp_path):
    path = write_ctc_tables([tvd], tmp_path)
    assert path == tmp_path / "MPEGTVDTRACKING/final_TVD.csv"
    rows = rows_of(path)
    assert [row["Dataset"] for row in rows[::4]] == ["TVD-01", "TVD-02", "TVD-03", "TVD"]
    point = load_result(tvd).points[0]
    assert float(rows[0]["end_accuracy"]) == pytest.approx(point.sequences["TVD-01"]["mota"])
    assert float(rows[12]["end_accuracy"]) == pytest.approx(point.classes["TVD"]["mota"])
    first = tmp_path / "MPEGTVDTRACKING/mpeg-TVD-01"
    (summary,) = rows_of(next(first.glob("qp29/evaluation/summary.csv")))
    assert float(summary["end_accuracy"]) == pytest.approx(point.sequences["TVD-01"]["mota"] / 100)
    assert (first / "qp29/evaluation/mpeg-TVD-01_info_to_eval.h5").is_file()


def test_the_report_of_tracking_runs(tvd, tmp_path):
    again = shutil.copytree(tvd, tmp_path / "again")
    report = write_report([tvd, again], ["run"], tmp_path / "out", ["csv"])
    said = rd_table_text(report, width=200)
    assert "20 % of the resamples" not in said and "older version" not in said
    shown = viewer_data(report, ViewerOptions(3, data_root=tvd.parent, side=64))
    names = [picture["name"] for picture in shown["pictures"]]
    assert names == ["TVD-01/000001.png", "TVD-02/000003.png", "TVD-03/000006.png"]
    assert "Boxes of tracks" in shown["note"] and "score of at least" not in shown["note"]
    summary = rows_of(tmp_path / "out/summary_run.csv")
    points = load_result(tvd).points
    assert [row["Dataset"] for row in summary] == 4 * ["tvd_tracking-tracking"]
    assert [row["rate_point"] for row in summary] == [point.rate_point for point in points]
    found = [float(row["end_accuracy"]) for row in summary]
    assert found == [point.accuracy["mota"] for point in points]
    compared = rows_of(tmp_path / "out/bd_rate.csv")
    assert {row["metric"] for row in compared} == {"mota", "idf1", "hota"}
    assert all("no interval for tracks: frames of a" in row["interval_reason"] for row in compared)


def test_a_detector_without_a_tracker_is_refused(tmp_path):
    condition = draw_set(tmp_path, "tvd_tracking", 3)
    other = override(condition, {"model": "minictc_mask_rcnn", "weights": "minictc_mask_rcnn.pth"})
    names = load_condition("minictc").class_names
    other = override(other, {"class_names": names, "split_point": "fpn"})
    with pytest.raises(InputError, match="protocol tracking needs a JDE network, minictc_mask"):
        run(other, "vvc_feature", tmp_path / "run", RunOptions(data_root=tmp_path))


def test_weights_of_another_split_point_are_refused(tmp_path, monkeypatch):
    """Before NN-Part1 runs: it may take hours."""
    condition = draw_set(tmp_path, "tvd_tracking", 2)
    monkeypatch.setattr(JdeDetector, "nn_part1", lambda *_: pytest.fail("NN-Part1 ran"))
    condition = override(condition, {"split_point": "jde_hieve"})
    with pytest.raises(InputError, match="code the layers 36, 61, 74 .*found 105, 90, 75"):
        run(condition, "diff_fchm", tmp_path / "run", RunOptions(data_root=tmp_path))
    weights = fctm_like_tiny.tiny_weights(tmp_path / "fpn.safetensors")
    fpn = {"fctm_like_weights": str(weights), "fctm_like_qps": (32,), "fctm_like_preset": "faster"}
    with pytest.raises(InputError, match="fctm_like codes the split point fpn, found jde_hieve"):
        run(
            override(condition, fpn),
            "fctm_like",
            tmp_path / "other",
            RunOptions(data_root=tmp_path),
        )


@pytest.mark.harness
@pytest.mark.parametrize("name", ["tvd_tracking", "hieve"])
def test_the_harness_makes_the_same_table(name, tmp_path):
    if importlib.util.find_spec("motmetrics") is None or int(np.__version__.split(".")[0]) > 1:
        pytest.skip("needs motmetrics 1.4, which calls what NumPy 2 has no more")
    path = write_ctc_tables([drawn_tracking_run(tmp_path, name)], tmp_path / "tables")
    ours = rows_of(path)
    assert len(ours) == 4 * (3 + 1) if name == "tvd_tracking" else 4 * (5 + 2)
    folder = {"tvd_tracking": "tvd_tracking", "hieve": "HiEve_pngs"}[name]
    called = {"tvd_tracking": "TVD", "hieve": "HIEVE"}[name]
    theirs = script_rows(path.parent, tmp_path / folder, called)
    assert_same_rows(ours, theirs)
