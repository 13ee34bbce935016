# SPDX-License-Identifier: BSD-3-Clause
"""Are published points shown beside runs of the same test set and metric, and nowhere else?"""

import json
from dataclasses import replace

import pytest
from test_report import QUICK
from test_tables import edited, runs  # noqa: F401 (runs is a fixture)

from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.errors import InputError
from vcm_plugin.report import plots, tables, views
from vcm_plugin.report.published import load_references, references_for

OIV6 = "annotations/mpeg-oiv6-detection-coco.json"


def renamed(run, folder, name, metric="box_ap50"):
    """The same run on a test set of another name, with the metric of the published points."""

    def change(result):
        result["dataset"]["name"] = name
        for holder in (result["uncompressed"], *result["points"]):
            holder["accuracy"][metric] = holder["accuracy"]["box_ap50"]

    return edited(run, folder, change)


def test_points_of_the_same_test_set_are_shown_and_labelled(runs, tmp_path):  # noqa: F811
    run = renamed(runs[0], tmp_path / "oiv6", OIV6)
    report = tables.build_report([run], [], QUICK)
    assert {found.codec for found in report.published} == {"h_simo", "vtm_remote"}
    table = views.published(report)
    assert table.title == "Published, not run here" and len(table.rows) == 12
    assert len(table.notes) == 2 and all(each.source for each in report.published)


def test_points_of_other_test_sets_are_never_mixed_in(runs):  # noqa: F811
    report = tables.build_report([runs[0]], [], QUICK)
    assert report.published == () and views.published(report).rows == ()
    assert references_for(OIV6, ["box_ap"]) == ()


@pytest.mark.parametrize(
    "kind, metric, names",
    [
        ("detection", "box_ap50", {"h_simo", "vtm_remote"}),
        ("segmentation", "mask_ap50", {"h_simo"}),
    ],
)
def test_points_of_mpeg_are_those_of_our_conditions(kind, metric, names):
    condition = load_condition(f"mpeg_oiv6_{kind}")
    found = references_for(condition.dataset_name(), [metric])
    assert {reference.codec for reference in found} == names
    assert condition.protocol == "open_images"  # which measures box_ap50 and mask_ap50 alone
    assert [f"{task}_ap50" for task in condition.tasks] == [metric]


def test_a_plot_of_their_metric_draws_them_in_grey(runs, tmp_path):  # noqa: F811
    run = renamed(runs[0], tmp_path / "kodak", "Kodak suite", "box_ap")
    report = tables.build_report([run], [], QUICK)
    reference = load_references()[0]
    points = tuple(replace(p, accuracy={"box_ap": p.accuracy["psnr"]}) for p in reference.points)
    report = replace(report, published=(replace(reference, points=points),))
    labels = [line.get_label() for line in plots.draw(report, "box_ap").axes[0].lines]
    assert f"{reference.codec} (published, not run here)" in labels


def test_every_reference_names_its_source():
    found = load_references()
    assert len(found) >= 8 and all(reference.source for reference in found)


def test_a_file_without_a_source_is_refused(tmp_path):
    value = {"format": "vcm-plugin reference", "version": 1, "published": True}
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="with published: true and its source"):
        load_references(tmp_path)
