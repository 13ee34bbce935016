# SPDX-License-Identifier: BSD-3-Clause
"""Does a decoder that knows the documents alone find the latents, and features, of our files?"""

import ast
from pathlib import Path

import independent_decoder
import pytest
import torch
from vfcn_tiny import pyramid, tiny_weights

from vcm_plugin.bitstream import Timing
from vcm_plugin.conditions import bundled_weights
from vcm_plugin.diff_fchm.machine.codec import MachineCodec

GOLDEN = Path(__file__).parent / "golden"
MINICTC = Path(bundled_weights("minictc_vfcn.safetensors"))
TINY = GOLDEN / "tiny.vfcn"
FILES = {path: TINY for path in sorted(GOLDEN.glob("tiny_s[0-9]*.fcm"))}
FILES |= {path: MINICTC for path in sorted(GOLDEN.glob("minictc_s*.fcm"))}

PICTURES = sorted(GOLDEN.glob("tiny_picture_qp*.fcm"))
LEARNED = sorted(GOLDEN.glob("tiny_learned_qp*.fcm"))


def kinds(data: bytes, *weights: Path) -> list[int]:
    """Decode every frame and compare; the types of their units."""
    networks = [independent_decoder.Networks(path) for path in weights]
    found = list(independent_decoder.decode_file(data, *networks))
    assert all(computed == stated for _, computed, stated in found)
    return [unit.kind for unit, _, _ in found]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_files(path):
    assert kinds(path.read_bytes(), FILES[path]) == [1]


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_golden_pictures(path):
    assert kinds(path.read_bytes(), GOLDEN / "tiny.picture") == [6]


@pytest.mark.parametrize("path", LEARNED, ids=lambda path: path.stem)
def test_golden_learned_pictures(path):
    """A machine unit, and the latents of a picture behind it."""
    networks, picture = (independent_decoder.Networks(GOLDEN / f"tiny.{k}") for k in
                         ("vfcn", "picture"))  # fmt: skip
    found = list(independent_decoder.decode_file(path.read_bytes(), networks, picture=picture))
    assert [unit.kind for unit, _, _ in found] == [1, 9]
    assert all(computed == stated for _, computed, stated in found)


@pytest.mark.parametrize(
    "name, machine, inter",
    [
        ("tiny_sequence", TINY, GOLDEN / "tiny.inter"),
        ("minictc_inter", MINICTC, Path(bundled_weights("minictc_inter.safetensors"))),
    ],
)
def test_golden_sequences(name, machine, inter):
    found = kinds((GOLDEN / f"{name}.fcm").read_bytes(), machine, inter)
    assert found[0] == 1 and 5 in found


def test_a_sequence_of_intra_frames(tmp_path):
    weights = tiny_weights(tmp_path)
    frames = [pyramid((64, 90), seed=n) for n in range(3)]
    with open(tmp_path / "x.fcm", "wb") as file:
        MachineCodec(weights).encode_frames(frames, "1.4", Timing(3, (30, 1)), file)
    assert kinds((tmp_path / "x.fcm").read_bytes(), weights) == [1, 1, 1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_features_of_golden_files(path):
    data, networks = path.read_bytes(), independent_decoder.Networks(FILES[path])
    codec = MachineCodec(FILES[path])
    layer = codec.decode_latents(data)
    ours = codec.synthesise(layer).layers
    found = independent_decoder.synthesise(networks, layer.latents.y, *layer.payload.value_range)
    ours["p6"] = torch.nn.functional.max_pool2d(ours["p5"][None], 1, 2)[0]  # as NN-Part2 has it
    for name, expected in ours.items():
        (_, height, width), scale = expected.shape, float(expected.abs().max())
        apart = abs(found[name][:, :height, :width] - expected.double().numpy()).max()
        assert apart < 1e-5 * scale, f"{name}: {apart} beside values of up to {scale}"


def test_it_knows_nothing_of_ours():
    tree = ast.parse(Path(independent_decoder.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names | modules == {
        "dataclasses",
        "hashlib",
        "json",
        "math",
        "numpy",
        "pathlib",
        "struct",
        "sys",
        "zlib",
    }
