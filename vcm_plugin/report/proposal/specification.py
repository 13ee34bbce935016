# SPDX-License-Identifier: BSD-3-Clause
"""What does a proposal specify? Syntax and decoding process, of the source of docs/ itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vcm_plugin import bitstream
from vcm_plugin.report.document import Block, Bullets, Column, Heading, Paragraph, Table

PROFILES = tuple(bitstream.PROFILES.values())
# Profiles whose units hold latents.
LEARNED = ("diff_fchm", "picture_learned", "latent_scalable", "multi_head")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_ITEM = re.compile(r"\d+\. |- ")


def clauses(codec: str) -> list[Block]:
    """The clauses of a codec: none of one without an .fcm profile; with learned layers also what
    their units decode to."""
    name = "diff_fchm" if codec.startswith("diff_fchm") else codec
    if name not in PROFILES:
        return []
    pages = [("Bitstream syntax", f"\n{bitstream.RULES}\n\n{bitstream.syntax()}")]
    if name in LEARNED:
        pages.append(("Decoding process", bitstream.decoding()))
    blocks: list[Block] = []
    for title, page in pages:
        blocks += [Heading(title, 2), *from_markdown(page)]
    return blocks


def from_markdown(page: str) -> Iterator[Block]:
    """The blocks of a page less its first heading, which the document has a title for.

    Known are headings, paragraphs, lists, tables and formulas (indented lines): what the pages of
    the specification consist of.
    """
    caption = ""
    for part in re.split(r"\n{2,}", page.partition("\n")[2].strip("\n")):
        if part.startswith("#"):
            caption = _plain(part.lstrip("# "))
            yield Heading(caption, 3)
        elif part.startswith("|"):
            yield _table(caption, part.splitlines())
        elif part.startswith("    "):
            yield from (Paragraph(line.strip()) for line in part.splitlines())
        elif _ITEM.match(part):
            items = [_plain(item) for item in re.split(r"\n(?=\d+\. |- )", part)]
            yield from _list(items)
        else:
            yield Paragraph(_plain(part))


def _list(items: list[str]) -> Iterator[Block]:
    """Paragraphs that keep their numbers, since their order counts; else bullets."""
    if items[0].startswith("- "):
        yield Bullets(tuple(item.removeprefix("- ") for item in items))
    else:
        yield from map(Paragraph, items)


def _table(title: str, lines: list[str]) -> Table:
    heads, _, *rows = ([_plain(cell) for cell in line[2:-2].split(" | ")] for line in lines)
    columns = tuple(Column(head, head) for head in heads)
    title = title if heads[0] == "element" else f"{title}: {heads[0]}"
    return Table(title, columns, tuple(dict(zip(heads, row, strict=True)) for row in rows))


def _plain(text: str) -> str:
    """Text without its marks: links, bold, code."""
    flat = " ".join(text.split())
    return _LINK.sub(r"\1", flat).replace("**", "").replace("`", "")
