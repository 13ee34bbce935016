# SPDX-License-Identifier: BSD-3-Clause
"""How does a document become Markdown or LaTeX?"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from vcm_plugin.report.document import (
    KEPT,
    LONG,
    WHOLE,
    Block,
    Bullets,
    Document,
    Figure,
    Front,
    Heading,
    Paragraph,
    Table,
)

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\N{EM DASH}": "---",
}  # fmt: skip
# XeLaTeX and LuaLaTeX set every script that a font of the machine has; pdfLaTeX only Latin ones.
_PREAMBLE = r"""\documentclass[a4paper,10pt]{article}
\usepackage{iftex}
\ifPDFTeX
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\else
\usepackage{fontspec}
\IfFontExistsTF{DejaVu Serif}{\setmainfont{DejaVu Serif}[Scale=0.88]}{}
\fi
\usepackage[margin=2cm]{geometry}
\usepackage{fancyhdr}
\usepackage{lastpage}
\usepackage{graphicx}
\usepackage{array}
\usepackage{float}
\usepackage{longtable}
\usepackage{booktabs}
\setlength{\LTcapwidth}{\textwidth}
\setlength{\tabcolsep}{3pt}
\newcolumntype{L}[1]{>{\raggedright\arraybackslash}p{\dimexpr #1\textwidth-2\tabcolsep\relax}}
\newcolumntype{R}[1]{>{\raggedleft\arraybackslash}p{\dimexpr #1\textwidth-2\tabcolsep\relax}}
\newcommand{\lastrule}{\noalign{\nobreak\vskip\aboverulesep\nobreak\hrule height \heavyrulewidth
\nobreak\vskip\belowrulesep\nobreak}}
\newcommand{\need}[1]{\par\penalty-100 \ifdim\dimexpr\pagegoal-\pagetotal\relax<#1 \vfil\break\fi}
\emergencystretch=3em
"""
# Of documents with Chinese, Japanese or Korean text: the font that is there. LaTeX says so where
# there is none, and the document shows [CJK] in the place of such text.
_CJK_PREAMBLE = r"""\newcommand{\cjk}[1]{[CJK]}
\ifPDFTeX
\IfFileExists{CJKutf8.sty}{\usepackage{CJKutf8}\IfFileExists{c70gbsn.fd}%
{\renewcommand{\cjk}[1]{\begin{CJK*}{UTF8}{gbsn}#1\end{CJK*}}\let\cjkfound\relax}{}}{}
\else
\def\trycjk#1{\ifdefined\cjkfound\else\IfFontExistsTF{#1}{\newfontfamily\cjkfont{#1}%
\let\cjkfound\relax}{}\fi}
\trycjk{Noto Sans CJK SC}\trycjk{Noto Serif CJK SC}\trycjk{Source Han Sans SC}
\trycjk{FandolSong}\trycjk{SimSun}\trycjk{Songti SC}\trycjk{WenQuanYi Zen Hei}
\ifdefined\cjkfound\renewcommand{\cjk}[1]{{\cjkfont
\ifXeTeX\XeTeXlinebreaklocale "zh"\XeTeXlinebreakskip=0pt plus 1pt\fi #1}}\fi
\fi
\ifdefined\cjkfound\else\GenericWarning{}{vcm-plugin: no font for Chinese, Japanese or Korean text,
which is shown as [CJK]: install Noto Sans CJK and use xelatex}\fi
"""
_CJK = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]+")
# Size of a table's letters, and the characters that a page then has room for.
WIDE_FROM, WIDE, NARROW = 8, (r"\scriptsize", 125), (r"\footnotesize", 110)
# Points: a heading with a line of text, a line of a table, the most that is kept on a page.
HEADING, LINE, LARGEST = 60.0, 9.8, 600.0
BREAK, FLUSH_LEFT = r"\allowbreak{}", r"\raggedright\arraybackslash "


def write_markdown(document: Document, path: Path) -> None:
    """Write a document as Markdown; its figures lie beside it."""
    _write_figures(document, path.parent)
    parts = [f"# {_flat(document.title)}", *(_markdown(block) for block in document.blocks)]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def write_latex(document: Document, path: Path) -> None:
    """Write a document as one LaTeX file; its figures lie beside it."""
    _write_figures(document, path.parent)
    blocks = list(document.blocks)
    front = blocks.pop(0) if blocks and isinstance(blocks[0], Front) else None
    title = [
        _latex_head(document), r"\begin{document}", _latex_front(front) if front else "",
        rf"\begin{{center}}{{\LARGE {latex_text(document.title)}}}\end{{center}}",
    ]  # fmt: skip
    parts = [_need(blocks, n) + _latex(block) for n, block in enumerate(blocks)]
    body = "\n\n".join(["\n".join(title), *parts, r"\end{document}"])
    preamble = _PREAMBLE + (_CJK_PREAMBLE if _CJK.search(body) else "")
    path.write_text(f"{preamble}{body}\n", encoding="utf-8")


def _latex_head(document: Document) -> str:
    """Header and page numbers, and the properties of the PDF."""
    told = {"pdftitle": document.title, "pdfauthor": document.author,
            "pdfsubject": document.subject, "pdfkeywords": document.keywords}  # fmt: skip
    properties = ",".join(f"{key}={{{_escaped(value)}}}" for key, value in told.items())
    rule = "" if document.header else r"\renewcommand{\headrulewidth}{0pt}"
    return "\n".join([
        r"\usepackage[hidelinks]{hyperref}", rf"\hypersetup{{{properties}}}",
        r"\setlength{\headheight}{13pt}", r"\pagestyle{fancy}", r"\fancyhf{}", rule,
        rf"\fancyhead[L]{{\footnotesize {latex_text(document.header)}}}",
        r"\fancyfoot[C]{\thepage\ / \pageref*{LastPage}}",
    ])  # fmt: skip


def _latex_front(front: Front) -> str:
    committee = r" \\ ".join(rf"\textbf{{{latex_text(line)}}}" for line in front.committee)
    lines = r" \\ ".join(rf"\textbf{{{latex_text(line)}}}" for line in front.lines)
    flush = f"\\begin{{flushright}}{lines}\\end{{flushright}}" if lines else ""
    return f"\\begin{{center}}{committee}\\end{{center}}\n{flush}"


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters escaped, and Chinese, Japanese and Korean marked.

    >>> latex_text("A & 编解码器")
    'A \\\\& \\\\cjk{编解码器}'
    """
    return _CJK.sub(lambda found: rf"\cjk{{{found[0]}}}", _escaped(text))


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _write_figures(document: Document, folder: Path) -> None:
    for block in document.blocks:
        if isinstance(block, Figure):
            (folder / f"{block.name}.png").write_bytes(block.png)


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * (block.level + 1)} {_flat(block.text)}"
    if isinstance(block, Paragraph):
        return block.text
    if isinstance(block, Bullets):
        return "\n".join(f"- {item}" for item in block.items)
    if isinstance(block, Front):
        return "  \n".join(f"**{_flat(line)}**" for line in (*block.committee, *block.lines))
    if isinstance(block, Figure):
        return f"![{_flat(block.caption)}]({block.name}.png)\n\n*{_flat(block.caption)}*"
    heads = [_flat(column.title) for column in block.columns]
    rules = ["---:" if column.spec else "---" for column in block.columns]
    rows = [heads, rules, *([_flat(cell) for cell in row] for row in block.texts())]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    title = [f"**{_flat(block.title)}**"] if block.title else []
    return "\n\n".join([*title, lines, *block.notes])


def _latex(block: Block) -> str:
    if isinstance(block, Heading):
        return rf"\{'sub' * (block.level - 1)}section*{{{latex_text(block.text)}}}"
    if isinstance(block, Paragraph):
        return latex_text(block.text)
    if isinstance(block, Bullets):
        items = "\n".join(rf"\item {latex_text(item)}" for item in block.items)
        if not items:
            return ""  # LaTeX refuses a list without any
        return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"
    if isinstance(block, Figure):
        return (
            "\\begin{figure}[H]\\centering\n"
            r"\includegraphics[width=\textwidth,height=0.4\textheight,keepaspectratio,"
            rf"alt={{{latex_text(block.caption)}}}]"
            f"{{{block.name}.png}}\n\\caption{{{latex_text(block.caption)}}}\n\\end{{figure}}"
        )
    return _latex_table(block)


def _need(blocks: Sequence[Block], number: int) -> str:
    """What a heading needs of a page, so that it does not stand alone at the foot of one; longtable
    leaves a break between a heading and a table."""
    if not isinstance(blocks[number], Heading):
        return ""
    below = [block for block in blocks[number:] if not isinstance(block, Heading)]
    points = HEADING
    if below and isinstance(below[0], Table):
        points += min(_height(below[0]), LARGEST)
    elif below and isinstance(below[0], Figure):
        points += LARGEST / 2
    return rf"\need{{{points:.0f}pt}}"


def _height(table: Table) -> float:
    """About the points that a table takes, its notes with it; of a long one, its first rows."""
    room = (WIDE if len(table.columns) >= WIDE_FROM else NARROW)[1]
    shares = table.shares(room)
    lines = [
        max(math.ceil(len(text) / (share * room)) for text, share in zip(row, shares, strict=True))
        for row in table.texts()
    ]
    notes = [math.ceil(len(note) / room) for note in table.notes]
    whole = sum(lines) + sum(notes) if len(lines) <= WHOLE else sum(lines[:KEPT])
    return LINE * (whole + 3) + HEADING


def _latex_table(table: Table) -> str:
    texts = [[column.title for column in table.columns], *table.texts()]
    kinds = ["R" if table.is_numeric(column) else "L" for column in table.columns]
    size, room = WIDE if len(table.columns) >= WIDE_FROM else NARROW
    shares = table.shares(room)
    spec = "".join(f"{k}{{{share:.4f}}}" for k, share in zip(kinds, shares, strict=True))
    rows = [" & ".join(map(_latex_cell, row, kinds)) for row in texts]
    head = [r"\toprule"]
    if table.title:
        head = [
            rf"\caption{{{latex_text(table.title)}}}\\ \toprule",
            rows[0] + r" \\ \midrule \endhead",
        ]
    ends = [r" \\*" if table.keeps(number) else r" \\" for number in range(len(table.rows))]
    return "\n".join([
        rf"{{{size}\begin{{longtable}}{{{spec}}}",
        *head,
        *map("".join, zip(rows[1:], ends, strict=True)),
        r"\lastrule",
        *_latex_notes(table),
        r"\end{longtable}}",
    ])  # fmt: skip


def _latex_notes(table: Table) -> list[str]:
    """The notes as rows below the last rule, which stay on the page of the last row."""
    cells = [
        rf"\multicolumn{{{len(table.columns)}}}{{L{{1}}}}{{{_latex_words(note)}}}"
        for note in table.notes
    ]
    return [cell + (r" \\*" if n < len(cells) else r" \\") for n, cell in enumerate(cells, start=1)]


def _latex_cell(text: str, kind: str) -> str:
    """Text in a cell of a column of kind L or R; long words are broken, a refusal is flush left."""
    cell = _latex_words(text)
    return FLUSH_LEFT + cell if kind == "R" and len(text) >= LONG else cell


def _latex_words(text: str) -> str:
    """Text whose long words may be broken."""
    words = text.split(" ")
    chunks = [[word[k : k + LONG] for k in range(0, len(word), LONG)] for word in words]
    return " ".join(BREAK.join(map(latex_text, parts)) for parts in chunks)
