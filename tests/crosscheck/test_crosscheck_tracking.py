# SPDX-License-Identifier: BSD-3-Clause
"""Is a tracking run packed and confirmed, and are false tracks and ground truth caught?"""

import json

import pytest
from drawn_tracking import draw_set
from test_crosscheck import edit, tampered

from vcm_plugin.crosscheck.check import CheckOptions, crosscheck
from vcm_plugin.crosscheck.findings import FAILED, NOT_CONFIRMED, REMARK, WITH_REMARKS
from vcm_plugin.crosscheck.package import make_package
from vcm_plugin.ctc.run import RunOptions, run

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def packed(tmp_path_factory, shared_cache):
    """The folder of a drawn set in the layout of TVD, with a package of a run on it."""
    root = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        condition = draw_set(root, "tvd_tracking", 4)
        run(condition, "diff_fchm", root / "run", RunOptions(data_root=root))
        make_package(root / "run", [], root / "proposal.zip")
    return root


def options(root) -> CheckOptions:
    return CheckOptions((root / "small.pt", root / "tiny.safetensors"), root)


def failures(check) -> list[str]:
    return [finding.text for finding in check.findings if finding.status == FAILED]


def test_an_honest_run_is_confirmed(packed):
    check = crosscheck(packed / "proposal.zip", options(packed))
    remarks = [finding for finding in check.findings if finding.status == REMARK]
    assert check.verdict == WITH_REMARKS, failures(check)
    assert [finding.step for finding in remarks] == ["config"]  # tvd_tracking, but of another size
    assert len(check.points) == 1 + 4
    for row in check.points:
        assert set(row.accuracy) >= {"mota", "idf1", "hota"}


def test_a_false_mota_is_caught(packed, tmp_path):
    def claim(folder):
        own = folder / "runs/diff_fchm"

        def better(point):
            point["accuracy"]["mota"] += 0.5

        edit(own / "result.json", lambda result: better(result["points"][1]))
        point = json.loads((own / "result.json").read_text())["points"][1]["rate_point"]
        edit(own / point / "point.json", better)

    check = crosscheck(
        tampered(packed / "proposal.zip", tmp_path, claim, signed=True), options(packed)
    )
    assert check.verdict == NOT_CONFIRMED
    assert any("claimed accuracy.mota" in text or "mota" in text for text in failures(check))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("track_id", None, "track_id: expected a whole number"),
        ("confidence", "high", "confidence: expected a number, found 'high'"),
    ],
)
def test_ground_truth_without_identities_is_refused(packed, tmp_path, key, value, message):
    def claim(folder):
        edit(
            folder / "runs/diff_fchm/ground_truth.json",
            lambda truth: truth["annotations"][0].update({key: value}),
        )

    check = crosscheck(
        tampered(packed / "proposal.zip", tmp_path, claim, signed=True), options(packed)
    )
    assert check.verdict == NOT_CONFIRMED and any(message in text for text in failures(check))


def test_two_tracks_of_one_identity_are_refused(packed, tmp_path):
    def claim(folder):
        path = folder / "runs/diff_fchm/uncompressed/pictures.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        tracks = next(line["predictions"] for line in lines if line["predictions"])
        tracks.append(tracks[-1])
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    check = crosscheck(
        tampered(packed / "proposal.zip", tmp_path, claim, signed=True), options(packed)
    )
    assert check.verdict == NOT_CONFIRMED
    assert any("track_id: expected a whole number, once in frame" in t for t in failures(check))
