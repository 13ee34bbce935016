# SPDX-License-Identifier: BSD-3-Clause
"""How many bits a pixel or a second are that?"""

from vcm_plugin.errors import InputError


def bpp(bits: int, pixels: int) -> float:
    """Bits per pixel of the source pictures.

    >>> bpp(3000, 1000)
    3.0
    """
    if pixels <= 0:
        raise InputError(f"bpp needs at least one source pixel, found {pixels}")
    return bits / pixels


def kbps(bits: int, fps: float, frames: int) -> float:
    """Kilobits per second of a sequence.

    >>> kbps(1_000_000, 50, 100)
    500.0
    """
    if frames <= 0:
        raise InputError(f"kbps needs at least one frame, found {frames}")
    return bits * fps / (1000 * frames)
