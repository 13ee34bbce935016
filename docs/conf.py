# SPDX-License-Identifier: BSD-3-Clause
"""How is the documentation site built? `sphinx-build -W docs build/site`, with `.[docs]`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import vcm_plugin  # noqa: E402

project = "vcm-plugin"
author = "the vcm-plugin contributors"
copyright = "2026, the vcm-plugin contributors"
version = release = vcm_plugin.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest"]
exclude_patterns = ["figures"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3  # the headings that pages link to
default_role = "literal"  # docstrings write `code`
nitpicky = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
highlight_language = "none"  # a block without a language is a command line

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"vcm-plugin {release}"
html_show_sphinx = False
html_last_updated_fmt = None  # the same sources give the same site
