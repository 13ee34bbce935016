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
    Heading,
    Paragraph,
    Table,
)

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\N{EM DASH}": "---",
}  # fmt: skip
_PREAMBLE = r"""\documentclass[a4paper,10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[margin=2cm]{geometry}
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
    title = (
        rf"\title{{{latex_text(document.title)}}}" + "\n\\date{}\n\\begin{document}\n\\maketitle"
    )
    parts = [_PREAMBLE + title, *(_latex(block) for block in document.blocks), r"\end{document}"]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


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
            rf"\includegraphics[width=\textwidth,height=0.4\textheight,keepaspectratio]"
            f"{{{block.name}.png}}\n\\caption{{{latex_text(block.caption)}}}\n\\end{{figure}}"
        )
    return _latex_table(block)


def _latex_table(table: Table) -> str:
    texts = [[column.title for column in table.columns], *table.texts()]
    kinds = ["R" if table.is_numeric(column) else "L" for column in table.columns]
    spec = "".join(f"{k}{{{share:.4f}}}" for k, share in zip(kinds, table.shares(), strict=True))
    lines = [" & ".join(map(_latex_cell, row, kinds)) + r" \\" for row in texts]
    notes = "\n\n".join(latex_text(note) for note in table.notes)
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
    words = text.split(" ")
    chunks = [[word[k : k + LONG] for k in range(0, len(word), LONG)] for word in words]
    cell = " ".join(BREAK.join(map(latex_text, parts)) for parts in chunks)
    return FLUSH_LEFT + cell if kind == "R" and len(text) >= LONG else cell
