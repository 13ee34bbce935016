# SPDX-License-Identifier: BSD-3-Clause
"""How does a document become Markdown or LaTeX?"""

from __future__ import annotations

from pathlib import Path

from vcm_plugin.report.document import (
    LONG,
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
\ifXeTeX\IfFileExists{xeCJK.sty}{\IfFontExistsTF{Noto Sans CJK SC}%
{\usepackage{xeCJK}\setCJKmainfont{Noto Sans CJK SC}}{}}{}\fi
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
"""
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
    parts = [_PREAMBLE + "\n".join(title), *map(_latex, blocks), r"\end{document}"]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _latex_head(document: Document) -> str:
    """Header and page numbers, and the properties of the PDF."""
    told = {"pdftitle": document.title, "pdfauthor": document.author,
            "pdfsubject": document.subject, "pdfkeywords": document.keywords}  # fmt: skip
    properties = ",".join(f"{key}={{{latex_text(value)}}}" for key, value in told.items())
    return "\n".join([
        r"\usepackage[hidelinks]{hyperref}", rf"\hypersetup{{{properties}}}",
        r"\setlength{\headheight}{13pt}", r"\pagestyle{fancy}", r"\fancyhf{}",
        rf"\fancyhead[L]{{\footnotesize {latex_text(document.header)}}}",
        r"\fancyfoot[C]{\thepage\ / \pageref*{LastPage}}",
    ])  # fmt: skip


def _latex_front(front: Front) -> str:
    committee = r" \\ ".join(rf"\textbf{{{latex_text(line)}}}" for line in front.committee)
    lines = r" \\ ".join(rf"\textbf{{{latex_text(line)}}}" for line in front.lines)
    flush = f"\\begin{{flushright}}{lines}\\end{{flushright}}" if lines else ""
    return f"\\begin{{center}}{committee}\\end{{center}}\n{flush}"


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
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


def _latex_table(table: Table) -> str:
    texts = [[column.title for column in table.columns], *table.texts()]
    kinds = ["R" if table.is_numeric(column) else "L" for column in table.columns]
    spec = "".join(f"{k}{{{share:.4f}}}" for k, share in zip(kinds, table.shares(), strict=True))
    lines = [" & ".join(map(_latex_cell, row, kinds)) + r" \\" for row in texts]
    notes = "\n\n".join(_latex_words(note) for note in table.notes)
    head = [r"\toprule"]
    if table.title:
        head = [
            rf"\caption{{{latex_text(table.title)}}}\\ \toprule",
            lines[0] + r" \midrule \endhead",
        ]
    return "\n".join([
        rf"{{\footnotesize\begin{{longtable}}{{{spec}}}",
        *head,
        *lines[1:],
        r"\bottomrule\end{longtable}",
        notes + "}",
    ])  # fmt: skip


def _latex_cell(text: str, kind: str) -> str:
    """Text in a cell of a column of kind L or R; long words are broken, a refusal is flush left."""
    cell = _latex_words(text)
    return FLUSH_LEFT + cell if kind == "R" and len(text) >= LONG else cell


def _latex_words(text: str) -> str:
    """Text whose long words may be broken."""
    words = text.split(" ")
    chunks = [[word[k : k + LONG] for k in range(0, len(word), LONG)] for word in words]
    return " ".join(BREAK.join(map(latex_text, parts)) for parts in chunks)
