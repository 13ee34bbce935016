# SPDX-License-Identifier: BSD-3-Clause
"""Is a test run complete, repeatable and resumable, and is each bad input refused in one line?

Real detector architecture, real VVC encoder and decoder, two pictures.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from changed import changed

from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.picture_worker import Worker
from vcm_plugin.ctc.plan import Plan
from vcm_plugin.ctc.results import Skipped, load_result
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.errors import InputError
from vcm_plugin.files import locked
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.vvc import VVenC

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def calm(tiny_condition, shared_cache, tmp_path_factory):
    """One undisturbed run of each anchor."""
    before = os.environ.get("VCM_CACHE")
    os.environ["VCM_CACHE"] = str(shared_cache)
    folder = tmp_path_factory.mktemp("calm")
    for codec in ("vvc_feature", "vvc_remote"):
        run(load_condition(tiny_condition), codec, folder / codec, RunOptions())
    if before is None:
        del os.environ["VCM_CACHE"]
    else:
        os.environ["VCM_CACHE"] = before
    return folder


def run_feature(condition: Path, folder: Path, **options) -> dict:
    return run(load_condition(condition), "vvc_feature", folder, RunOptions(**options))


@pytest.mark.parametrize("codec", ["vvc_feature", "vvc_remote"])
def test_a_run_holds_what_was_coded(calm, codec):
    result = load_result(calm / codec)
    points = {"vvc_feature": ["37", "42"], "vvc_remote": ["37", "37@50"]}[codec]
    assert [point.rate_point for point in result.points] == points
    assert result.dataset.pictures == 2 and result.skipped == ()
    assert {"box_ap", "mask_ap", "box_f1", "mask_dice"} <= set(result.uncompressed.accuracy)
    for point in result.points:
        folder = calm / codec / point.rate_point
        files = sorted((folder / "bitstreams").iterdir())
        assert [8 * file.stat().st_size for file in files] == list(point.per_picture.bits)
        assert point.bits == sum(point.per_picture.bits)
        predictions = json.loads((folder / "predictions.json").read_text())
        assert {p["image_id"] for p in predictions} <= set(point.per_picture.image_id)
    assert result.points[0].bits > result.points[1].bits


def test_nothing_in_a_result_names_a_path_or_a_host(calm):
    for codec in ("vvc_feature", "vvc_remote"):
        text = (calm / codec / "result.json").read_text()
        assert str(calm) not in text and str(ROOT) not in text and os.uname().nodename not in text


def test_timings_hold_every_stage(calm):
    for codec, stages in (
        ("vvc_feature", {"encode", "decode", "nn_part2", "evaluation"}),
        ("vvc_remote", {"encode", "decode", "nn_part1", "nn_part2", "evaluation"}),
    ):
        timings = json.loads((calm / codec / "timings.json").read_text())
        assert set(timings["points"]["37"]) == stages
        assert set(timings["points"]["uncompressed"]) == {"nn_part1", "nn_part2", "evaluation"}
        assert timings["points"]["37"]["encode"]["sum"] > 0


def test_a_rerun_changes_nothing(calm, tiny_condition):
    folder = calm / "vvc_feature"
    before = _contents(folder)
    run_feature(tiny_condition, folder)
    assert _contents(folder) == before


def _contents(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "timings.json"]
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("options", [{"jobs": 2}, {"feature_cache_bytes": 0}])
def test_jobs_and_cache_do_not_change_the_result(calm, tiny_condition, tmp_path, options):
    run_feature(tiny_condition, tmp_path / "run", **options)
    _assert_same_result(calm, tmp_path / "run")


@pytest.mark.parametrize(
    "damage",
    ["torn line", "lost bitstream", "short bitstream", "lost point", "lost result", "torn draft"],
)
def test_what_is_missing_is_done_again(calm, tiny_condition, tmp_path, damage):
    folder = tmp_path / "run"
    shutil.copytree(calm / "vvc_feature", folder)
    point = folder / "42"
    if damage == "torn line":
        (point / "pictures.jsonl").write_bytes((point / "pictures.jsonl").read_bytes()[:-9])
    elif damage == "lost bitstream":
        (point / "bitstreams" / "1.fcm").unlink()
    elif damage == "short bitstream":
        os.truncate(point / "bitstreams" / "2.fcm", 10)
    elif damage == "lost point":
        shutil.rmtree(point)
    elif damage == "torn draft":
        (point / ".point.json.77").write_bytes(b"{")
    (folder / "result.json").unlink()
    run_feature(tiny_condition, folder)
    _assert_same_result(calm, folder)
    assert not list(folder.rglob(".*.77"))


@pytest.mark.parametrize("codec", ["vvc_feature", "vvc_remote"])
def test_pictures_that_share_processes_have_the_same_files(
    tiny_condition, tmp_path, monkeypatch, codec
):
    together = []

    def counted(encoder, pictures, qp):
        together.append(len(pictures))
        return coded_together(encoder, pictures, qp)

    coded_together = VVenC._coded_together
    monkeypatch.setattr(VVenC, "_coded_together", counted)
    condition = changed(
        load_condition(tiny_condition), limit=3, vvc_feature_qps=(42,), vvc_remote_sizes=(50,)
    )
    run(condition, codec, tmp_path / "alone", RunOptions())
    monkeypatch.setattr("vcm_plugin.ctc.run.UNITS_EACH", 1)
    run(condition, codec, tmp_path / "together", RunOptions())
    assert together == [1, 1, 1, 1, 1, 2, 1]  # the first of each: what the codec costs
    files = [tmp_path / name / "result.json" for name in ("alone", "together")]
    assert files[0].read_bytes() == files[1].read_bytes()


def _assert_same_result(calm: Path, folder: Path) -> None:
    ours, theirs = folder / "result.json", calm / "vvc_feature" / "result.json"
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_runs_end_in_the_same_result(jobs):
    script = ROOT / "scripts" / "campaign_runs.py"
    command = [sys.executable, str(script), "kills", "--kinds", "pictures", "--times", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--jobs", str(jobs)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_goes_on_where_a_worker_is_killed(calm, tiny_condition, tmp_path):
    """As the kernel does where memory is short: once while measuring, once while coding."""
    killed = set()

    def kill_one(stage: str, done: int, total: int) -> None:
        if stage in ("uncompressed", "rate points") and stage not in killed and done < total:
            killed.add(stage)
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    condition = load_condition(tiny_condition)
    run(condition, "vvc_feature", tmp_path / "run", RunOptions(jobs=2), kill_one)
    assert killed == {"uncompressed", "rate points"}
    _assert_same_result(calm, tmp_path / "run")


def test_more_rate_points_go_into_the_same_folder(calm, tiny_condition, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(calm / "vvc_feature", folder)
    kept = (folder / "42" / "pictures.jsonl").read_bytes()
    more = changed(load_condition(tiny_condition), vvc_feature_qps=(42, 47))
    result = run(more, "vvc_feature", folder, RunOptions())
    assert [point.rate_point for point in result.points] == ["42", "47"]
    assert (folder / "42" / "pictures.jsonl").read_bytes() == kept


def test_the_folder_of_another_test_is_refused(calm, tiny_condition, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(calm / "vvc_feature", folder)
    before = _contents(folder)
    other = changed(load_condition(tiny_condition), vvc_feature_preset="fast", iou_threshold=0.6)
    with pytest.raises(InputError, match="inner_codec.preset is faster there and fast now"):
        run(other, "vvc_feature", folder, RunOptions())
    assert _contents(folder) == before
    run(other, "vvc_feature", folder, RunOptions(overwrite=True))
    assert load_result(folder).key != load_result(calm / "vvc_feature").key


def test_a_folder_in_use_is_refused(tiny_condition, tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="another run works"):
        run_feature(tiny_condition, tmp_path)


def test_uncompressed_accuracy_is_checked_first(calm, tiny_condition, tmp_path):
    condition = load_condition(tiny_condition)
    wrong = replace(condition, expected_box_ap=70.0, expected_tolerance=0.5)
    with pytest.raises(InputError, match=r"box_ap of tiny: expected 70.00 \+- 0.5.*--no-expected"):
        run(wrong, "vvc_feature", tmp_path / "run", RunOptions())
    assert not (tmp_path / "run" / "37").exists()
    unchecked = run(wrong, "vvc_feature", tmp_path / "run", RunOptions(check_expected=False))
    assert unchecked.expected["checked"] is False
    found = load_result(calm / "vvc_feature").uncompressed.accuracy["box_ap"]
    right = replace(condition, expected_box_ap=found, expected_tolerance=0.01)
    result = run(right, "vvc_feature", tmp_path / "run", RunOptions())
    assert result.expected == {"box_ap": found, "tolerance": 0.01, "checked": True}


@pytest.fixture
def damaged_set(tiny_condition, tmp_path):
    """The condition with its pictures in an own folder, the second one truncated."""
    dataset = open_test_set(load_condition(tiny_condition))
    images = tmp_path / "images"
    images.mkdir()
    for entry in dataset.pictures:
        shutil.copy(entry.path, images / entry.path.name)
    (tmp_path / "instances.json").write_text(json.dumps(dataset.coco))
    os.truncate(images / dataset.pictures[1].path.name, 1000)
    return replace(
        load_condition(tiny_condition),
        minictc=None,
        images=str(images),
        annotations=str(tmp_path / "instances.json"),
    )


def test_an_unreadable_picture_is_named_or_passed_over(damaged_set, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="000002.png.*--keep-going"):
        run(damaged_set, "vvc_feature", folder, RunOptions())
    result = run(damaged_set, "vvc_feature", folder, RunOptions(keep_going=True))
    assert result.skipped == (Skipped(2, "000002.png"),)
    assert result.dataset.pictures == result.points[0].pictures == 1


def test_a_picture_that_a_worker_does_not_see_is_not_passed_over(damaged_set, tmp_path):
    """It was there when the test set was opened: only unreadable ones are left out of a result."""
    dataset = open_test_set(damaged_set)
    worker = Worker(Plan(damaged_set, "vvc_feature", tmp_path, dataset, keep_going=True))
    entry = worker.plan.dataset.pictures[0]
    entry.path.unlink()
    with pytest.raises(InputError, match="000001.png: expected a picture, found: No such file"):
        list(worker.measure(entry))


def test_a_run_that_is_refused_leaves_no_folder(tiny_condition, tmp_path):
    condition = load_condition(tiny_condition)
    with pytest.raises(InputError, match="msfc_weights: expected weights, found none"):
        run(condition, "msfc", tmp_path / "deep" / "run", RunOptions())
    assert not list(tmp_path.iterdir())


def test_no_readable_picture_is_an_error(damaged_set, tmp_path):
    (tmp_path / "images" / "000001.png").write_bytes(b"")
    with pytest.raises(InputError, match="none of the 2 pictures is readable"):
        run(damaged_set, "vvc_feature", tmp_path / "run", RunOptions(keep_going=True))


def test_a_full_disk_loses_nothing(calm, tiny_condition, tmp_path):
    """The size that a file may have stands in for the end of the disk: the same error path."""
    folder = tmp_path / "run"
    limited = (
        "import resource, sys; from vcm_plugin.cli.main import main\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, resource.RLIM_INFINITY))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = ["run", str(tiny_condition), "--codec", "vvc_feature", "-o", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", limited, *command, "--feature-cache", "0"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 2 and "nothing that was finished is lost" in done.stderr
    run_feature(tiny_condition, folder)
    _assert_same_result(calm, folder)
