# SPDX-License-Identifier: BSD-3-Clause
"""What do all figures share? matplotlib without a window, the styles of curves, the axis of bits.

Curves differ in marker, line style and lightness, so that a grey print stays readable. Other
modules take matplotlib from here, since it may only be imported as it is here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without_backend() -> Iterator[None]:
    """Hide MPLBACKEND: a notebook names its own backend there, which matplotlib refuses to be
    imported with where that is not installed; figures that go into files need none."""
    named = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named


with _without_backend():
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = ["Axes", "FancyArrowPatch", "FancyBboxPatch", "Figure", "rc_context"]

INK = "#333333"
# colour, marker, line style; neighbours differ in lightness, so in grey too
STYLES = (
    ("#0b3c6f", "o", "-"),
    ("#dd6b20", "s", "--"),
    ("#1f7a5a", "^", "-."),
    ("#b583cc", "D", (0, (6, 1, 1, 1, 1, 1))),
    ("#7a1f3d", "v", (0, (8, 2))),
    ("#d9b13b", "P", (0, (3, 1))),
)
NO_DATES = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "vcm-plugin",  # the same picture gives the same file
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # fonts are embedded, as outlines that may be searched
    "text.parse_math": False,  # a $ in a name is a $
}


def legend_label(name: str) -> str:
    """A name for a legend, which leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def canvas_of(figure: Figure) -> FigureCanvasAgg:
    """What measures the texts of a figure."""
    if not isinstance(figure.canvas, FigureCanvasAgg):
        FigureCanvasAgg(figure)
    return figure.canvas


def bits_axis(axes: Axes) -> None:
    """The x axis of every plot."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("rate (bits per pixel of the source picture, log scale)")
