# SPDX-License-Identifier: BSD-3-Clause
"""Which exceptions does bad input end in, and how is what was found shown in their one line?"""

from __future__ import annotations

import reprlib
from typing import Any

BRIEF = 60  # characters of a found value in a message
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = BRIEF
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 4, 3


class InputError(Exception):
    """Bad input: a picture, config, checkpoint, bitstream, data set or missing program.

    The message is one line that says what was expected, what was found and what repairs it.
    The library raises it (or a subclass); only the CLI prints it, and exits with code 2.
    """


class BitstreamError(InputError):
    """A bitstream is foreign, of another version, truncated or corrupt, or cannot be written."""


def brief(value: Any) -> str:
    """A found value for a message: one line of at most 60 characters, however large it is.

    >>> brief("one\\ntwo"), brief(list(range(9000)))
    ("'one\\\\ntwo'", '[0, 1, 2, 3, ...]')
    """
    try:
        text = _SHORT.repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        text = f"a {type(value).__name__}"
    return text if len(text) <= BRIEF else text[: BRIEF - 3] + "..."


def one_line(error: BaseException, limit: int = 300) -> str:
    """What an exception of another library says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
