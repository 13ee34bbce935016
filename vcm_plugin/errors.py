# SPDX-License-Identifier: BSD-3-Clause
"""Which exceptions does bad input end in? One, and its kind for bitstreams."""


class InputError(Exception):
    """Bad input: a picture, config, checkpoint, bitstream, data set or missing program.

    The message is one line that says what was expected, what was found and what repairs it.
    The library raises it (or a subclass); only the CLI prints it, and exits with code 2.
    """


class BitstreamError(InputError):
    """A bitstream is foreign, of another version, truncated or corrupt, or cannot be written."""
