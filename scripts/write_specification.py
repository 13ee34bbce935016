#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Write docs/bitstream.md and docs/decoding.md, the specification, from their source.

scripts/write_specification.py
"""

from pathlib import Path

from vcm_plugin import bitstream

DOCS = Path(__file__).resolve().parents[1] / "docs"

if __name__ == "__main__":
    for name, text in (("bitstream", bitstream.document()), ("decoding", bitstream.decoding())):
        (DOCS / f"{name}.md").write_text(text, encoding="utf-8")
