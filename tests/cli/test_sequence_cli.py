# SPDX-License-Identifier: BSD-3-Clause
"""Sequences on the command line: facts of a file, one frame, all frames of a damaged file."""

import json

import pytest

from vcm_plugin.bitstream import FrameReader, Timing
from vcm_plugin.cli.main import main
from vcm_plugin.ctc.codecs import load_condition, make_codec
from vcm_plugin.ctc.detector import load_detector
from vcm_plugin.testsets.minictc_sequences import draw_sequence

CONDITION = ["--condition", "minictc_sequences"]


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """Four drawn frames in one file, the third intra again."""
    condition = load_condition("minictc_sequences")
    codec, model = make_codec("diff_fchm", condition), load_detector(condition, "cpu")
    codec.intra_period = 2
    path = tmp_path_factory.mktemp("sequence") / "sequence.fcm"
    frames = (model.nn_part1(picture) for picture, _ in draw_sequence("val", 4, count=4))
    with path.open("wb") as file:
        codec.encode_frames(frames, "4", Timing(4, (30, 1)), file)
    return path


def test_facts_of_a_sequence(sequence, capsys):
    assert main(["info", str(sequence)]) == 0
    said = capsys.readouterr().out
    assert "4 frames at 30 per second" in said
    assert "2 intra frames (0, 2), 2 inter frames" in said and "structural delay 0" in said


def test_one_frame(sequence, tmp_path, capsys):
    out = tmp_path / "frame.json"
    assert main(["decode", str(sequence), "--frame", "3", "-o", str(out), *CONDITION]) == 0
    assert json.loads(out.read_text())
    assert main(["decode", str(sequence), "--frame", "4", *CONDITION]) == 2
    assert "expected a frame from 0 to 3, found 4" in capsys.readouterr().err


def test_a_damaged_sequence(sequence, tmp_path, capsys):
    data, out = bytearray(sequence.read_bytes()), tmp_path / "frames.json"
    data[FrameReader.open(sequence).starts[2] - 1] ^= 1
    damaged = tmp_path / "damaged.fcm"
    damaged.write_bytes(data)
    assert main(["decode", str(damaged), "--frame", "1", *CONDITION]) == 2
    assert "frame 1: " in capsys.readouterr().err
    words = ["decode", str(damaged), "--keep-going", *CONDITION]
    assert main([*words, "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "frames 1 to 1 are lost" in said and "3 of 4 frames decoded" in said
    assert [item["frame"] for item in json.loads(out.read_text())] == [0, 2, 3]
    assert main([*words, "--frame", "1"]) == 2
    assert "--keep-going: expected no --frame" in capsys.readouterr().err
