# SPDX-License-Identifier: BSD-3-Clause
"""The integer context networks, without what EntropyNetworks.of_y computes for nothing.

The first convolution of a pass is a sum over psi and the slices of y that the pass knows. Each of
these is multiplied once, as soon as it is known, with the weights of all later slices side by side,
and only at the positions of the pass: half of them, a colour of the checkerboard. Of its own slice
the second colour knows the four neighbours. All sums are exact (integer.py), so they are those of
of_y in another order.

Activations are small: the absolute values of nearly all sums over y, and over psi in thirds or tap
by tap, stay below 2^24, so that float32, half as much work, is exact as well (exact.py). Each
product is asked first. The fixed points of the last layer are part of its weights (powers of two,
which change no digit), so that settling its sums is rounding and clamping.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import nn

from vcm_plugin.entropy.exact import (
    EXACT,
    add_products,
    exact_parts,
    float32_is_kept,
    reach_of,
)
from vcm_plugin.entropy.integer import (
    ACTIVATION_LIMIT,
    ACTIVATION_STEPS,
    LATENT_STEPS,
    WEIGHT_BITS,
    IntegerConv,
)
from vcm_plugin.entropy.networks import LEVEL_GAIN, LEVEL_START, SCALE_LEVELS, EntropyNetworks
from vcm_plugin.entropy.rans import SYMBOL_LIMIT

EDGES = (1, 3, 5, 7)  # of the nine taps, those on the other colour
STEP = ACTIVATION_STEPS // LATENT_STEPS  # of latents, in 1/256
MANY = 0.8  # of a block's channels: with fewer that are not zero, only these are multiplied


class Checkerboard:
    """Both colours of a grid (height, width): its cells in the order of colours, then rows.

    order: where the cells stand in the grid, int64 of numpy. cells[colour]: those of a colour, a
    slice of that order. around[colour]: the nine neighbours of these cells in it, cell by cell;
    outside of the grid lies a cell of zeros after the last. edges: of colour 1, on colour 0.
    """

    def __init__(self, grid: tuple[int, int], device: torch.device):
        height, width = grid
        row, column = np.divmod(np.arange(height * width), width)
        self.order = np.argsort((row + column) % 2, kind="stable")
        first = (height * width + 1) // 2
        self.cells = (slice(0, first), slice(first, height * width))
        place = np.full((height + 2, width + 2), height * width)
        place[1 + row[self.order], 1 + column[self.order]] = np.arange(height * width)
        taps = [place[i : i + height, j : j + width] for i in range(3) for j in range(3)]
        around = np.stack(taps, axis=2).reshape(-1, 9)[self.order]
        indices = [around[own] for own in self.cells]
        self.edges = torch.from_numpy(indices[1][:, EDGES].ravel()).to(device)
        self.around = [torch.from_numpy(x.ravel()).to(device) for x in indices]


@lru_cache(maxsize=16)
def checkerboard(grid: tuple[int, int], device: torch.device) -> Checkerboard:
    """The Checkerboard of a grid; pictures of one size share it."""
    return Checkerboard(grid, device)


class IntegerContexts(nn.Module):
    """The contexts of integer EntropyNetworks, pass by pass.

    `begin` with psi, then for every slice `of` colour 0, `know` it, `of` colour 1, `know` it.
    """

    def __init__(self, networks: EntropyNetworks):
        super().__init__()
        first = [context[0] for context in networks.contexts]
        self.width, self.count = len(first[0].bias), len(networks.slices)
        shared = first[0].weight.shape[1] // 9  # channels of psi, all that the first pass knows
        sizes = [shared, *(own.stop - own.start for own in networks.slices)]
        for colour in (0, 1):
            passes = [(conv.taps, conv.bias) for conv in first[colour::2]]
            bias = torch.cat([bias for _, bias in passes])
            self.register_buffer(f"bias{colour}", bias[:, None] * 2.0**-WEIGHT_BITS + 0.5)
            start = 0
            for block, size in enumerate(sizes[:-1]):
                later = torch.cat([w[:, start : start + size] for w, _ in passes[block:]])
                self._register(f"{block}_{colour}", later)
                start += size
        for number, (conv, size) in enumerate(zip(first[1::2], sizes[1:])):
            self._register(f"own{number}", conv.taps[:, -size:, EDGES])
        for number, context in enumerate(networks.contexts):
            weight, bias = _quantised(context[-1])
            self.register_buffer(f"last{number}", weight)
            self.register_buffer(f"last_bias{number}", bias)
        lowest = torch.tensor([[-SYMBOL_LIMIT * LATENT_STEPS], [0]], dtype=torch.float64)
        highest = torch.tensor(
            [[SYMBOL_LIMIT * LATENT_STEPS], [SCALE_LEVELS - 1]], dtype=torch.float64
        )
        self.register_buffer("limits", torch.stack((lowest, highest))[..., None])  # (2, 2, 1, 1)

    def begin(self, psi: torch.Tensor) -> Sums:
        """psi (1, n, h, w) -> the sums of a picture, to which psi has been added."""
        board = checkerboard(tuple(psi.shape[-2:]), psi.device)
        block = psi.new_zeros(len(board.order) + 1, psi.shape[1])
        block[:-1] = psi[0].flatten(1)[:, torch.from_numpy(board.order).to(psi.device)].T
        return Sums(self, board, block)

    def _register(self, name: str, weight: torch.Tensor) -> None:
        """Weights (O, C, taps) of a block of inputs, and what their sums may reach: of psi as
        exact.reach_of, of y (O, C)."""
        kept = weight.permute(2, 1, 0).contiguous()  # (taps, C, O)
        self.register_buffer(f"block{name}", kept.float() if kept.abs().max() <= EXACT else kept)
        of_psi = name.startswith("0_")
        self.register_buffer(f"reach{name}", reach_of(kept) if of_psi else weight.abs().sum(2))


class Sums:
    """The first convolutions of all passes over one picture, as far as y is known."""

    def __init__(self, contexts: IntegerContexts, board: Checkerboard, psi: torch.Tensor):
        self.contexts, self.board = contexts, board
        self.narrow = psi.device.type == "cpu" and float32_is_kept()
        self.totals = []  # of each colour, (slices * width, cells), activations before rounding
        largest = psi.amax(0)  # of each channel
        for c, around in enumerate(board.around):
            bias = self._buffer(f"bias{c}")
            self.totals.append(bias.repeat(1, around.shape[0] // 9))
            self._add(self.totals[c], f"0_{c}", psi, around, largest)

    def of(self, number: int, colour: int) -> np.ndarray:
        """Means in 1/16 and levels of slice `number` at the cells of a colour, and what else a pass
        says; int32 (2 or more, channels, cells), as EntropyNetworks.of_y, and rounded."""
        width, name = self.contexts.width, 2 * number + colour
        sums = self.totals[colour][number * width : (number + 1) * width]
        hidden = torch.floor(sums).clamp_(0, ACTIVATION_LIMIT)
        bias, weight = self._buffer(f"last_bias{name}"), self._buffer(f"last{name}")
        lowest, highest = self._buffer("limits")
        last = torch.addmm(bias, weight, hidden).unflatten(0, (len(lowest), -1))
        return last.floor_().clamp_(lowest, highest).to(torch.int32).cpu().numpy()

    def know(self, number: int, colour: int, y_hat: np.ndarray) -> None:
        """Take in slice `number` at the cells of a colour, int32 (channels, cells) in 1/16."""
        width, board = self.contexts.width, self.board
        if colour == 0:
            shape = (len(board.order) + 1, len(y_hat))
            self.block = torch.zeros(shape, device=self.totals[0].device)
        self.block[board.cells[colour]].copy_(torch.from_numpy(y_hat).T)
        last = number + 1 == self.contexts.count
        if colour == 0 or not last:
            largest = self.block.abs().amax(0).double()  # of each channel
        if colour == 0:
            own = self.totals[1][number * width : (number + 1) * width]
            self._add(own, f"own{number}", self.block, board.edges, largest)
        elif not last:
            for c in (0, 1):
                later = self.totals[c][(number + 1) * width :]
                self._add(later, f"{number + 1}_{c}", self.block, board.around[c], largest)

    def _add(self, totals, name: str, block, around: torch.Tensor, largest: torch.Tensor) -> None:
        """Add the products of a block with the neighbourhoods `around`, in float32 if exact.

        block: psi in 1/256, or a slice of y in 1/16, (cells + 1, channels). largest: of each
        channel; those that are zero in the whole picture are left out.
        """
        alive = largest.nonzero()[:, 0]
        if not len(alive):
            return
        weight, of_psi = self._buffer(f"block{name}"), name.startswith("0_")
        whole = len(alive) >= MANY * len(largest)
        if not whole:
            block, weight = block[:, alive], weight.index_select(1, alive)
        narrow = self.narrow and weight.dtype == torch.float32
        rows = block.to(torch.float32 if narrow else torch.float64).index_select(0, around)
        rows = rows.view(-1, *weight.shape[:2])  # of each cell its taps, then channels
        parts = 0
        if narrow and of_psi:
            reach = self._buffer(f"reach{name}")
            parts = exact_parts(rows, reach if whole else reach.index_select(1, alive))
        elif narrow:
            parts = int((self._buffer(f"reach{name}") @ largest).max().item() <= EXACT)
        dtype = torch.float32 if parts else torch.float64
        weight, rows = weight.flatten(0, 1).to(dtype), rows.flatten(1).to(dtype)
        unit = 2.0**-WEIGHT_BITS * (1 if of_psi else STEP)
        add_products(totals, weight, rows, parts or 1, unit)

    def _buffer(self, name: str) -> torch.Tensor:
        return getattr(self.contexts, name)


def _quantised(conv: IntegerConv) -> tuple[torch.Tensor, torch.Tensor]:
    """The last layer of a context, so that the floor of its sums is means in 1/16 and levels.

    It rounds twice, to 1/256 and from there: floor((floor(x) + a) / n) is floor((x + a) / n).
    """
    count = len(conv.bias) // 2
    per_level = ACTIVATION_STEPS // LEVEL_GAIN
    units = torch.tensor([STEP, per_level], dtype=torch.float64).repeat_interleave(count)[:, None]
    starts = torch.tensor([0, LEVEL_START], dtype=torch.float64).repeat_interleave(count)[:, None]
    fixed = 2.0**-WEIGHT_BITS
    bias = (conv.bias[:, None] * fixed + 0.5 + units / 2) / units + starts
    return conv.weight * fixed / units, bias
