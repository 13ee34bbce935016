# SPDX-License-Identifier: BSD-3-Clause
"""Reports of runs: tables, curves, BD-rates, plots and documents.

The names below are imported when they are asked for (PEP 562): a run prints its points with
titles.py, and does not wait for what draws.
"""

import importlib

# Name -> the module that holds it.
_HOMES = {
    "ALL_FORMATS": "vcm_plugin.report.write",
    "FORMATS": "vcm_plugin.report.write",
    "ViewerOptions": "vcm_plugin.report.viewer",
    "rd_table_text": "vcm_plugin.report.terminal",
    "rd_tables": "vcm_plugin.report.terminal",
    "require": "vcm_plugin.report.write",
    "write_document": "vcm_plugin.report.write",
    "write_report": "vcm_plugin.report.write",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
