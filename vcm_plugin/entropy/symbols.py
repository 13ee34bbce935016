# SPDX-License-Identifier: BSD-3-Clause
"""What does a symbol cost in bits, and is the next one towards 0 worth its error?"""

from __future__ import annotations

import numpy as np

from vcm_plugin.entropy.rans import PRECISION, Tables

ErrorWeight = float | np.ndarray  # bits that a squared error of 1 is worth: alike, or (h, w) cells


def symbol_costs(tables: Tables) -> np.ndarray:
    """Bits of a symbol of each level by its absolute value, float64 (levels, values); the last
    column is that of an escape with the 16 bits after it."""
    entries = max(len(row) for row in tables.rows) // 2
    costs = np.zeros((len(tables.rows), entries + 1))
    for level, row in enumerate(tables.rows):
        bits = PRECISION - np.log2(np.diff(row))  # of -K .. K, then of the escape
        half = (len(bits) - 2) // 2
        costs[level] = bits[-1] + 16
        costs[level, : half + 1] = bits[half:-1]
    return costs


def by_cell(error_weight: ErrorWeight, order: np.ndarray) -> np.ndarray | None:
    """The error weight of each cell in coding order; None where symbols are just rounded.

    >>> by_cell(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0, 3, 1, 2])).tolist()
    [1.0, 4.0, 2.0, 3.0]
    """
    weights = np.asarray(error_weight, np.float64)
    if not weights.ndim:
        return None if np.isinf(weights) else np.full(len(order), weights)
    return weights.ravel()[order]


def cheaper(
    q: np.ndarray,
    residual: np.ndarray,
    level: np.ndarray,
    error_weight: ErrorWeight,
    costs: np.ndarray,
) -> np.ndarray:
    """q, or the next integer towards 0 where that costs less.

    residual: what q is rounded from. level: of the tables. error_weight: bits that a squared error
    of 1 is worth; alike, or of each q. costs: as symbol_costs makes them.

    >>> costs = np.array([[0.0, 99.0, 99.0], [0.1, 5.0, 9.0]])
    >>> cheaper(np.array([1, 1]), np.array([0.55, 0.9]), np.array([1, 1]), 8.0, costs).tolist()
    [0, 1]
    """
    some = np.nonzero(q)
    near, residual, level = q[some], residual[some], level[some]
    weight = np.broadcast_to(error_weight, q.shape)[some]
    lower = near - np.sign(near)
    most = costs.shape[1] - 1
    spent = [costs[level, np.minimum(np.abs(x), most)] for x in (near, lower)]
    error = [weight * np.square(residual - x) for x in (near, lower)]
    q = q.copy()
    q[some] = np.where(spent[1] + error[1] < spent[0] + error[0], lower, near)
    return q
