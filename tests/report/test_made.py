# SPDX-License-Identifier: BSD-3-Clause
"""Does every format say how the runs were made, and of how many pictures they hold a part?"""

import csv
import json
import shutil
from dataclasses import replace

import docx
import openpyxl
import pytest
import yaml
from test_report import QUICK
from test_tables import edited, runs  # noqa: F401 (runs is a fixture)

from vcm_plugin.conditions import CHANGED
from vcm_plugin.ctc.coding import KINDS
from vcm_plugin.ctc.machine import FILE, Session, Sessions
from vcm_plugin.ctc.typed_json import to_json
from vcm_plugin.environment import cfg_folder
from vcm_plugin.report import made, plots, rd_table_text, tables, write_report

SESSION = Session(
    "2026-01-31T10:00:00Z", 5.0, "A fast CPU", 2, 4, 8.0, "An OS 1.0", 1, 1, False, 0.1
)


def with_machine(run, session):
    (run / FILE).write_text(json.dumps(to_json(Sessions((session,)))))
    return run


@pytest.fixture(scope="module")
def part(runs, tmp_path_factory):  # noqa: F811
    """Two runs on 10 of 64 pictures of a changed condition, one of them on a busy machine."""
    folder, made_runs = tmp_path_factory.mktemp("made"), []

    def change(result):
        result["condition"] = "minictc" + CHANGED
        result["dataset"]["cut_from"] = 64
        result["codec_identity"]["inner_codec"] = {
            "encoder": "VVenC 1.15", "preset": "faster", "command": "vvc -qp QP",
        }  # fmt: skip

    condition = yaml.safe_load((cfg_folder() / "ctc" / "minictc.yaml").read_text())
    condition |= {"limit": 10, "overrides": ["limit: 10 in place of none"]}
    condition["name"] += CHANGED
    for run, others in zip(runs, (0.1, 3.5), strict=True):
        made_runs.append(edited(run, folder / run.name, change))
        (made_runs[-1] / "condition.yaml").write_text(yaml.safe_dump(condition))
        with_machine(made_runs[-1], replace(SESSION, others=others))
    out = folder / "out"
    formats = ["csv", "json", "svg", "xlsx", "html", "docx", "md", "tex"]
    return write_report(made_runs, ["vvc_remote"], out, formats, QUICK), out


def test_every_kind_of_codec_is_told_in_words():
    assert set(made.CODED) == set(KINDS)


FACTS = (
    "minictc (changed)", "limit", "10 in place of none", f"{10:064d}", "only 10 of 64 pictures",
    "minictc_mask_rcnn", "minictc_mask_rcnn.pth", "2026-01-31", "A fast CPU, 2 of 4 cores, 8 GiB",
    "An OS 1.0", "VVenC 1.15", "vvc -qp QP", "it shared its cores, so seconds are too long",
)  # fmt: skip


def texts_of(out):
    """Format -> all that it says."""
    file = docx.Document(out / "report.docx")
    cells = [cell.text for table in file.tables for row in table.rows for cell in row.cells]
    book = openpyxl.load_workbook(out / "report.xlsx")
    shown = {"docx": "\n".join([*(p.text for p in file.paragraphs), *cells])}
    shown["xlsx"] = "\n".join(str(c.value) for sheet in book for row in sheet for c in row)
    shown["tex"] = (
        (out / "report.tex").read_text().replace(r"\allowbreak{}", "").replace("\\_", "_")
    )
    for name in ("report.json", "conditions.csv", "report.html", "report.md"):
        shown[name] = (out / name).read_text()
    return shown


def test_every_format_says_how_it_was_made(part):
    for name, text in texts_of(part[1]).items():
        for fact in FACTS:
            assert fact in text, (name, fact)
        assert "minictc-changed" not in text.replace('"condition": "minictc-changed"', ""), name


def test_facts_that_runs_share_stand_once(part):
    report, out = part
    with (out / "conditions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == made.rows(report)
    machine = [row for row in rows if row["what"] == "machine"]
    assert len(machine) == 1 and machine[0]["run"] == ""
    points = [row["run"] for row in rows if row["what"] == "rate points"]
    assert points == ["vvc_feature", "vvc_remote"]


def test_what_was_changed_for_one_run_stands_beside_it(part, tmp_path):
    folder = shutil.copytree(part[0].runs[0].folder, tmp_path / "changed")
    condition = yaml.safe_load((folder / "condition.yaml").read_text())
    condition["overrides"] = [*condition["overrides"], "vvc_random_access: True in place of none"]
    (folder / "condition.yaml").write_text(yaml.safe_dump(condition))
    report = tables.build_report([folder, part[0].runs[1].folder], [])
    changed = {
        r["what"]: (r["run"], r["value"]) for r in made.rows(report) if "changed," in r["what"]
    }
    assert changed["changed, limit"] == ("", "10 in place of none")
    assert changed["changed, vvc_random_access"] == ("vvc_feature", "True in place of none")


def test_a_part_of_a_test_set_is_named_in_every_title_and_on_the_terminal(part):
    report, out = part
    assert report.heading == "minictc (changed): only 10 of 64 pictures"
    assert report.heading in rd_table_text(report, width=200)
    assert report.heading in plots.draw(report, "box_ap").get_suptitle()
    page = (out / "report.html").read_text()
    assert f"<title>{report.heading}" in page and "A part of the test set: only 10 of 64" in page
    assert (out / "report.md").read_text().startswith(f"# Report: {report.heading}")
    book = openpyxl.load_workbook(out / "report.xlsx")
    assert book["Summary"]["A1"].value.startswith(report.heading)
    assert docx.Document(out / "report.docx").core_properties.title == f"Report: {report.heading}"


def test_a_machine_that_was_busy_is_marked(part):
    report, _ = part
    assert made.busy_runs(report) == ["vvc_remote"]


def test_a_run_of_an_older_version_says_what_it_lacks(runs, tmp_path):  # noqa: F811
    new = with_machine(edited(runs[0], tmp_path / "new", lambda r: r.update(codec="new")), SESSION)
    shutil.copy(cfg_folder() / "ctc" / "minictc.yaml", new / "condition.yaml")
    report = tables.build_report([new, runs[1]], ["vvc_remote"], QUICK)
    old = next(line for line in made.lacking(report) if line.startswith("vvc_remote"))
    assert old == (
        "vvc_remote: made by an older version of vcm-plugin, which does not keep the condition "
        "that it was made in, when and on what machine it was made, accuracy by category; run it "
        "again to have it."
    )
    assert old.split(";")[0] in " ".join(rd_table_text(report, width=400).split())


def test_measures_that_an_older_run_lacks_are_left_out(runs, tmp_path):  # noqa: F811
    def older(result):
        for holder in (result["uncompressed"], *result["points"]):
            holder["accuracy"].pop("box_ar")

    run = edited(runs[1], tmp_path / "older", older)
    report = tables.build_report([runs[0], run], ["vvc_remote"], QUICK)
    assert "box_ar" not in report.metrics and "box_ap" in report.metrics
