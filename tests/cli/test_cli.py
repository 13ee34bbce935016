# SPDX-License-Identifier: BSD-3-Clause
"""Does the command do what its help says, and end bad input in one line and exit code 2?"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vcm_plugin.cli.main import main
from vcm_plugin.ctc.results import load_result

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("own_cache")
COMMANDS = (
    "demo", "run", "report", "proposal", "package", "crosscheck", "encode", "decode", "info",
    "doctor",
)  # fmt: skip


@pytest.fixture
def typed(capsys, monkeypatch, tmp_path):
    """Runs a command line in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    smooth = np.add.outer(np.arange(64), np.arange(96))[..., None] + np.array([0, 40, 80])
    Image.fromarray(smooth.astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out) > 80


def test_help_does_not_wait_for_torch():
    code = "import sys; from vcm_plugin.cli.main import main\ntry: main(['--help'])\n"
    code += "except SystemExit: print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.stdout.decode().endswith("False\n")


def test_data_that_are_refused_do_not_wait_for_torch(tmp_path):
    minictc = (ROOT / "cfg" / "ctc" / "minictc.yaml").read_text()
    (tmp_path / "case.yaml").write_text(minictc.replace("minictc: test", "images: ."))
    (tmp_path / "instances.json").write_text('{"images": []}')
    code = "import sys; from vcm_plugin.cli.main import main\nprint(main(sys.argv[1:]))\n"
    code += "print('torch' in sys.modules)"
    words = ["run", "case.yaml", "--codec", "diff_fchm", "-o", "run"]
    words += ["--annotations", "instances.json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "2\nFalse\n" and "instances.json" in done.stderr, done.stderr


def test_run_prints_its_points(typed, tiny_condition, tmp_path):
    words = ("run", tiny_condition, "--codec", "vvc_feature", "-o", tmp_path / "run")
    code, out, _ = typed(*words, "--rate-points", 42, "--limit", 1, "--tasks", "box")
    assert code == 0 and "uncompressed" in out and str(tmp_path / "run" / "result.json") in out
    result = load_result(tmp_path / "run")
    assert [point.rate_point for point in result.points] == ["42"]
    assert result.dataset.pictures == 1 and result.condition == "tiny-changed"
    assert "mask_ap" not in result.uncompressed.accuracy


def test_demo_runs_anchors_and_proposal_and_reports(typed, tiny_condition, tmp_path):
    code, out, _ = typed("demo", "--condition", tiny_condition, "-o", tmp_path, "--jobs", 1)
    assert code == 0 and "BD-rate" in out and str(tmp_path / "report" / "rd_box_ap.png") in out
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"report.json", "rd.csv", "rd_box_ap.png", "rd_box_ap.svg"} <= written
    code, again, _ = typed(
        "report", *(tmp_path / codec for codec in ("vvc_feature", "vvc_remote", "diff_fchm")),
        "--anchor", "vvc_feature", "--anchor", "vvc_remote",
        "-o", tmp_path / "again", "--format", "csv", "json",
    )  # fmt: skip
    assert code == 0 and "BD-rate" in again
    for name in ("report.json", "rd.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "report" / name).read_bytes()


@pytest.mark.parametrize(
    ("codec", "rate_point"), [("vvc_feature", "37"), ("vvc_remote", "37@50"), ("diff_fchm", "1")]
)
def test_encode_info_decode(typed, tiny_condition, picture, tmp_path, codec, rate_point):
    file, found = tmp_path / "coded", tmp_path / "found.json"
    condition = ("--condition", tiny_condition)
    words = ("encode", picture, "-o", file, "--codec", codec, "--rate-point", rate_point)
    code, out, _ = typed(*words, *condition)
    assert code == 0 and f"{8 * file.stat().st_size} bits" in out
    code, out, _ = typed("info", file)
    assert code == 0 and "64 x 96" in out
    kept = tmp_path / "features.npz"
    code, out, _ = typed("decode", file, "-o", found, "--features", kept, *condition)
    assert code == 0 and f"{len(json.loads(found.read_text()))} detections" in out
    assert "condition tiny, detector minictc_mask_rcnn (random.pth)" in out and "crescent" in out
    with np.load(kept) as features:
        assert list(features["source_size"]) == [64, 96]
        assert {"p2", "p3", "p4", "p5"} <= set(features.files)
    shown = tmp_path / "shown.png"
    code, _, err = typed("decode", file, "--picture", shown, *condition)
    if codec == "vvc_remote":
        assert code == 0 and Image.open(shown).size == (96, 64)
    else:
        assert code == 2 and "leave out --picture" in err


def test_a_file_of_another_condition_names_it(typed):
    file = ROOT / "tests/golden/minictc_s1.4.fcm"
    code, _, err = typed("decode", file, "--condition", "bccd")
    assert code == 2 and err.rstrip().endswith("those of --condition minictc"), err


@pytest.mark.parametrize("codec", ["picture_learned", "multi_head"])
def test_a_file_of_another_learned_codec_does_too(typed, picture, tmp_path, codec):
    file = tmp_path / "x.fcm"
    assert typed("encode", picture, "-o", file, "--codec", codec, "--rate-point", 42)[0] == 0
    for condition in ("bccd", "kodak_human"):  # with other weights, and with none
        code, _, err = typed("decode", file, "--condition", condition)
        assert code == 2 and re.search("condition minictc( names bundled ones)?\n$", err), err


def test_a_picture_is_kept_that_the_detector_cannot_take(typed, tmp_path):
    Image.new("RGB", (1, 5000)).save(tmp_path / "thin.png")
    words = ("encode", "thin.png", "-o", "x.fcm", "--codec", "picture_learned")
    assert typed(*words, "--rate-point", 42)[0] == 0
    code, _, err = typed("decode", "x.fcm", "--picture", "shown.png")
    assert code == 2 and "crop it" in err
    with Image.open(tmp_path / "shown.png") as shown:
        assert shown.size == (1, 5000)


@pytest.mark.parametrize(
    "words, message",
    [
        ("run minictc --codec diff_fchm --shard 4/3", "run: argument --shard: expected K/N"),
        ("run minictc --codec diff_fchm --shard ²/³", "expected K/N"),
        ("run minictc", "run: the following arguments are required: --codec"),
        ("nothing", "invalid choice: 'nothing'"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(typed, capsys, words, message):
    with pytest.raises(SystemExit, match="^2$"):
        typed(*words.split())
    error = capsys.readouterr().err
    assert error.startswith("vcm-plugin: error: ") and error.count("\n") == 1
    assert message in error and "--help" in error


def test_doctor_fits_one_screen(typed):
    code, out, _ = typed("doctor")
    assert "bccd_vfcn.safetensors, id 96309f29, --condition bccd" in out
    assert code == 0 and len(out.splitlines()) <= 40
    for name in ("torch", "Detectron2", "VVC in FFmpeg", "VMAF", "VTM", "weights", "cache"):
        assert name in out


BAD_LINES = {
    "unknown condition": ("run nope --codec vvc_feature", "expected one of .*minictc"),
    "unknown codec": ("run {condition} --codec hevc", "expected one of diff_fchm, vvc_feature"),
    "codec without its program": ("run {condition} --codec vtm_remote", "VCM_VTM_ENCODER"),
    "missing checkpoint": (
        "run {condition} --codec vvc_feature --weights gone.pth -o {folder}",
        "gone.pth",
    ),
    "no such device": ("run {condition} --codec vvc_feature --device cuda:77", "device cuda:77"),
    "output is a file": ("run {condition} --codec vvc_feature -o {picture}", "picture.png"),
    "a QP twice": ("run {condition} --codec vvc_feature --rate-points 32 32", "each value once"),
    "bad rate point": (
        "encode {picture} -o x --codec vvc_remote --rate-point 99",
        "QP from 0 to 63",
    ),
    "no picture": (
        "encode gone.png -o x --codec vvc_remote --rate-point 32",
        "gone.png: expected a picture.*give the right path$",
    ),
    "output is the folder": (
        "encode {picture} -o . --codec vvc_remote --rate-point 32",
        "Is a directory",
    ),
    "no such device to encode on": (
        "encode {picture} -o x --codec diff_fchm --rate-point 1 --device cud",
        "device cud: expected one that torch has",
    ),
    "weights of another bundled condition": (
        "encode {picture} -o x --codec simulcast_learned --rate-point 1+42",
        "key simulcast_learned_weights; the condition minictc_human names bundled ones",
    ),
    "no inter prediction": (
        "run {condition} --codec diff_fchm --random-access",
        "diff_fchm has no inter prediction by VVC: leave out --random-access",
    ),
    "frames of another codec": (
        "decode {golden}/tiny_picture_qp27.fcm --keep-going",
        "--keep-going: expected a file of diff_fchm, found picture_learned",
    ),
    "another way to show a picture": (
        "decode {golden}/tiny_picture_qp27.fcm --human x.png",
        "leave out --human; --picture keeps a decoded picture",
    ),
    "no bitstream": ("info gone.fcm", "gone.fcm"),
    "foreign bitstream": ("info {picture}", "expected an .fcm file or a VVC"),
    "foreign bitstream to decode": ("decode {picture} --condition {condition}", "expected an .fcm"),
    "no run": ("report gone --anchor vvc_remote -o {folder}/report", "gone.*no folder"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_input_is_one_line_and_exit_code_2(typed, tiny_condition, picture, tmp_path, case):
    words, message = BAD_LINES[case]
    names = {"condition": tiny_condition, "picture": picture, "folder": tmp_path / "run"}
    names["golden"] = ROOT / "tests/golden"
    code, _, err = typed(*[word.format(**names) for word in words.split()])
    assert code == 2
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("vcm-plugin: error: ")
    assert re.search(message, lines[0]), lines[0]


def test_a_damaged_bitstream_is_refused_everywhere(typed, tiny_condition, picture, tmp_path):
    file = tmp_path / "coded.fcm"
    words = ("encode", picture, "-o", file, "--codec", "vvc_feature", "--rate-point", 42)
    assert typed(*words, "--condition", tiny_condition)[0] == 0
    data = file.read_bytes()
    for damaged in (b"", data[:20], data[:-1], data[:30] + b"\xff" + data[31:]):
        file.write_bytes(damaged)
        for command in (("info", file), ("decode", file, "--condition", tiny_condition)):
            code, _, err = typed(*command)
            assert code == 2 and len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize(
    "words",
    (
        "encode {picture} -o {picture}",
        "decode {file} -o {file}",
        "decode {file} -o out.json --features out.json",
        "report {folder} --anchor vvc_feature -o {folder}",
        "tables {folder} -o {folder}",
        "package {folder} -o {folder}",
        "proposal {file} -o {file}",
        "crosscheck {file} -o {file}",
    ),
)
def test_no_output_over_an_input(typed, tmp_path, words):
    given = {"picture": tmp_path / "a.png", "file": tmp_path / "a.fcm", "folder": tmp_path / "run"}
    Image.new("RGB", (64, 48)).save(given["picture"])
    given["file"].write_bytes(b"FCM")
    given["folder"].mkdir()
    (given["folder"] / "result.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, _, err = typed(*words.format(**given).split())
    assert code == 2 and "overwrite" in err and err.count("\n") == 1
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_encode_chooses_a_preset_and_says_so(typed, tiny_condition, own_cache, tmp_path):
    Image.new("RGB", (64, 48), (90, 120, 30)).save(tmp_path / "a.png")
    words = ("encode", tmp_path / "a.png", "--condition", tiny_condition)
    code, out, err = typed(*words, "-o", "chosen.fcm")
    assert code == 0 and "rate point" in out, err
    point = out.split("rate point ")[1].split(":")[0]
    assert typed(*words, "-o", "given.fcm", "--rate-point", point)[0] == 0
    assert (tmp_path / "chosen.fcm").read_bytes() == (tmp_path / "given.fcm").read_bytes()


def test_the_help_of_run_lists_conditions_and_codecs(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in ("coco_val2017", "minictc", "sfu_hw", "vtm_remote", "simulcast"):
        assert name in text


def test_class_names_come_from_the_annotations(typed, tiny_condition, own_cache, tmp_path):
    from vcm_plugin.testsets.minictc import generate

    annotations = generate("val", tmp_path / "set", count=1)
    words = ["run", tiny_condition, "--codec", "vvc_remote", "--rate-points", 47, "-o", "out"]
    words += ["--images", tmp_path / "set/images", "--annotations", annotations]
    code, out, err = typed(*words)
    assert code == 0, err
    kept = (tmp_path / "out/condition.yaml").read_text()
    assert kept.index("- ball") < kept.index("- ring") < kept.index("- crescent")
