# SPDX-License-Identifier: BSD-3-Clause
"""Does the web report hold the tables, and does it work in a browser without a network?"""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from test_report import ANCHORS, QUICK
from test_tables import runs  # noqa: F401 (a fixture)

from vcm_plugin import tables
from vcm_plugin.cli import main
from vcm_plugin.report import views
from vcm_plugin.report.viewer import ViewerOptions, match, viewer_data
from vcm_plugin.report.web import write_web


class Cells(HTMLParser):
    """The cells of all tables: (text, raw value) row by row."""

    def __init__(self):
        super().__init__()
        self.tables, self.cell = [], None

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ["", dict(attributes).get("data-value")]
            self.tables[-1][-1].append(self.cell)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell[0] += data


def cells_of(page):
    parser = Cells()
    parser.feed(page[: page.index('<script type="application/json"')])
    return parser.tables


def embedded(page):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]
    )


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):  # noqa: F811
    report = tables.build_report(runs, ANCHORS, QUICK)
    path = tmp_path_factory.mktemp("web") / "report.html"
    write_web(report, path, ViewerOptions())
    return report, path.read_text()


@pytest.fixture(scope="module")
def real(tmp_path_factory, shared_cache):
    """The web report of a real run of three pictures, as the command makes it."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        run = ["run", "minictc", "--codec", "diff_fchm", "--limit", 3, "-o", folder / "run"]
        assert main([str(word) for word in (*run, "--qps", 0.7, 5.6)]) == 0
        words = ["report", folder / "run", "--anchor", "diff_fchm", "-o", folder / "out"]
        words += ["--format", "html", "--viewer-pictures", 2]
        assert main([str(word) for word in words]) == 0
    return folder


def test_every_number_read_back_equals_the_tables(written):
    report, page = written
    found = cells_of(page)
    assert len(found) == len(views.all_tables(report))
    for cells, table in zip(found, views.all_tables(report), strict=True):
        assert [text for text, _ in cells[0]] == [column.title for column in table.columns]
        for row, values, texts in zip(cells[1:], table.rows, table.texts(), strict=True):
            assert [text for text, _ in row] == texts
            for (_, raw), column in zip(row, table.columns, strict=True):
                value = values.get(column.key)
                if isinstance(value, (int, float)):
                    assert float(raw) == value


def test_the_charts_hold_the_points(written):
    report, page = written
    data = embedded(page)
    assert [key for key, _ in data["metrics"]] == views.point_metrics(report)
    for drawn, curve in zip(data["curves"], report.curves, strict=True):
        for metric in report.ap_metrics:
            points = [tuple(point[:2]) for point in drawn["points"][metric]]
            assert points == curve.rate_accuracy(metric)


def test_the_page_asks_no_network(written):
    page = written[1]
    head = page[: page.index("<script>")]
    assert not re.search(r'(src|href)="(?!data:)', head) and "@import" not in head
    assert "</script" not in re.sub("</script>", "", page, count=3)


def test_viewer_data_is_that_of_the_run(real):
    report = tables.build_report([real / "run"], [], QUICK)
    data = viewer_data(report, ViewerOptions(2, side=64))
    assert [picture["id"] for picture in data["pictures"]] == [1, 3]
    assert "2 of 3 pictures" in data["note"] and "64 pixels" in data["note"]
    assert all(p["thumbnail"].startswith("data:image/jpeg;base64,") for p in data["pictures"])
    assert [point["name"] for point in data["points"]] == [
        "uncompressed", "diff_fchm, 0.7", "diff_fchm, 5.6",
    ]  # fmt: skip
    stored = report.runs[0].result["points"][0]["per_picture"]
    bits = dict(zip(stored["image_id"], stored["bits"], strict=True))
    for image_id, shown in data["points"][1]["pictures"].items():
        assert shown["bits"] == bits[image_id]
        assert all(item[2] >= 0.5 for item in shown["found"])
        hits = sum(item[3] >= 0 for item in shown["found"])
        objects = next(p["truth"] for p in data["pictures"] if p["id"] == image_id)
        assert hits + len(shown["missed"]) == len(objects)


def test_matching_agrees_with_the_evaluation(real):
    """Over all pictures, hits and misses at the operating point are those of COCOeval."""
    from vcm_plugin.tasks import read_matches

    report = tables.build_report([real / "run"], [], QUICK)
    data = viewer_data(report, ViewerOptions(3))
    for point in report.points:
        found = read_matches(real / "run" / point.rate_point / "matches.npz")["box"]
        kept = found.score >= 0.5
        wanted = int((found.hit[-1] & kept).sum()), int((found.miss[-1] & kept).sum())
        shown = next(p for p in data["points"] if p["name"].endswith(f", {point.rate_point}"))
        items = [item for picture in shown["pictures"].values() for item in picture["found"]]
        assert (sum(i[3] >= 0 for i in items), sum(i[3] == -1 for i in items)) == wanted


def test_matching_of_crowds_and_ties():
    def item(box, score=None, category_id=1, iscrowd=0):
        return {"bbox": box, "score": score, "category_id": category_id, "iscrowd": iscrowd}

    objects = [item([0, 0, 10, 10]), item([50, 50, 40, 40], iscrowd=1)]
    found = [item([0, 0, 10, 9], 0.6), item([0, 0, 10, 10], 0.9), item([60, 60, 9, 9], 0.8)]
    assert match(objects, found, 0.5) == ([-1, 0, -2], set())
    assert match(objects, [], 0.5) == ([], {0})
    assert match([], found, 0.5) == ([-1, -1, -1], set())


def test_without_pictures_and_ground_truth_the_page_says_so(written):
    viewer = embedded(written[1])["viewer"]
    assert viewer["pictures"] == [] and "keep no ground truth" in viewer["note"]


@pytest.fixture(scope="module")
def page(real):
    """The report in headless Chromium; errors of its console are kept in page.errors."""
    api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium here: {str(error).splitlines()[0]}")
        context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
        page = context.new_page()
        page.errors = []
        page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto((real / "out" / "report.html").as_uri())
        page.wait_for_selector("#plot .main-svg")
        page.wait_for_function("document.getElementById('canvas').width > 10")
        yield page
        assert page.errors == []
        browser.close()


def canvas(page):
    pixels = page.evaluate(
        "() => { const c = document.getElementById('canvas');"
        " return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data); }"
    )
    return np.array(pixels, np.uint8)


def test_charts_draw_and_metrics_switch(page):
    lines = "document.querySelectorAll('#plot .scatterlayer .trace').length"
    assert page.evaluate(lines) == 1
    title = "document.querySelector('#plot .ytitle').textContent"
    assert page.evaluate(title) == "box AP"
    page.select_option("#metric", "mask_ap")
    page.wait_for_function(f"{title} === 'mask AP'")
    page.uncheck("#log")
    page.wait_for_function("document.getElementById('plot').layout.xaxis.type === 'linear'")


def test_the_viewer_follows_its_selectors_and_slider(page):
    page.select_option("#left", label="uncompressed")
    page.select_option("#right", label="diff_fchm, 5.6")
    assert "not coded" in page.inner_text("#leftText")
    right = page.inner_text("#rightText")
    assert re.search(r"diff_fchm, 5.6: \d+ bits", right)
    page.fill("#slider", "0")
    whole_right = canvas(page)
    page.fill("#slider", "1000")
    whole_left = canvas(page)
    assert (whole_right != whole_left).mean() > 0.005
    assert whole_left.std() > 10  # a picture, no blank page
    page.uncheck("#boxes")
    assert (canvas(page) != whole_left).any()
    page.check("#boxes")
    page.click("#next")
    page.wait_for_function("document.getElementById('picture').value === '1'")
    assert page.inner_text("#rightText") != right


def test_tables_sort_by_number(page):
    head = page.locator("th", has_text="bits").first
    column = head.evaluate("e => e.cellIndex")
    read = f"""() => [...document.querySelector('table').tBodies[0].rows]
        .map(r => parseFloat(r.cells[{column}].dataset.value)).filter(v => !Number.isNaN(v))"""
    head.click()
    assert page.evaluate(read) == sorted(page.evaluate(read))
    head.click()
    assert page.evaluate(read) == sorted(page.evaluate(read), reverse=True)
