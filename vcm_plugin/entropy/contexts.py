# SPDX-License-Identifier: BSD-3-Clause
"""The integer context networks, without what EntropyNetworks.of_y computes for nothing.

The first convolution of a pass is a sum over psi and the slices of y that the pass knows. Each of
these is multiplied once, as soon as it is known, with the weights of all later slices side by side,
and only at the positions of the pass: half of them, a colour of the checkerboard. Of its own slice
the second colour knows the four neighbours. All sums are exact (integer.py), so they are those of
of_y in another order.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from vcm_plugin.entropy.integer import by_tap, settle
from vcm_plugin.entropy.networks import EntropyNetworks

EDGES = (1, 3, 5, 7)  # of the nine taps, those on the other colour


class Checkerboard:
    """The positions of both colours on a grid (height, width).

    flat[colour]: (positions,) in row order; inside[colour]: the same in a grid padded by one;
    around[colour]: (positions, 9), the neighbourhoods in the padded grid.
    """

    def __init__(self, grid: tuple[int, int], device: torch.device):
        (height, width), self.grid = grid, grid
        row = torch.arange(height, device=device)[:, None].expand(height, width).flatten()
        column = torch.arange(width, device=device).repeat(height)
        shifts = torch.arange(3, device=device)
        taps = (shifts[:, None] * (width + 2) + shifts).flatten()
        self.flat = [torch.nonzero((row + column) % 2 == colour)[:, 0] for colour in (0, 1)]
        corner = [row[at] * (width + 2) + column[at] for at in self.flat]
        self.inside = [at + width + 3 for at in corner]
        self.around = [at[:, None] + taps for at in corner]

    def padded(self, channels: int, like: torch.Tensor) -> torch.Tensor:
        """Zeros, (padded positions, channels)."""
        return like.new_zeros((self.grid[0] + 2) * (self.grid[1] + 2), channels)


class IntegerContexts(nn.Module):
    """The contexts of integer EntropyNetworks, pass by pass.

    `begin` with psi, then for every slice `of` colour 0, `know` it, `of` colour 1, `know` it.
    """

    def __init__(self, networks: EntropyNetworks):
        super().__init__()
        first = [context[0] for context in networks.contexts]
        self.last = nn.ModuleList(context[-1] for context in networks.contexts)
        self.width, self.count = len(first[0].bias), len(networks.slices)
        shared = first[0].weight.shape[1] // 9  # channels of psi, all that the first pass knows
        sizes = [shared, *(own.stop - own.start for own in networks.slices)]
        for colour in (0, 1):
            passes = [(conv.weight.unflatten(1, (-1, 9)), conv.bias) for conv in first[colour::2]]
            self.register_buffer(f"bias{colour}", torch.cat([bias for _, bias in passes]))
            start = 0
            for block, size in enumerate(sizes[:-1]):
                later = torch.cat([w[:, start : start + size] for w, _ in passes[block:]])
                self.register_buffer(f"block{block}_{colour}", by_tap(later.flatten(1), 3))
                start += size
        for number, (conv, size) in enumerate(zip(first[1::2], sizes[1:])):
            own = conv.weight.unflatten(1, (-1, 9))[:, -size:, EDGES]
            self.register_buffer(f"own{number}", by_tap(own.flatten(1), 2))

    def begin(self, psi: torch.Tensor) -> Sums:
        """psi (1, n, h, w) -> the sums of a picture, to which psi has been added."""
        board = Checkerboard(tuple(psi.shape[-2:]), psi.device)
        rows = F.pad(psi[0].permute(1, 2, 0), (0, 0, 1, 1, 1, 1)).flatten(0, 1)
        return Sums(self, board, rows)


class Sums:
    """The first convolutions of all passes over one picture, as far as y is known."""

    def __init__(self, contexts: IntegerContexts, board: Checkerboard, psi: torch.Tensor):
        self.contexts, self.board = contexts, board
        self.totals = [
            torch.addmm(self._weight(f"bias{c}"), self._rows(psi, c), self._weight(f"block0_{c}"))
            for c in (0, 1)
        ]  # (positions of the colour, slices * width)

    def of(self, number: int, colour: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and raw level of slice `number` at the positions of a colour, (channels, positions).

        In 1/256, as EntropyNetworks.of_y.
        """
        width, last = self.contexts.width, self.contexts.last[2 * number + colour]
        sums = self.totals[colour][:, number * width : (number + 1) * width]
        hidden = settle(sums.clone(), lowest=0)
        return settle(torch.addmm(last.bias[:, None], last.weight, hidden.T)).chunk(2)

    def know(self, number: int, colour: int, y_hat: torch.Tensor) -> None:
        """Take in slice `number` at the positions of a colour, (channels, positions) in 1/256."""
        width, count = self.contexts.width, self.contexts.count
        if colour == 0:
            self.block = self.board.padded(len(y_hat), y_hat)
        self.block[self.board.inside[colour]] = y_hat.T
        if colour == 0:
            rows = self.block[self.board.around[1][:, EDGES]].flatten(1)
            own = self.totals[1][:, number * width : (number + 1) * width]
            own.addmm_(rows, self._weight(f"own{number}"))
        elif number + 1 < count:
            for c in (0, 1):
                later = self.totals[c][:, (number + 1) * width :]
                later.addmm_(self._rows(self.block, c), self._weight(f"block{number + 1}_{c}"))

    def _rows(self, block: torch.Tensor, colour: int) -> torch.Tensor:
        """(positions, 9 * channels): the neighbourhoods of a colour in a padded block."""
        return block[self.board.around[colour]].flatten(1)

    def _weight(self, name: str) -> torch.Tensor:
        return self.contexts.get_buffer(name)
