# SPDX-License-Identifier: BSD-3-Clause
"""Does a proposal hold the tables, say what is not filled in, and refuse bad templates?"""

import json
import re
import shutil
import subprocess

import docx
import pytest
import yaml
from test_tables import edited, runs  # noqa: F401 (runs is a fixture)

from vcm_plugin import bitstream
from vcm_plugin.cli.main import main
from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError
from vcm_plugin.report import tables
from vcm_plugin.report.document import MISSING, Figure, Heading, Paragraph, Table
from vcm_plugin.report.proposal import to_document, write_proposal
from vcm_plugin.report.proposal.config import load_config
from vcm_plugin.report.text_files import BREAK, FLUSH_LEFT, latex_text


def config(folder, runs, **changes):  # noqa: F811
    values = {
        "number": "m1", "title": "A codec", "source": ["A & B_C"], "date": "2026-01-31",
        "run": str(runs[0]), "anchors": [str(runs[1])], "description": ["100 % of it."],
        **changes,
    }  # fmt: skip
    path = folder / "proposal.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("proposal")
    path = config(folder, runs)
    for name in ("docx", "md", "tex"):
        unfilled = write_proposal(path, folder / f"proposal.{name}")
    loaded = load_config(path)
    report = tables.build_report([loaded.run, *loaded.anchors], ["vvc_remote"])
    document, again = to_document(loaded, report)
    assert unfilled == again
    return folder, document, report, unfilled


def test_every_table_read_back_from_docx_equals_the_tables(written):
    folder, document, *_ = written
    file = docx.Document(folder / "proposal.docx")
    blocks = [block for block in document.blocks if isinstance(block, Table)]
    assert len(file.tables) == len(blocks) > 6
    for grid, table in zip(file.tables, blocks, strict=True):
        found = [[cell.text for cell in row.cells] for row in grid.rows]
        head = [[column.title for column in table.columns]] if table.title else []
        assert found == [*head, *table.texts()], table.title
    figures = [block for block in document.blocks if isinstance(block, Figure)]
    assert len(file.inline_shapes) == len(figures) == 3


def test_the_headline_is_a_cell_of_the_table(written):
    folder, _, report, _ = written
    text = "\n".join(p.text for p in docx.Document(folder / "proposal.docx").paragraphs)
    for found in report.comparisons:
        if found.test == "vvc_feature" and found.metric in ("box_ap", "mask_ap"):
            shown = found.raw.reason or f"{found.raw.percent:+.2f} %"
            assert shown in text


def test_markdown_and_latex_hold_the_same_numbers(written):
    folder, document, *_ = written
    markdown, latex = ((folder / f"proposal.{n}").read_text() for n in ("md", "tex"))
    for setting in (BREAK, FLUSH_LEFT):
        latex = latex.replace(setting, "")
    for table in (block for block in document.blocks if isinstance(block, Table)):
        for row in table.texts():
            flat = [" ".join(cell.split()).replace("|", "\\|") for cell in row]
            assert f"| {' | '.join(flat)} |" in markdown
            assert " & ".join(latex_text(cell) for cell in row) + r" \\" in latex
    assert r"A \& B\_C" in latex and r"100 \% of it." in latex
    assert (folder / "rd_box_ap.png").is_file() and (folder / "architecture.png").is_file()


LATEX = next(filter(shutil.which, ("pdflatex", "xelatex")), None)


@pytest.mark.skipif(LATEX is None, reason="no LaTeX here")
def test_latex_compiles_and_nothing_leaves_the_page(written, tmp_path):
    folder = written[0]
    command = [LATEX, "-interaction=nonstopmode", f"-output-directory={tmp_path}"]
    for _ in range(2):  # the second time with the widths of the tables
        done = subprocess.run(
            [*command, "proposal.tex"], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:]
    too_wide = [float(n) for n in re.findall(r"Overfull \\hbox \(([\d.]+)pt", done.stdout)]
    assert not [n for n in too_wide if n > 1.0], done.stdout[-2000:]
    assert (tmp_path / "proposal.pdf").stat().st_size > 10_000


def test_what_is_not_filled_in_is_listed(written, runs, tmp_path):  # noqa: F811
    folder, document, _, unfilled = written
    assert {"authors", "contact", "status", "crosscheck", "training"} <= set(unfilled)
    assert {"conclusion", "recommendation", "place"} <= set(unfilled)
    assert not {"number", "title", "date", "source", "references"} & set(unfilled)
    text = "\n".join(p.text for p in docx.Document(folder / "proposal.docx").paragraphs)
    for key in unfilled:
        assert f"{key}: not filled in" in text
    path = config(tmp_path, runs, contact="YOUR E-MAIL ADDRESS")
    assert "contact" in write_proposal(path, tmp_path / "p.md")
    assert MISSING in (tmp_path / "p.md").read_text()


