# SPDX-License-Identifier: BSD-3-Clause
"""Where the seconds of a codec go: its functions mark stages, and who wants to know collects them.

The names are those of the FCM test conditions: feature_reduction, conversion, feature_restoration.
What lies in none of them is the inner codec's. Marking costs nothing while nobody collects.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_collecting: ContextVar[dict[str, float] | None] = ContextVar("stages", default=None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Mark a block, or as a decorator a function, as part of a stage."""
    seconds = _collecting.get()
    if seconds is None:
        yield
        return
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started


@contextmanager
def collected() -> Iterator[dict[str, float]]:
    """The seconds of each stage within the block; `inner_codec`, the rest of it, comes at its end.

    >>> with collected() as seconds:
    ...     with stage("conversion"):
    ...         pass
    >>> list(seconds)
    ['conversion', 'inner_codec']
    """
    seconds: dict[str, float] = {}
    token, started = _collecting.set(seconds), time.perf_counter()
    try:
        yield seconds
    finally:
        _collecting.reset(token)
        seconds["inner_codec"] = time.perf_counter() - started - sum(seconds.values())
