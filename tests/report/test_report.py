# SPDX-License-Identifier: BSD-3-Clause
"""Do the files of a report hold exactly the tables, and do the plots show them?"""

import csv
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb
from test_tables import BLOCKS, edited, runs, write_run  # noqa: F401 (runs is a fixture)

from vcm_plugin.cli.main import main
from vcm_plugin.ctc.codecs import integer_qp
from vcm_plugin.errors import InputError
from vcm_plugin.report import FORMATS, plots, rd_table_text, tables, write_report
from vcm_plugin.report.layout import report_dict

ROOT = Path(__file__).parents[2]
ANCHORS = ["vvc_remote", "vvc_feature"]
QUICK = tables.Rules(resamples=40)


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("report") / "new" / "folder"
    return write_report(runs, ANCHORS, out, rules=QUICK), out


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_format_is_written(written):
    names = {path.name for path in written[1].iterdir()}
    plots_of = {f"rd_{m}_ap.{f}" for m in ("box", "mask") for f in ("png", "svg")}
    summaries = {"summary_vvc_feature.csv", "summary_vvc_remote.csv"}
    tables_of = {"rd.csv", "bd_rate.csv", "near_lossless.csv", "report.json", "report.html"}
    tables_of |= {"conditions.csv", "categories.csv"}
    assert names == plots_of | summaries | tables_of


def test_json_read_back_equals_the_tables(written):
    report, out = written
    read = json.loads((out / "report.json").read_text())
    assert read == json.loads(json.dumps(report_dict(report)))
    assert (read["format"], read["version"]) == ("vcm-plugin report", 1)
    for stored, point in zip(read["points"], report.points, strict=True):
        assert stored["bpp"] == stored["bits"] / stored["pixels"] == point.bpp
        assert {metric: stored[metric] for metric in report.metrics} == point.accuracy
    for found in report.comparisons:
        cell = read["bd_rate"][found.test][found.anchor][found.metric]
        assert (cell["percent"], cell["method"]) == (found.raw.percent, "pchip")
        assert cell["reason"] == found.raw.reason
        for shown, low_high in (
            (cell["overlap"], found.raw.overlap),
            (cell["interval95"], found.raw_interval.low_high),
        ):
            assert shown == (None if low_high is None else list(low_high))
        assert cell["monotone_fit"]["percent"] == found.fit.percent
        assert cell["monotone_fit"]["method"] == "pchip after monotone fit"
    for found in report.near_lossless:
        cell = read["near_lossless"][found.curve][found.metric]
        if found.raw.bits is not None:
            assert cell["bits"] == round(found.raw.bits) and type(cell["bits"]) is int
            assert cell["bpp"] == cell["bits"] / found.pixels
    assert read["uncompressed"] == report.uncompressed
    assert read["environment"]["vvc_feature"] == {"numpy": np.__version__}
    assert read["curves"]["vvc_remote_100"]["rate_points"]["box_ap"][::-1] == list(BLOCKS)


def test_csv_read_back_equals_the_tables(written):
    report, out = written
    stored = rows(out / "rd.csv")
    for row, point in zip(stored, report.points, strict=True):
        assert (row["codec"], row["rate_point"]) == (point.codec, point.rate_point)
        assert int(row["bits"]) == point.bits and float(row["bpp"]) == point.bpp
        assert {metric: float(row[metric]) for metric in report.metrics} == point.accuracy
    stored = rows(out / "bd_rate.csv")
    results = [result for found in report.comparisons for result in (found.raw, found.fit)]
    for row, result in zip(stored, results, strict=True):
        assert row["percent"] == ("" if result.percent is None else repr(result.percent))
        assert row["method"] == result.method and row["reason"] == (result.reason or "")
    assert len(rows(out / "near_lossless.csv")) == 2 * len(report.near_lossless)


