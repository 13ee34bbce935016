# SPDX-License-Identifier: BSD-3-Clause
"""How large are the networks of fctm_like? Without torch, so that options can be read at once."""

from __future__ import annotations

from dataclasses import dataclass

from vcm_plugin.errors import InputError

MAX_REDUCED = 255  # a file says in 8 bits how many channels it holds


@dataclass(frozen=True)
class FctmConfig:
    """Sizes of the networks."""

    channels: int = 64  # of each FPN layer
    reduced: int = 96  # channels that can be sent, on the grid of p4
    hidden: int = 96  # of the blocks on the grid of p4
    refined: int = 24  # of the blocks on the grids of p2..p5

    def __post_init__(self):
        if not 1 <= self.reduced <= MAX_REDUCED:
            raise InputError(f"reduced: expected 1 to {MAX_REDUCED} channels, found {self.reduced}")
