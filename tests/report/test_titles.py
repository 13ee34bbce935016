# SPDX-License-Identifier: BSD-3-Clause
"""Does every metric that is measured have its row, and every task its plot?"""

import pytest
from test_report import QUICK
from test_tables import edited, runs  # noqa: F401 (runs is a fixture)

from vcm_plugin.cli.common import print_points
from vcm_plugin.ctc.results import load_result
from vcm_plugin.metrics.pictures import PAIR_METRICS, SET_METRICS
from vcm_plugin.report import rd_table_text, tables, views, write_report
from vcm_plugin.report.human_vision import COMPARED
from vcm_plugin.report.titles import (
    AP_METRICS,
    AT_EQUAL_VALUE,
    HUMAN_METRICS,
    IN_FIGURES,
    METRICS,
    TASKS,
    UNDER_PICTURES,
    label_of,
    title_of,
)
from vcm_plugin.report.web import _plots


def only(metrics, values=lambda accuracy: accuracy):
    """A change of a result that leaves it these accuracies, as other protocols measure them."""

    def change(result):
        for holder in (result["uncompressed"], *result["points"]):
            accuracy = values(holder["accuracy"])
            holder["accuracy"] = {metric: accuracy[metric] for metric in metrics}

    return change


def test_every_measured_metric_has_a_row(runs):  # noqa: F811
    measured = {*load_result(runs[0]).uncompressed.accuracy, "miou", *PAIR_METRICS, *SET_METRICS}
    assert measured <= set(METRICS)
    assert {METRICS[metric].task for metric in METRICS} == {"", *TASKS}
    of_detectors = ("box_ap", "box_ap50", "mask_ap", "mask_ap50", "miou")
    assert AP_METRICS == (*of_detectors, "mota", "idf1", "hota")
    assert set(HUMAN_METRICS) == {*PAIR_METRICS, *SET_METRICS, "painted_box_ap"}
    assert set(COMPARED) == set(HUMAN_METRICS) - {"fid", "kid"}
    assert {*IN_FIGURES, *AT_EQUAL_VALUE, *UNDER_PICTURES} <= set(COMPARED)
    assert label_of("psnr") == "PSNR (dB)" and title_of("a_new_one") == "a new one"
    assert not any(METRICS[name].higher_is_better for name in ("gmsd", "lpips", "dists", "kid"))


@pytest.mark.parametrize(
    "metric, named", [("miou", "Semantic segmentation"), ("box_ap50", "Detection")]
)
def test_a_protocol_with_one_accuracy_has_its_plot_and_headline(runs, tmp_path, metric, named):  # noqa: F811
    """PandaSet measures mIoU alone, Open Images AP50 alone."""
    change = only([metric], lambda accuracy: {**accuracy, "miou": accuracy["box_ap"]})
    both = [edited(run, tmp_path / run.name, change) for run in runs]
    for run in both:
        for matches in run.glob("*/matches.npz"):
            matches.unlink()
    out = tmp_path / "out"
    report = write_report(both, ["vvc_remote"], out, ["png", "svg", "xlsx", "html", "md"], QUICK)
    assert report.main_metrics == (metric,)
    assert (out / f"rd_{metric}.png").stat().st_size > 10_000
    assert f"{named}: rate against {METRICS[metric].label}" in (out / "report.md").read_text()
    text = rd_table_text(report)
    assert METRICS[metric].title in text and "vvc_feature" in text
    assert len(views.bd_rates(report, report.main_metrics).rows) == 1
    assert len(views.anchor_bd_rates(report).rows) >= 1
    assert "BD-rate in percent" in text
    assert ["miou" if metric == "miou" else "box_ap50"] == [k for k, _ in _plots(report)["metrics"]]


def test_the_command_prints_the_metrics_by_their_titles(runs, capsys):  # noqa: F811
    print_points(load_result(runs[0]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split("  ")[-1].strip() == "mask AP50" and "box AP" in lines[1]
    point = load_result(runs[0]).points[0]
    assert f"{point.accuracy['box_ap']:.2f}" in lines[2] and lines[-1].startswith("uncompressed")


def test_the_command_says_where_fewer_pictures_were_tested(runs, tmp_path, capsys):  # noqa: F811
    run = edited(runs[0], tmp_path / "part", lambda r: r["dataset"].update(cut_from=64))
    print_points(load_result(run))
    assert "only 10 of 64 pictures: accuracy in percent" in capsys.readouterr().out


def test_a_report_of_one_task_names_no_other(runs, tmp_path):  # noqa: F811
    run = edited(runs[0], tmp_path / "masks", only(["mask_ap", "mask_ap50", "mask_iou"]))
    report = tables.build_report([run], [], QUICK)
    assert views.tasks(report) == ["mask"]
