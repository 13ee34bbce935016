# SPDX-License-Identifier: BSD-3-Clause
"""Can the scripts be called as the pages say, and do benches run on what they say?"""

import os
import re
import subprocess
import sys
from pathlib import Path

import drawn_sets
import pytest

ROOT = Path(__file__).parents[1]
SEQUENCES = """\
name: drawn_sequences
sequence_folder: SFU_HW_Obj/{}_val
sequences: [CLASS-D/BQSquare_416x240_60]
class_names: [ball, ring, crate, star, gear, leaf, cross, crescent]
model: minictc_mask_rcnn
weights: minictc_mask_rcnn.pth
runtime: torchvision
tasks: [box]
score_threshold: 0.5
iou_threshold: 0.5
diff_fchm_weights: minictc_vfcn.safetensors
diff_fchm_scales: [5.6]
"""


SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_called_by_its_name(path):
    assert path.read_text().startswith("#!/usr/bin/env python3\n") and os.access(path, os.X_OK)


def bench_loop(*words) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "scripts/bench_loop.py", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.usefixtures("own_cache")
def test_bench_loop_on_sequences(tmp_path):
    drawn_sets.draw_sfu(tmp_path, ["BQSquare_416x240_60"], frames=2, frame_rate=60)
    condition = tmp_path / "drawn.yaml"
    condition.write_text(SEQUENCES)
    done = bench_loop(condition, "--codec", "diff_fchm", "--data-root", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "s/sequence" in done.stdout and "result.json of all: the same bytes" in done.stdout
    for stage in ("nn_part1", "encode", "decode", "nn_part2", "evaluation"):
        row = re.search(rf"^{stage} +([0-9.]+) +([0-9.]+) +([0-9]+)$", done.stdout, re.MULTILINE)
        assert row and float(row[1]) > 0 and int(row[3]) > 100, done.stdout


def test_bench_loop_names_what_is_missing(tmp_path):
    done = bench_loop("sfu_hw", "--data-root", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        done.stderr.startswith("bench_loop: error:") and "Traffic_2560x1600_30_val" in done.stderr
    )


def campaign(script: str, *words) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "scripts" / script, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_campaign_of_damaged_files_reaches_every_place_of_refusal():
    kinds = ("machine", "private_sequence", "raw_vvc")
    done = campaign("campaign_files.py", "--files", 120, "--vvc", 60, "--kinds", *kinds)
    assert done.returncode == 0, done.stdout + done.stderr
    for place in ("refused by the CRC", "refused by the entropy decoder", "led up to FFmpeg"):
        assert place in done.stdout, done.stdout
    assert done.stdout.endswith("seed 0: 360 files, 0 faults\n")
    again = campaign("campaign_files.py", "--files", 120, "--kinds", "machine")
    counts = [re.search("files 0 to .*?;", x.stdout)[0] for x in (done, again)]
    assert counts[0] == counts[1], "a seed gives the same files"


def test_the_campaign_of_inputs_is_read_and_refused():
    done = campaign("campaign_inputs.py", "--examples", 40)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^(\w+): seed 0, \d+ inputs: (\d+) read, (\d+) refused", done.stdout, re.M)
    assert len(found) == 5, done.stdout
    assert all(int(read) >= 3 and int(refused) >= 3 for _, read, refused in found), found