def test_summary_has_the_columns_of_the_test_conditions(written):
    feature, remote = (rows(written[1] / f"summary_{name}.csv") for name in ANCHORS[::-1])
    common = ["Dataset", "rate_point", "harness_qp", "avg_bpp", "end_accuracy"]
    assert list(feature[0]) == [*common, "nn_part_1", "encode", "decode", "nn_part_2"]
    assert list(remote[0]) == [*common, "encode", "decode", "nn_task"]
    for stored in (feature, remote):
        for dataset in ("drawn-detection", "drawn-segmentation"):
            mine = [row for row in stored if row["Dataset"] == dataset]
            assert [int(row["harness_qp"]) for row in mine] == [22, 27, 32, 37, 42, 47]
            assert [row["rate_point"] for row in mine] == list(BLOCKS)
            rates = [float(row["avg_bpp"]) for row in mine]
            assert rates == sorted(rates, reverse=True)
    assert float(remote[0]["nn_task"]) == 4.0 + 2.5


def test_the_qp_of_a_scale_follows_the_test_conditions():
    scales = {"0.25": 20, "0.5": 26, "1": 32, "2": 38, "4": 44}
    assert {s: integer_qp("diff_fchm", s) for s in scales} == scales
    assert integer_qp("vtm_remote", "37@50") == 37


def test_the_qp_follows_from_the_codec_not_from_the_name_of_a_folder(runs, tmp_path):  # noqa: F811
    """Two runs of one codec are called by their folders, whatever these are called."""
    both = [edited(runs[0], tmp_path / name, lambda result: None) for name in ("faster", "vvc")]
    write_report(both, ["faster"], tmp_path / "out", ["csv"], rules=QUICK)
    for name in ("faster", "vvc"):
        qps = [int(row["harness_qp"]) for row in rows(tmp_path / "out" / f"summary_{name}.csv")]
        assert qps == 2 * [22, 27, 32, 37, 42, 47]


def test_a_second_report_is_the_same_byte_for_byte(runs, written, tmp_path):  # noqa: F811
    write_report(runs, ANCHORS, tmp_path, rules=QUICK)
    for path in written[1].iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_plots_are_large_enough_and_hold_every_curve(written):
    report, out = written
    for metric in ("box_ap", "mask_ap"):
        pixels = image.imread(out / f"rd_{metric}.png")
        assert pixels.shape[0] >= 900 and pixels.shape[1] >= 1400
        ElementTree.parse(out / f"rd_{metric}.svg")
        axes = plots.draw(report, metric).axes[0]
        assert axes.get_xscale() == "log"
        drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
        for curve, label in zip(
            report.curves,
            ("vvc_feature", "vvc_remote", "vvc_remote_100"),
            strict=True,
        ):
            np.testing.assert_array_equal(drawn[label], curve.rate_accuracy(metric))
        low, high = axes.get_ylim()
        assert 0 <= low < high and high > report.uncompressed[metric]


def test_styles_differ_without_colour():
    assert len({marker for _, marker, _ in plots.STYLES}) == len(plots.STYLES)
    assert len({str(line) for *_, line in plots.STYLES}) == len(plots.STYLES)
    grey = [np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) for colour, *_ in plots.STYLES]
    assert min(abs(a - b) for a, b in zip(grey, grey[1:], strict=False)) > 0.1


def test_one_run_with_one_point_makes_every_format(tmp_path):
    run = write_run(tmp_path / "one", pictures=2, points={"22": 1})
    (run / "timings.json").unlink()
    report = write_report([run], [], tmp_path / "out")
    assert (tmp_path / "out" / "rd_box_ap.png").stat().st_size > 10_000
    assert not list((tmp_path / "out").glob("summary*"))
    assert rows(tmp_path / "out" / "bd_rate.csv") == []
    assert "22" in rd_table_text(report)


