# SPDX-License-Identifier: BSD-3-Clause
"""Does a decoder that knows the documents alone find the latents of our files?"""

import ast
from pathlib import Path

import independent_decoder
import pytest
from vfcn_tiny import pyramid, tiny_weights

from vcm_plugin.bitstream import Timing
from vcm_plugin.conditions import bundled_weights
from vcm_plugin.diff_fchm.machine.codec import MachineCodec

GOLDEN = Path(__file__).parent / "golden"
WEIGHTS = {"tiny": GOLDEN / "tiny.vfcn", "minictc": bundled_weights("minictc_vfcn.safetensors")}
FILES = sorted(path for path in GOLDEN.glob("*_s*.fcm"))


def check(weights: Path, data: bytes) -> int:
    """Decode every machine unit; how many there are."""
    networks = independent_decoder.Networks(weights)
    units = list(independent_decoder.machine_units(data))
    for grid, payload in units:
        computed, stated = independent_decoder.decode_latents(networks, payload, grid)
        assert computed == stated
    return len(units)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_files(path):
    assert check(WEIGHTS[path.stem.partition("_")[0]], path.read_bytes()) == 1


def test_a_sequence(tmp_path):
    weights = tiny_weights(tmp_path)
    frames = [pyramid((64, 90), seed=n) for n in range(3)]
    with open(tmp_path / "x.fcm", "wb") as file:
        MachineCodec(weights).encode_frames(frames, "1.4", Timing(3, (30, 1)), file)
    assert check(weights, (tmp_path / "x.fcm").read_bytes()) == 3


def test_it_knows_nothing_of_ours():
    tree = ast.parse(Path(independent_decoder.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    assert names == {"json", "struct", "sys", "zlib", "numpy"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))
