# SPDX-License-Identifier: BSD-3-Clause
"""Does the web report hold the tables, and does it work in a browser without a network?"""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image
from test_report import ANCHORS, QUICK
from test_tables import edited, runs  # noqa: F401 (runs is a fixture)

from vcm_plugin.cli.main import main
from vcm_plugin.ctc.run_folder import decoded_path
from vcm_plugin.report import tables, views
from vcm_plugin.report.document import (
    Bullets,
    Column,
    Document,
    Figure,
    Heading,
    Paragraph,
    Table,
)
from vcm_plugin.report.pages import write_html
from vcm_plugin.report.viewer import ViewerOptions, match, viewer_data
from vcm_plugin.report.web import write_web


@pytest.fixture(autouse=True)
def cache(own_cache):
    return own_cache


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
        assert main([str(word) for word in (*run, "--rate-points", 0.7, 5.6)]) == 0
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
    assert [key for key, _ in data["metrics"]] == list(report.metrics)
    for drawn, curve in zip(data["curves"], report.curves, strict=True):
        for metric in report.ap_metrics:
            points = [tuple(point[:2]) for point in drawn["points"][metric]]
            assert points == curve.rate_accuracy(metric)


def test_rate_points_sort_as_numbers_and_what_was_refused_comes_last(written):
    report, page = written
    table = next(t for t in cells_of(page) if t[0][1][0] == "rate point")
    places = [float(row[1][1]) for row in table[1:] if row[1][1] is not None]
    names = [row[1][0] for row in table[1:] if row[1][1] is not None]
    assert len(names) == len(report.points)
    by_place = [name for _, name in sorted(zip(places, names, strict=True))]
    assert by_place.index("27") < by_place.index("32") < by_place.index("32@50")
    assert 'typeof a === "number" ? -1 : 1;  // numbers first' in page


def test_a_sentence_says_what_each_plot_shows(written):
    report, page = written
    sentences = embedded(page)["sentences"]
    assert set(sentences) == set(report.metrics)
    for found in report.main_comparisons:
        if found.raw.percent is not None:
            assert f"{found.test} needs {abs(found.raw.percent):.1f} %" in sentences[found.metric]
    assert "Each mark is a rate point" in sentences["box_precision"]


def test_the_page_asks_no_network(written):
    page = written[1]
    assert not re.search(r'(src|href)="(?!data:|#made)', page) and "@import" not in page
    assert "</script" not in re.sub("</script>", "", page, count=2)