def test_a_box_only_run_has_no_mask_plot(runs, tmp_path):  # noqa: F811
    def boxes(result):
        for holder in (result["uncompressed"], *result["points"]):
            kept = {k: v for k, v in holder["accuracy"].items() if k.startswith("box_")}
            holder["accuracy"] = kept

    run = edited(runs[0], tmp_path / "boxes", boxes)
    report = write_report([run], ["vvc_feature"], tmp_path / "out", ["png", "csv"])
    assert report.ap_metrics == ("box_ap", "box_ap50")
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["rd_box_ap.png"]


def test_the_terminal_shows_the_figures_and_the_library_prints_nothing(written, capsys):
    report, _ = written
    text = rd_table_text(report, width=130)
    for curve in report.curves:
        for point in curve.chosen("box_ap"):
            assert f"{point.bpp:.4f}" in text and f"{point.accuracy['box_ap']:.2f}" in text
    for found in report.comparisons:
        if found.metric == "box_ap" and found.raw.percent is not None:
            assert f"{found.raw.percent:+.{1 if abs(found.raw.percent) < 100 else 0}f} (" in text
    assert "convex hull" in text
    assert capsys.readouterr().out == ""


def test_refusals_stand_under_the_tables(tmp_path):
    run = write_run(tmp_path / "a", pictures=3, points={"22": 1, "32": 3})
    other = write_run(tmp_path / "b", codec="other", pictures=3, points={"22": 1, "32": 3})
    report = write_report([run, other], ["vvc_feature"], tmp_path / "out", ["json"])
    text = " ".join(rd_table_text(report, width=200).split())
    assert "refused: anchor: 2 points, at least 4 are needed" in text
    cell = json.loads((tmp_path / "out" / "report.json").read_text())["bd_rate"]
    assert cell["other"]["vvc_feature"]["box_ap"]["percent"] is None


def test_an_unknown_format_is_refused_before_anything_is_written(runs, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match="report format doc: expected one of csv, json, png, svg"):
        write_report(runs, [], tmp_path / "out", ["csv", "doc"])
    assert not (tmp_path / "out").exists()
    assert FORMATS == ("csv", "json", "png", "svg", "html")


def test_a_page_to_open_is_part_of_every_report(runs, tmp_path, capsys):  # noqa: F811
    words = ["report", str(runs[0]), "--anchor", "vvc_feature", "-o"]
    assert main([*words, str(tmp_path / "out")]) == 0
    assert f"page:   {tmp_path / 'out' / 'report.html'}" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<a href="rd.csv">' in page and '<a href="report.json">' in page


BACKENDS = ("module://matplotlib_inline.backend_inline", "no such backend", "tkagg", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_backend_of_a_notebook_does_not_matter(runs, tmp_path, backend):  # noqa: F811
    words = ["report", runs[0], "--anchor", "vvc_feature", "-o", tmp_path, "--format", "csv", "png"]
    done = subprocess.run(
        [sys.executable, "-m", "vcm_plugin.cli", *map(str, words)], capture_output=True, text=True,
        env={**os.environ, "MPLBACKEND": backend, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "rd_box_ap.png").stat().st_size > 10_000


def test_matplotlib_is_imported_where_no_backend_is_named():
    """And nowhere else, so that the proposal and the demo hold too."""
    pattern = re.compile(r"^\s*(import|from) matplotlib", re.M)
    users = [p for p in (ROOT / "vcm_plugin").rglob("*.py") if pattern.search(p.read_text())]
    assert users == [ROOT / "vcm_plugin" / "report" / "figures.py"]
    assert "pyplot" not in users[0].read_text()


def test_a_report_needs_no_torch():
    code = "import sys, vcm_plugin.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_prints_the_points_of_a_run_waits_for_no_plots():
    code = "import sys, vcm_plugin.report.titles; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_tables_fit_a_terminal_of_a_hundred_columns(written):
    assert max(map(len, rd_table_text(written[0]).splitlines())) <= 100
    assert "vvc_remote_100" in rd_table_text(written[0])


def test_report_numbers_are_finite(written):
    for cell in report_dict(written[0])["points"]:
        assert all(math.isfinite(v) for v in cell.values() if isinstance(v, float))
