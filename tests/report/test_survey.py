# SPDX-License-Identifier: BSD-3-Clause
"""Are the survey's tables listed, filtered, refused by name, and kept out of every plot?"""

import json
from collections import Counter
from dataclasses import replace

import pytest
from test_report import QUICK
from test_tables import edited, runs  # noqa: F401 (runs is a fixture)

from vcm_plugin.cli.main import main
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.errors import InputError
from vcm_plugin.report import plots, tables, views
from vcm_plugin.report.survey import (
    TABLES,
    all_points,
    load_survey,
    methods_of,
    points_of,
    surveyed_for,
)

COCO = "annotations/instances_val2017.json"


def test_the_tables_are_whole():
    survey = load_survey()
    assert (len(survey.methods), len(survey.points)) == (52, 63)
    classes = Counter(method.coding_class for method in survey.methods)
    assert classes == {"MBHD": 36, "MBID": 8, "SBMD": 4, "SBAR": 4}
    known = {method.reference for method in survey.methods}
    stored = json.loads(TABLES.read_text(encoding="utf-8"))["points"]
    assert {point["reference"] for point in stored} <= known
    assert all(method.year is None or 2010 <= method.year <= 2026 for method in survey.methods)
    assert all(point.bpp is None or 0.0 < point.bpp < 1.0 for point in survey.points)


def test_one_data_set_has_one_name():
    names = {point.data_set for point in load_survey().points}
    plain = ["".join(filter(str.isalnum, name)).lower() for name in names]
    assert len(set(plain)) == len(names)


def test_filters():
    assert len(points_of()) == len(all_points()) > 63
    found = points_of("SBAR", "detection", "coco2017")
    assert {(p.codec, p.bpp, p.value) for p in found} == {
        ("Wang et al. [186]", 0.4, 0.48), ("Guo et al. [62]", 0.153, 0.376),
    }  # fmt: skip
    assert {m.reference for m in methods_of("SBMD")} == {26, 160, 176, 207}
    assert {m.reference for m in methods_of(task="tracking")} == {160, 170, 171}


@pytest.mark.parametrize(
    "words, message",
    [
        (("--class", "MBHDD"), "class MBHDD: expected one of MBID, MBHD, SBMD, SBAR"),
        (("--task", "detektion"), "nothing published matches it; nearest: detection"),
        (("--data-set", "COCO 2016"), "nothing published matches it; nearest: COCO 201"),
        (("--class", "MBID", "--data-set", "MOT17"), "data set MOT17: nothing published"),
        (
            ("--class", "MBID", "--task", "detection", "--data-set", "Cityscapes"),
            "data set Cityscapes: nothing published matches it together with class MBID and task "
            "detection; nearest together with",
        ),
        (("--methods", "--class", "SBAR", "--task", "reid"), "no method of class SBAR has it"),
        (("--methods", "--task", "reidentification"), "no method has it; nearest:"),
        (("--methods", "--data-set", "COCO"), "gives its methods no data set"),
    ],
)
def test_what_matches_nothing_is_one_line_with_the_nearest_names(words, message, capsys):
    assert main(["published", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_command_lists_points_with_their_source(capsys):
    assert main(["published", "--class", "sbmd", "--data-set", "COCO 2017"]) == 0
    text = capsys.readouterr().out
    assert "0.361" in text and "2 points, published, not run here" in text
    assert "Human-Machine Collaborative Image and Video Compression" in text
    assert main(["published", "--methods", "--class", "SBAR"]) == 0
    assert "4 methods" in capsys.readouterr().out


def renamed(run, folder, name):
    def change(result):
        result["dataset"]["name"] = name

    return edited(run, folder, change)


def test_a_report_shows_them_beside_a_run_of_the_same_set_but_in_no_plot(runs, tmp_path):  # noqa: F811
    assert load_condition("coco_val2017").dataset_name() == COCO
    run = renamed(runs[0], tmp_path / "coco", COCO)
    report = tables.build_report([run], [], QUICK)
    table = views.surveyed(report)
    assert table.title == "Published in the survey, not run here"
    tasks = {metric.partition("_")[0] for metric in report.metrics}
    assert len(table.rows) == len(surveyed_for(COCO, tasks)) > 0
    assert table in views.all_tables(report)
    labels = [line.get_label() for line in plots.draw(report, "box_ap").axes[0].lines]
    assert not any("published" in label for label in labels)


def test_a_run_of_another_set_has_none(runs):  # noqa: F811
    report = tables.build_report([runs[0]], [], QUICK)
    assert views.surveyed(report).rows == ()
    assert replace(report).published == ()


def test_a_file_without_a_source_is_refused(tmp_path):
    path = tmp_path / "tables.json"
    path.write_text('{"format": "vcm-plugin survey", "version": 1, "published": true}')
    with pytest.raises(InputError, match="with published: true and its source"):
        load_survey(path)
