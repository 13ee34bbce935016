# SPDX-License-Identifier: BSD-3-Clause
"""What is left of a training that somebody interrupts? For the tests that resume one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def interrupted(holder: Any, method: str, count: int) -> Iterator[None]:
    """Ctrl-C at the count-th call of a method, which must end what the block does."""
    real, calls = getattr(holder, method), []

    def counted(*arguments):
        calls.append(arguments)
        if len(calls) == count:
            raise KeyboardInterrupt
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(holder, method, counted)
        yield
