# SPDX-License-Identifier: BSD-3-Clause
"""The entropy coder: round trips, its cost against the entropy, and input that nobody encoded."""

import numpy as np
import pytest

from vcm_plugin.entropy.latent_coder import gaussian_tables
from vcm_plugin.entropy.networks import SCALE_LEVELS, SCALE_MIN, SCALE_STEP
from vcm_plugin.entropy.rans import PRECISION, SYMBOL_LIMIT, Decoder, Encoder, Tables
from vcm_plugin.errors import BitstreamError

TABLES = gaussian_tables()


def symbols(count: int, seed: int, lowest: int = 0, highest: int = SCALE_LEVELS):
    rng = np.random.default_rng(seed)
    levels = rng.integers(lowest, highest, count)
    sigma = SCALE_MIN * np.exp(SCALE_STEP * levels)
    return np.where(levels > 0, np.rint(rng.normal(0, sigma)), 0).astype(np.int64), levels


def coded(q: np.ndarray, levels: np.ndarray) -> bytes:
    encoder = Encoder(TABLES)
    encoder.add(q, levels)
    return encoder.finish()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 17, 5000])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_round_trip(count, seed):
    q, levels = symbols(count, seed)
    decoder = Decoder(TABLES, coded(q, levels))
    half = count // 2
    found = np.concatenate((decoder.take(levels[:half]), decoder.take(levels[half:])))
    decoder.finish()
    assert (found == q).all()


@pytest.mark.parametrize("value", [-SYMBOL_LIMIT, SYMBOL_LIMIT, 700, -2, 0])
def test_escapes_reach_the_whole_range(value):
    q, levels = np.array([0, value, 1]), np.array([4, 1, 2])
    decoder = Decoder(TABLES, coded(q, levels))
    assert (decoder.take(levels) == q).all()
    decoder.finish()


def test_the_cost_is_the_entropy_of_the_tables():
    q, levels = symbols(20000, 5)
    ideal = 0.0
    for value, level in zip(q.tolist(), levels.tolist()):
        row = TABLES.rows[level]
        entry = value + (len(row) - 3) // 2
        if level and 0 <= entry < len(row) - 2:
            ideal += PRECISION - np.log2(row[entry + 1] - row[entry])
        elif level:
            ideal += PRECISION + 16
    assert ideal - 8 < 8 * len(coded(q, levels)) < 1.002 * ideal + 8


def test_what_is_certain_costs_nothing():
    zeros = np.zeros(10000, np.int64)
    assert coded(zeros, zeros) == b""


def test_every_truncation_and_extension_ends():
    q, levels = symbols(300, 7)
    data = coded(q, levels)
    for cut in [*(data[:n] for n in range(len(data))), data + b"\0", data + b"\x80\x01"]:
        decoder = Decoder(TABLES, cut)
        try:
            found = decoder.take(levels)
            decoder.finish()
        except BitstreamError:
            continue
        assert len(found) == len(q)  # such a one is caught by the checksum of the latents


def test_random_bytes_end_and_stay_in_bounds():
    rng = np.random.default_rng(11)
    for _ in range(200):
        levels = rng.integers(0, SCALE_LEVELS, 400)
        decoder = Decoder(TABLES, rng.bytes(int(rng.integers(0, 300))))
        try:
            assert np.abs(decoder.take(levels)).max() <= SYMBOL_LIMIT
            decoder.finish()
        except BitstreamError:
            pass


def test_tables_are_kept_as_they_are():
    again = Tables.from_array(TABLES.to_array())
    assert again == TABLES
    assert len(TABLES.rows) == SCALE_LEVELS
    assert all(row[-1] == 1 << PRECISION for row in TABLES.rows)


@pytest.mark.parametrize(
    "row",
    [(0, 5, 5, 1 << PRECISION), (0, 4, 9, 12), (1, 2, 1 << PRECISION), (0, 7, 3, 1 << PRECISION)],
)
def test_tables_that_are_none(row):
    with pytest.raises(BitstreamError, match="entropy table 0"):
        Tables((row,))
