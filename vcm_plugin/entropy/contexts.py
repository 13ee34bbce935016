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

from vcm_plugin.entropy.integer import by_tap, settle
from vcm_plugin.entropy.networks import EntropyNetworks

EDGES = (1, 3, 5, 7)  # of the nine taps, those on the other colour


class Checkerboard:
    """Both colours of a grid (height, width), and how the cells of the grid lie in memory.

    Rows follow each other with one or two cells of padding between them, so that their distance is
    odd: every second cell is of the same colour, and the neighbourhoods of a colour are slices.
    cells[colour]: which cells of the grid are of the colour, in row order; among[colour]: where
    they stand among all cells of the colour, those of the padding included.
    """

    def __init__(self, grid: tuple[int, int], device: torch.device):
        height, width = self.grid = grid
        self.stride = width + 1 + width % 2
        self.before = self.stride + 1  # cells of padding ahead of the first row, and after the last
        row = torch.arange(height, device=device)[:, None].expand(height, width).flatten()
        column = torch.arange(width, device=device).repeat(height)
        colours = (row + column) % 2
        self.cells = [torch.nonzero(colours == colour)[:, 0] for colour in (0, 1)]
        self.among = [(row * self.stride + column)[at] // 2 for at in self.cells]

    def empty(self, channels: int, like: torch.Tensor) -> torch.Tensor:
        """Zeros, (cells with padding, channels)."""
        cells = self.grid[0] * self.stride + 1
        return like.new_zeros(cells + 2 * self.before, channels)

    def rows(self, block: torch.Tensor, colour: int) -> torch.Tensor:
        """(cells of the colour, 9 * channels): their neighbourhoods in a padded block."""
        channels = block.shape[1]
        count = (self.grid[0] * self.stride + 1 - colour) // 2
        shape, strides = (count, 3, 3 * channels), (2 * channels, self.stride * channels, 1)
        return block[colour:].as_strided(shape, strides).reshape(count, -1)


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
        block, (height, width) = board.empty(psi.shape[1], psi), board.grid
        cells = block[board.before :][: height * board.stride].unflatten(0, (height, -1))
        cells[:, :width] = psi[0].permute(1, 2, 0)
        return Sums(self, board, block)


class Sums:
    """The first convolutions of all passes over one picture, as far as y is known."""

    def __init__(self, contexts: IntegerContexts, board: Checkerboard, psi: torch.Tensor):
        self.contexts, self.board = contexts, board
        self.totals = []  # of each colour, (slices * width, cells)
        for c in (0, 1):
            bias, weight = self._weight(f"bias{c}"), self._weight(f"block0_{c}")
            self.totals.append(torch.addmm(bias[:, None], weight, board.rows(psi, c).T))

    def of(self, number: int, colour: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and raw level of slice `number` at the cells of a colour, (channels, cells).

        In 1/256, as EntropyNetworks.of_y.
        """
        width, last = self.contexts.width, self.contexts.last[2 * number + colour]
        sums = self.totals[colour][number * width : (number + 1) * width]
        hidden = settle(sums.index_select(1, self.board.among[colour]), lowest=0)
        return settle(torch.addmm(last.bias[:, None], last.weight, hidden)).chunk(2)

    def know(self, number: int, colour: int, y_hat: torch.Tensor) -> None:
        """Take in slice `number` at the cells of a colour, (channels, cells) in 1/256."""
        width, board = self.contexts.width, self.board
        if colour == 0:
            self.block = board.empty(len(y_hat), y_hat)
        self.block[board.before + colour :: 2][board.among[colour]] = y_hat.T
        if colour == 0:
            own = self.totals[1][number * width : (number + 1) * width]
            rows = board.rows(self.block, 1).unflatten(1, (9, -1))[:, EDGES]
            torch.addmm(own, self._weight(f"own{number}"), rows.flatten(1).T, out=own)
        elif number + 1 < self.contexts.count:
            for c in (0, 1):
                later = self.totals[c][(number + 1) * width :]
                weight = self._weight(f"block{number + 1}_{c}")
                torch.addmm(later, weight, board.rows(self.block, c).T, out=later)

    def _weight(self, name: str) -> torch.Tensor:
        return self.contexts.get_buffer(name)
