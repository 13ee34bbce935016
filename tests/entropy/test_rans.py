# SPDX-License-Identifier: BSD-3-Clause
"""The entropy coder: round trips, its cost against the entropy, and input that nobody encoded."""

import os
import shutil
import subprocess
import sys
from bisect import bisect_right
from pathlib import Path

import numpy as np
import pytest

from vcm_plugin.entropy import rans
from vcm_plugin.entropy.latent_coder import gaussian_tables
from vcm_plugin.entropy.networks import SCALE_LEVELS, SCALE_MIN, SCALE_STEP
from vcm_plugin.entropy.rans import PRECISION, SYMBOL_LIMIT, Decoder, Encoder, Tables
from vcm_plugin.errors import BitstreamError

TABLES = gaussian_tables()


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def loop(request, monkeypatch):
    """Every test runs with the compiled loops, and with the same loops as they stand."""
    if request.param == "compiled":
        pytest.importorskip("numba")
        monkeypatch.setattr(rans, "PATIENCE", -1)
    else:
        monkeypatch.setattr(rans, "_compiled", lambda: None)  # as where numba is not installed


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


# --- against the coder with Python's integers that wrote the first files ---------------------


def coded_by_steps(q: np.ndarray, levels: np.ndarray) -> bytes:
    steps, state, emitted, share = [], 0, bytearray(), 1 << (PRECISION - 8)
    for value, level in zip(q.tolist(), levels.tolist()):
        if level == 0:
            continue
        row = TABLES.rows[level]
        entry = value + (len(row) - 3) // 2
        escaped = not 0 <= entry < len(row) - 2
        entry = len(row) - 2 if escaped else entry
        steps.append((row[entry], row[entry + 1] - row[entry]))
        if escaped:
            plain = value + SYMBOL_LIMIT
            steps += [((plain >> 8) * share, share), ((plain & 0xFF) * share, share)]
    for first, count in reversed(steps):
        while state >= count << (31 - PRECISION):
            emitted.append(state & 0xFF)
            state >>= 8
        state = (state // count << PRECISION) + first + state % count
    return state.to_bytes((state.bit_length() + 7) // 8, "big") + bytes(reversed(emitted))


@pytest.mark.parametrize("seed", range(8))
def test_the_bytes_are_those_of_the_first_coder(seed):
    rng = np.random.default_rng(seed)
    q, levels = symbols(int(rng.integers(0, 4000)), seed, *((0, 3), (0, 48), (40, 48))[seed % 3])
    wild = rng.random(q.size) < (0.0, 0.01, 0.5)[seed % 3]
    q = np.where(wild & (levels > 0), rng.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT + 1, q.size), q)
    assert coded(q, levels) == coded_by_steps(q, levels)


def test_the_buckets_lead_to_the_entry_of_every_slot():
    for level, row in enumerate(TABLES.rows):
        for slot in range(0, 1 << PRECISION, 37):
            at = TABLES.buckets[(level << (PRECISION - rans.BUCKET_BITS)) + (slot >> 7)]
            wanted = TABLES.starts[level] + bisect_right(row, slot) - 1
            assert at <= wanted and TABLES.counts[at] <= slot


def test_both_loops_end_alike_on_bytes_that_nobody_encoded(loop, monkeypatch):
    pytest.importorskip("numba")
    rng = np.random.default_rng(3)
    for _ in range(100):
        data, levels = rng.bytes(int(rng.integers(0, 200))), rng.integers(0, SCALE_LEVELS, 300)
        ends = []
        for patience in (-1, 1 << 60):
            monkeypatch.undo()
            monkeypatch.setattr(rans, "PATIENCE", patience)
            decoder = Decoder(TABLES, data)
            try:
                ends.append((decoder.take(levels).tolist(), decoder.state, decoder.offset))
            except BitstreamError as error:
                ends.append(str(error))
        assert ends[0] == ends[1]


IN_A_PROCESS = """
import sys, numpy as np
sys.modules.update({name: None for name in sys.argv[1:]})
from vcm_plugin.entropy import rans
rans.PATIENCE = -1
row = (0, 1000, 30000, 32000, 1 << 15)
tables = rans.Tables((row, row))
levels = np.ones(500, np.int64)
q = np.random.default_rng(1).integers(-1, 2, 500)
encoder = rans.Encoder(tables)
encoder.add(q, levels)
data = encoder.finish()
decoder = rans.Decoder(tables, data)
assert (decoder.take(levels) == q).all()
decoder.finish()
print(rans._compiled() is not None, data.hex())
"""


@pytest.mark.parametrize("loop", ["compiled"], indirect=True)
def test_where_numba_is_missing_and_where_no_cache_can_be_written(tmp_path, loop):
    """A package that cannot be written to, and no home: compiled in memory. The same bytes."""
    shutil.copytree(Path(rans.__file__).parents[1], tmp_path / "vcm_plugin",
                    ignore=shutil.ignore_patterns("weights", "__pycache__"))  # fmt: skip
    folder = tmp_path / "vcm_plugin/entropy"
    (folder / "__pycache__").write_text("a file, so that no folder of this name can be made")
    nowhere = str(folder / "__pycache__" / "x")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HOME": nowhere,
                   "XDG_CACHE_HOME": nowhere, "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    found = [
        subprocess.run(
            [sys.executable, "-c", IN_A_PROCESS, *missing], env=environment, cwd=tmp_path,
            capture_output=True, text=True, check=True,
        ).stdout.split()
        for missing in ([], ["numba"])
    ]  # fmt: skip
    assert [row[0] for row in found] == ["True", "False"]
    assert found[0][1] == found[1][1]