def test_the_syntax_tables_are_those_of_the_bitstream(runs, tmp_path):  # noqa: F811
    def learned(result):
        result["codec"] = "diff_fchm"

    run = edited(runs[0], tmp_path / "learned", learned)
    write_proposal(config(tmp_path, (run, runs[1])), tmp_path / "p.md")
    text = (tmp_path / "p.md").read_text()
    for elements in bitstream.SYNTAX.values():
        for element in elements:
            assert f"| {' | '.join(bitstream.syntax_row(element))} |" in text


def test_a_cross_check_is_quoted_only_where_it_is_of_this_run(runs, tmp_path):  # noqa: F811
    found = {"format": "vcm-plugin cross-check", "verdict": "confirmed", "key": "00"}
    found |= {"environment": {"device": "cpu"}, "findings": [{"status": "ok", "step": "data"}]}
    path = tmp_path / "crosscheck.json"
    path.write_text(json.dumps(found))
    loaded = load_config(config(tmp_path, runs, crosscheck=str(path)))
    report = tables.build_report([loaded.run, *loaded.anchors], ["vvc_remote"])
    document, _ = to_document(loaded, report)
    assert Paragraph("Cross-check: confirmed, on cpu. Steps, ok: data.") in document.blocks
    path.write_text(json.dumps({**found, "key": "other"}))
    with pytest.raises(InputError, match="of other results"):
        to_document(loaded, report)


