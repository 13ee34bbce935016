# SPDX-License-Identifier: BSD-3-Clause
"""How large are the networks of msfc? Without torch, so that options can be read at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MsfcConfig:
    """Sizes of the networks."""

    channels: int = 64  # of each FPN layer
    fused_width: int = 256  # between the 3x3 and the 1x1, on the grid of p5
    reduced: int = 64  # channels that are sent
    squeezed: int = 16  # of squeeze-excite
    width4: int = 128  # of the restoration, on the grid of p4
    width3: int = 96
    width2: int = 48
