# SPDX-License-Identifier: BSD-3-Clause
"""Which products of integers does float32, half the work of float64, make exactly?

A sum of integers is exact in float32 in any order where the absolute values of its terms add up to
less than 2^24. Few sums of the entropy networks are that small as a whole, nearly all are in parts
(three or one of the nine taps of a convolution at a time), and the inputs themselves are asked: of
activations that are mostly zero the largest of each channel would say several times too much.
"""

from __future__ import annotations

import torch

EXACT = 2.0**24 - 2.0**10  # of a sum in float32; the margin is for the rounding of the question
GROUP = 64  # outputs, asked about together


def reach_of(weight: torch.Tensor) -> torch.Tensor:
    """Weights (9, C, O) below 2^24 -> the largest of each sign among GROUP outputs, float32
    (9, C, G): inputs are never negative, so that a sum is at most what one sign adds to it."""
    groups = [side.amax(2) for side in (*weight.split(GROUP, 2), *(-weight).split(GROUP, 2))]
    return torch.stack(groups, dim=2).clamp_(min=0).float()


def exact_parts(inputs: torch.Tensor, reach: torch.Tensor) -> int:
    """The least parts, by taps, of the sums over `inputs` that float32 has room for, or 0.

    inputs: float32 (n, 9, C) of integers from 0 to 2^24. reach: of the weights, (9, C, G).
    """
    if not inputs.numel():
        return 1
    sums = torch.bmm(inputs.transpose(0, 1), reach)  # (9, n, G)
    for parts in (1, 3, 9):
        if sums.unflatten(0, (parts, -1)).sum(1).max().item() <= EXACT:
            return parts
    return 0


def add_products(
    totals: torch.Tensor, weight: torch.Tensor, inputs: torch.Tensor, parts: int, unit: float
) -> None:
    """totals (O, n) += unit * weight (K, O).T @ inputs (n, K).T, `parts` of K at a time."""
    for some, given in zip(weight.chunk(parts), inputs.chunk(parts, 1)):
        totals.add_(torch.mm(some.T, given.T), alpha=unit)


def float32_is_kept() -> bool:
    """Whether a product of float32 matrices on the CPU is computed in float32.

    So it is by MKL, unless torch may hand it to oneDNN with bfloat16 or TF32.
    """
    return torch.backends.mkl.is_available() and (
        torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee")
        if hasattr(torch.backends.mkldnn, "matmul")
        else torch.get_float32_matmul_precision() == "highest"
    )