@pytest.mark.parametrize(
    "changes, message",
    (
        ({"title": 3}, "title: expected str, found 3"),
        ({"source": "one"}, r"source: expected list\[str\], found 'one'"),
        ({"references": [1]}, r"references: expected list\[str\], found \[1\]"),
        ({"titel": "x"}, "unknown key titel; did you mean title?"),
        ({"run": None}, "expected the key run, found none"),
        ({"run": "nowhere"}, "run: looked for .*nowhere, found nothing there; paths start at "),
        ({"anchors": ["."]}, "expected a run folder with result.json"),
    ),
)
def test_bad_templates_end_in_one_line(runs, tmp_path, capsys, changes, message):  # noqa: F811
    path = config(tmp_path, runs, **changes)
    assert main(["proposal", str(path), "-o", str(tmp_path / "p.docx")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not (tmp_path / "p.docx").exists()

    assert re.search(message.replace("?", r"\?"), error), error


def test_the_front_page_and_the_properties_are_those_of_mpeg(runs, tmp_path):  # noqa: F811
    changes = {
        "committee": ["ISO/IEC JTC 1", "SC 29/WG 4"],
        "place": "Geneva",
        "authors": ["A. B."],
    }
    path = config(tmp_path, runs, **changes)
    write_proposal(path, tmp_path / "p.docx")
    file = docx.Document(tmp_path / "p.docx")
    lines = [p.text for p in file.paragraphs[:5]]
    assert lines == [
        "ISO/IEC JTC 1", "SC 29/WG 4", "SC 29/WG 4 m1", "Geneva, 2026-01-31", "A codec",
    ]  # fmt: skip
    section = file.sections[0]
    assert section.header.paragraphs[0].text == "SC 29/WG 4  m1"
    assert "PAGE" in section.footer._element.xml and "NUMPAGES" in section.footer._element.xml
    assert file.core_properties.author == "A. B." and file.core_properties.title == "A codec"
    xml = file._element.xml
    captions = [p for p in file.paragraphs if p.text.startswith("Table : ")]
    assert xml.count("SEQ Table") == len(captions) > 5
    assert xml.count("SEQ Figure") == len(file.inline_shapes)
    assert all(shape._inline.docPr.get("descr") for shape in file.inline_shapes)


def test_a_conclusion_of_the_author_stands_in_place_of_the_numbers(runs, tmp_path):  # noqa: F811
    path = config(tmp_path, runs, conclusion="It is good.", recommendation="Take it.")
    assert not {"conclusion", "recommendation"} & set(write_proposal(path, tmp_path / "p.md"))
    text = (tmp_path / "p.md").read_text()
    assert "## Conclusion\n\nIt is good.\n\n## Recommendation\n\nTake it." in text


def test_references_are_those_of_what_was_used(runs, tmp_path):  # noqa: F811
    write_proposal(config(tmp_path, runs, references=["Mine."]), tmp_path / "p.md")
    text = (tmp_path / "p.md").read_text()
    assert "[1] Mine." in text and "Bjontegaard" in text and "Microsoft COCO" in text
    assert "Machines Serve Human" not in text and "VVenC" not in text  # nobody ran them

    def learned(result):
        result["codec"] = "diff_fchm"
        result["codec_identity"]["inner_codec"] = {"encoder": "VVenC 1.15"}

    run = edited(runs[0], tmp_path / "learned", learned)
    write_proposal(config(tmp_path, (run, runs[1])), tmp_path / "q.md")
    text = (tmp_path / "q.md").read_text()
    assert "Machines Serve Human" in text and "VVenC: an open" in text


def test_keys_of_codecs_that_nobody_ran_are_left_out(runs, tmp_path):  # noqa: F811
    run = edited(runs[0], tmp_path / "kept", lambda result: None)
    shutil.copy(cfg_folder() / "ctc" / "minictc.yaml", run / "condition.yaml")
    write_proposal(config(tmp_path, (run, runs[1])), tmp_path / "p.md")
    text = (tmp_path / "p.md").read_text()
    assert "| vvc_feature_qps |" in text and "| vvc_remote_sizes |" in text
    assert "vtm_feature" not in text and "diff_fchm_scales" not in text


def test_a_proposal_that_was_copied_elsewhere_says_where_it_looked(runs, tmp_path):  # noqa: F811
    path = config(tmp_path, runs, run="runs/mine")
    (tmp_path / "other").mkdir()
    moved = shutil.copy(path, tmp_path / "other" / "proposal.yaml")
    with pytest.raises(InputError) as caught:
        load_config(moved)
    text = str(caught.value)
    assert str(tmp_path / "other" / "runs" / "mine") in text
    assert f"name it from {tmp_path / 'other'}, or put the YAML where that path begins" in text


@pytest.mark.skipif(shutil.which("xelatex") is None, reason="no xelatex here")
@pytest.mark.parametrize("fonts", (True, False))
def test_xelatex_sets_other_scripts(runs, tmp_path, fonts):  # noqa: F811
    """Where no font has Chinese, the document and the log say so, and it is made all the same."""
    write_proposal(config(tmp_path, runs, title="Bäume, Ελλάδα, Мир, 编解码器"), tmp_path / "p.tex")
    if not fonts:
        text = (tmp_path / "p.tex").read_text()
        (tmp_path / "p.tex").write_text(re.sub(r"\\trycjk\{[^}]*\}", "", text))
    command = ["xelatex", "-interaction=nonstopmode", "p.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "p.pdf").stat().st_size > 10_000
    log = (tmp_path / "p.log").read_text(errors="replace")
    assert "Missing character" not in log
    assert fonts or "no font for Chinese, Japanese or Korean" in " ".join(log.split())


def test_only_documents_with_chinese_text_ask_for_its_fonts(runs, tmp_path):  # noqa: F811
    write_proposal(config(tmp_path, runs), tmp_path / "p.tex")
    assert "cjk" not in (tmp_path / "p.tex").read_text()


def test_another_suffix_is_refused(runs, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match=r"ends in .docx, .md, .tex"):
        write_proposal(config(tmp_path, runs), tmp_path / "p.pdf")


def test_the_shipped_example_says_your_organisation(runs, tmp_path):  # noqa: F811
    """Copied beside the folder of the demo's runs, it finds them."""
    for run, name in zip(runs * 2, ("vvc_feature", "vvc_remote", "diff_fchm"), strict=False):
        edited(run, tmp_path / "runs" / "demo" / name, lambda r, name=name: r.update(codec=name))
    path = tmp_path / "proposal.yaml"
    shutil.copy(cfg_folder() / "proposal" / "example.yaml", path)
    config = load_config(path)
    assert config.source == ("YOUR ORGANISATION",)
    assert {"source", "authors", "date", "crosscheck"} <= set(config.unfilled())
    assert main(["proposal", str(path), "-o", str(tmp_path / "proposal.md")]) == 0
    assert "BD-rate against vvc_feature" in (tmp_path / "proposal.md").read_text()


PAGES = all(map(shutil.which, ("soffice", "pdftotext")))


@pytest.mark.skipif(not PAGES, reason="no LibreOffice and pdftotext here to look at pages with")
def test_no_page_ends_with_a_heading(written, tmp_path):
    folder, document, *_ = written
    command = ["soffice", "--headless", f"-env:UserInstallation={tmp_path.as_uri()}/profile"]
    command += ["--convert-to", "pdf", "--outdir", str(tmp_path), str(folder / "proposal.docx")]
    subprocess.run(command, check=True, capture_output=True)
    command = ["pdftotext", "-layout", str(tmp_path / "proposal.pdf"), "-"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    headings = {block.text for block in document.blocks if isinstance(block, Heading)}
    pages = [[line.strip() for line in page.splitlines() if line.strip()]
             for page in text.split("\f") if page.strip()]  # fmt: skip
    assert len(pages) > 5
    for page in pages:
        assert re.fullmatch(r"\d+ ?/ ?\d+", page[-1])
        last = page[-2]  # above the number of the page
        assert last not in headings and not re.match(r"Table \d+: ", last), last
