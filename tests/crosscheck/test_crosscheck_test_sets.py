# SPDX-License-Identifier: BSD-3-Clause
"""Are packages of runs on sequences and on Open Images confirmed, and forged ones not?"""

from functools import partial
from pathlib import Path

import pytest
from drawn_runs import drawn_oiv6
from test_crosscheck import edit, edit_lines, flip_a_byte, tampered

from vcm_plugin.crosscheck.check import CheckOptions, crosscheck
from vcm_plugin.crosscheck.findings import FAILED, NOT_CONFIRMED, REMARK, SKIPPED
from vcm_plugin.crosscheck.package import make_package
from vcm_plugin.ctc.results import load_result

POINT = "runs/diff_fchm/1.4"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, shared_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        return drawn_oiv6(tmp_path_factory.mktemp("oiv6"))


def packed(run: Path, folder: Path) -> Path:
    make_package(run, [], folder / "proposal.zip")
    return folder / "proposal.zip"


def checked(package: Path, **options):
    return crosscheck(package, CheckOptions(**options))


def failed(check) -> set[str]:
    return {finding.step for finding in check.findings if finding.status == FAILED}


def only_remark(check) -> bool:
    """Nothing but that a drawn set has the name of a real one, and is not what that is."""
    odd = [f for f in check.findings if f.status in (FAILED, REMARK, SKIPPED)]
    return [f.step for f in odd] == ["config"] and "says otherwise here" in odd[0].text


def test_sequences_are_confirmed(sfu, tmp_path, own_cache):
    package = packed(sfu, tmp_path)
    check = checked(package, data_root=sfu.parent, encode=True, threads=2)
    assert only_remark(check)
    texts = [finding.text for finding in check.findings]
    assert "3 lines and files, sizes as claimed" in texts
    assert sum("3 of 3 files identical" in text for text in texts) == 4
    stored = load_result(sfu).point("1.4")
    (row,) = [row for row in check.points if row.rate_point == "1.4"]
    assert row.found_bits == stored.bits
    assert row.accuracy["box_ap"].found == pytest.approx(stored.accuracy["box_ap"])


def test_sequences_that_are_not_here_are_decoded_all_the_same(sfu, tmp_path, own_cache):
    check = checked(packed(sfu, tmp_path))
    assert not failed(check)
    assert {f.step for f in check.findings if f.status == SKIPPED} == {"data", "predictions"}
    (row,) = [row for row in check.points if row.rate_point == "1.4"]
    assert row.unmatched_percent == 0 and row.feature_deviation < 1e-6


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_open_images_are_confirmed(pictures, task, tmp_path, own_cache):
    package = packed(pictures / task, tmp_path)
    check = checked(package, data_root=pictures)
    assert only_remark(check)
    metric = {"detection": "box_ap50", "segmentation": "mask_ap50"}[task]
    assert list(check.points[1].accuracy) == [metric]


def claim_a_better_class(folder):
    def change(point):
        point["classes"]["CLASS-D"]["box_ap"] += 0.01

    edit(folder / POINT / "point.json", change)
    edit(folder / "runs/diff_fchm/result.json", lambda result: change(result["points"][1]))


def move_bits_between_frames(folder):
    def line(lines):
        for record in lines:
            record["frame_bits"][0] -= 8
            record["frame_bits"][1] += 8
        return lines

    edit_lines(folder / POINT / "pictures.jsonl", line)


def rename_a_sequence(folder):
    def change(result):
        result["dataset"]["sequences"][0]["name"] = "BasketballDrill_832x480_50"

    edit(folder / "runs/diff_fchm/result.json", change)


def drop_a_detection(folder):
    edit_lines(
        folder / POINT / "pictures.jsonl",
        lambda lines: [{**r, "predictions": r["predictions"][1:]} for r in lines],
    )


@pytest.mark.parametrize(
    ("forge", "step"),
    [
        (partial(flip_a_byte, point=POINT), "bitstreams"),
        (claim_a_better_class, "accuracy"),
        (move_bits_between_frames, "bitstreams"),
        (rename_a_sequence, "accuracy"),
        (drop_a_detection, "accuracy"),
    ],
)
def test_forged_claims_about_sequences(forge, step, sfu, tmp_path, own_cache):
    forged = tampered(packed(sfu, tmp_path), tmp_path, forge, signed=True)
    check = checked(forged, data_root=sfu.parent)
    assert check.verdict == NOT_CONFIRMED and step in failed(check)