HOSTILE = (
    "<!--DATA-->", "</script><script>alert(1)</script>", "{{ 7 * 7 }}{% raw %}", "<b>&amp;\'\"",
    "\\u003c/script>", "]]>",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(runs, tmp_path, text):  # noqa: F811
    """In the title, in table cells and in the data of the page."""

    def change(result):
        result["condition"] = result["dataset"]["name"] = result["codec"] = text
        result["environment"]["device"] = text

    report = tables.build_report([edited(runs[0], tmp_path / "run", change)], [], QUICK)
    write_web(report, tmp_path / "report.html", ViewerOptions())
    page = (tmp_path / "report.html").read_text()
    assert page.count("<script") == page.count("</script>") == 2
    assert "<b>" not in page
    cells = [cell[0] for table in cells_of(page) for row in table for cell in row]
    assert cells.count(text) >= 6  # a row for each rate point names the codec
    assert embedded(page)["curves"][0]["name"] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_in_the_page_of_a_document(tmp_path, text):
    table = Table(text, (Column("a", text),), ({"a": text},), (text,))
    blocks = (Heading(text), Paragraph(text), Bullets((text,)), Figure("f", b"png", text), table)
    write_html(Document(text, blocks), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<script") == 0 and "<b>" not in page
    reader = Cells()
    reader.feed(page)
    assert reader.tables == [[[[text, None]], [[text, None]]]]
    assert page.count(str(escape(text))) >= 9


def test_viewer_data_is_that_of_the_run(real):
    report = tables.build_report([real / "run"], [], QUICK)
    data = viewer_data(report, ViewerOptions(2, side=64))
    assert [picture["id"] for picture in data["pictures"]] == [1, 3]
    assert "2 of 3 pictures" in data["note"] and "64 pixels" in data["note"]
    assert all(p["thumbnail"].startswith("data:image/jpeg;base64,") for p in data["pictures"])
    assert [point["name"] for point in data["points"]] == [
        "uncompressed", "diff_fchm, 0.7", "diff_fchm, 5.6",
    ]  # fmt: skip
    bits = report.runs[0].result.points[0].bits_by_picture
    for image_id, shown in data["points"][1]["pictures"].items():
        assert shown["bits"] == bits[image_id]
        assert all(item[2] >= 0.5 for item in shown["found"])
        hits = sum(item[3] >= 0 for item in shown["found"])
        objects = next(p["truth"] for p in data["pictures"] if p["id"] == image_id)
        assert hits + len(shown["missed"]) == len(objects)


def test_frames_of_sequences_are_in_the_viewer(sfu):
    report = tables.build_report([sfu], [], QUICK)
    data = viewer_data(report, ViewerOptions(2, data_root=sfu.parent, side=64))
    assert [p["name"] for p in data["pictures"]][1].startswith("RaceHorses_416x240_30")
    assert all(p["thumbnail"].startswith("data:image/jpeg") for p in data["pictures"])
    first = data["points"][1]["pictures"][data["pictures"][0]["id"]]
    assert first["bits"] == report.runs[0].result.points[0].per_picture.bits[0]
    assert len(first["found"]) > 0 and len(first["missed"]) < len(data["pictures"][0]["truth"])


def test_matching_agrees_with_the_evaluation(real):
    """Over all pictures, hits and misses at the operating point are those of COCOeval."""
    from vcm_plugin.metrics.coco_ap import read_matches

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
def browser():
    """Headless Chromium without a network."""
    api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium here: {str(error).splitlines()[0]}")
        yield browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
        browser.close()


def opened(browser, path):
    """A page of which the console stays without errors."""
    page, errors = browser.new_page(), []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("#plot .trace")
    page.wait_for_function("document.getElementById('canvas').width > 10")
    yield page
    assert errors == []


@pytest.fixture(scope="module")
def page(browser, real):
    yield from opened(browser, real / "out" / "report.html")


@pytest.fixture(scope="module")
def painted(human_runs, shared_cache, tmp_path_factory):
    """The web report of three codecs whose pictures are kept, and where their runs are."""
    folder, out = human_runs[1], tmp_path_factory.mktemp("painted")
    runs = [folder / name for name in ("diff_fchm_human", "simulcast", "vvc_remote")]  # noqa: F811
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        report = tables.build_report(runs, [], QUICK)
        write_web(report, out / "report.html", ViewerOptions(side=2000))
    return folder, out / "report.html"


@pytest.fixture
def painted_page(browser, painted):
    yield from opened(browser, painted[1])


def picture_of(url):
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def canvas(page):
    return picture_of(page.evaluate("document.getElementById('canvas').toDataURL()"))


def distance(one, other):
    """Mean difference of blocks of 8 x 8 samples, but for the border, where the slider is."""
    blocks = (np.asarray(side.reduce(8), float)[1:-1, 1:-1] for side in (one, other))
    return np.abs(np.subtract(*blocks)).mean()


def test_charts_draw_and_metrics_switch(page):
    lines = "document.querySelectorAll('#plot .trace').length"
    assert page.evaluate(lines) == 1
    title = "document.querySelector('#plot .ytitle').textContent"
    assert page.evaluate(title) == "box AP (%)"
    assert "at equal box AP" in page.inner_text("#sentence").lower() or "rate point" in (
        page.inner_text("#sentence")
    )
    page.select_option("#metric", "mask_ap")
    page.wait_for_function(f"{title} === 'mask AP (%)'")
    page.uncheck("#log")
    page.wait_for_function("location.hash === '#metric=mask_ap&log=false'")


def test_the_viewer_follows_its_selectors_and_slider(page):
    page.select_option("#left", label="uncompressed")
    page.select_option("#right", label="diff_fchm, 5.6")
    assert "not coded" in page.inner_text("#leftText")
    right = page.inner_text("#rightText")
    assert re.search(r"diff_fchm, 5.6: \d+ bits", right)
    page.fill("#slider", "0")
    whole_right = np.asarray(canvas(page))
    page.fill("#slider", "1000")
    whole_left = np.asarray(canvas(page))
    assert (whole_right != whole_left).mean() > 0.005
    assert whole_left.std() > 10  # a picture, no blank page
    page.uncheck("#boxes")
    assert (np.asarray(canvas(page)) != whole_left).any()
    page.check("#boxes")
    page.click("#next")
    page.wait_for_function("document.getElementById('picture').value === '1'")
    assert page.inner_text("#rightText") != right


def test_tables_sort_by_number(page):
    head = page.locator("th", has_text="bits").first
    read = """e => [...e.closest('table').tBodies[0].rows]
        .map(r => parseFloat(r.cells[e.cellIndex].dataset.value)).filter(v => !Number.isNaN(v))"""
    assert len(head.evaluate(read)) > 1
    head.click()
    assert head.evaluate(read) == sorted(head.evaluate(read))
    head.click()
    assert head.evaluate(read) == sorted(head.evaluate(read), reverse=True)


def test_heads_are_reached_by_the_keyboard_and_refusals_stay_last(page):
    button = page.locator("th button", has_text="box AP50").first
    button.focus()
    page.keyboard.press("Enter")
    head = "th:has(button:focus)"
    assert page.get_attribute(head, "aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert page.get_attribute(head, "aria-sort") == "descending"


def test_the_address_keeps_what_was_chosen(browser, real):
    address = (real / "out" / "report.html").as_uri()
    page = browser.new_page()
    page.goto(f"{address}#metric=mask_ap&log=false&picture=1&scores=false")
    page.wait_for_selector("#plot .trace")
    assert page.input_value("#metric") == "mask_ap" and page.input_value("#picture") == "1"
    assert not page.is_checked("#log") and not page.is_checked("#scores")
    page.select_option("#metric", "box_ap")
    page.wait_for_function("!location.hash.includes('metric')")
    page.locator("#plot .mark").first.focus()
    assert "rate point" in page.inner_text("#tip")
    page.close()


def test_the_viewer_embeds_the_decoded_pictures_within_its_limit(painted):
    folder, path = painted
    viewer = embedded(path.read_text())["viewer"]
    assert len(viewer["pictures"]) == 2 and "at most 600 in all" in viewer["note"]
    for point in viewer["points"][1:]:
        run, rate_point = point["name"].split(", ")
        for image_id, shown in point["pictures"].items():
            with Image.open(decoded_path(folder / run / rate_point, image_id)) as kept:
                assert distance(picture_of(shown["decoded"]), kept) < 4
            assert shown["measures"].keys() == {"PSNR (dB)", "VMAF", "HaarPSI"}
            assert ("machine_bits" in shown) == (run != "vvc_remote")
    runs = [folder / "diff_fchm_human"]  # noqa: F811
    few = viewer_data(tables.build_report(runs, [], QUICK), ViewerOptions(decoded=3))
    assert len(few["pictures"]) == 1 and "1 of 2 pictures" in few["note"]


def test_originals_and_paintings_lie_side_by_side(painted, painted_page):
    folder, page = painted[0], painted_page
    for box in ("boxes", "masks", "scores"):
        page.uncheck(f"#{box}")
    sides = {"left": "uncompressed", "right": "diff_fchm_human, 1+2"}
    for side, label in sides.items():
        page.select_option(f"#{side}", label=label)
    page.wait_for_function("[...images.values()].every(image => image.complete)")
    size = page.evaluate("[canvas.width, canvas.height]")
    seen = {}
    for name, place in (("right", "0"), ("left", "1000")):
        page.fill("#slider", place)
        seen[name] = canvas(page)
    picture_id = page.evaluate("viewer.pictures[0].id")
    with Image.open(decoded_path(folder / "diff_fchm_human" / "1+2", picture_id)) as kept:
        wanted = kept.resize(size)
    assert distance(seen["right"], wanted) < 8 < 16 < distance(seen["left"], wanted)
    assert re.search(
        r"1\+2: \d+ bits \(\d+ for the detector\).*PSNR", page.inner_text("#rightText")
    )
    page.fill("#slider", "0")
    page.uncheck("#decoded")  # detections over the original, as those of codecs of features
    original = canvas(page)
    assert distance(original, seen["left"]) < 1
    page.check("#decoded")
    page.select_option("#left", label="vvc_remote, 47")
    page.wait_for_function("[...images.values()].every(image => image.complete)")
    page.fill("#slider", "1000")
    coded = canvas(page)
    assert 1 < distance(coded, original) < 16
    assert "for the detector" not in page.inner_text("#leftText")


def test_a_page_without_decoded_pictures_offers_none(page):
    assert page.locator("#decodedLabel").is_hidden()
