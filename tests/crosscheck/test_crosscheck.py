# SPDX-License-Identifier: BSD-3-Clause
"""Is an honest package confirmed, and is each kind of tampering caught by the step that owns it?"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from vcm_plugin.cli.main import main
from vcm_plugin.crosscheck.check import CheckOptions, crosscheck
from vcm_plugin.crosscheck.findings import (
    CONFIRMED,
    NOT_CONFIRMED,
    SKIPPED,
    WITH_REMARKS,
    BdRateCheck,
    CrossCheck,
    Difference,
    Finding,
    Occasion,
    PointCheck,
)
from vcm_plugin.crosscheck.package import make_package
from vcm_plugin.crosscheck.verdict_page import write_verdict_page
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.diff_fchm.machine.importance import ImportanceConfig, ImportanceNetwork, export
from vcm_plugin.errors import InputError
from vcm_plugin.files import sha256_of, sha256_of_file

ROOT = Path(__file__).parents[2]
RUN = "runs/diff_fchm"
POINT = f"{RUN}/0.7"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shared_cache):
    """Real runs of four pictures: the proposal with its bundled weights, and an anchor."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        for codec, points in (
            ("diff_fchm", (0.7, 1.4, 2.8, 5.6)),
            ("vvc_feature", (30, 36, 40, 44)),
        ):
            words = [
                "run",
                "minictc",
                "--codec",
                codec,
                "--limit",
                3,
                "-o",
                folder / codec,
                "--rate-points",
            ]
            assert main([str(word) for word in (*words, *points)]) == 0
    return folder


@pytest.fixture(scope="module")
def package(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "proposal.zip"
    make_package(runs / "diff_fchm", [runs / "vvc_feature"], path)
    return path


@pytest.fixture(scope="module")
def alone(runs, tmp_path_factory):
    """The proposal without its anchor."""
    path = tmp_path_factory.mktemp("alone") / "proposal.zip"
    make_package(runs / "diff_fchm", [], path)
    return path


@pytest.fixture(autouse=True)
def cache(own_cache):
    return own_cache


def edit(path, change):
    """Change the JSON of a file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_lines(path, change):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def edit_point(folder, change):
    """Change a rate point in both files that state it."""
    edit(folder / POINT / "point.json", change)
    edit(folder / RUN / "result.json", lambda result: change(result["points"][0]))


def sign(folder):
    """What a forger does who knows the format: the key and the manifest fit the forged files."""
    proposal = folder / "runs" / json.loads((folder / "manifest.json").read_text())["proposal"]
    run, result = proposal / "run.json", proposal / "result.json"
    identity = {k: v for k, v in json.loads(run.read_text()).items() if k != "files_sha256"}
    values = json.loads(result.read_text())
    points = [point["rate_point"] for point in values["points"]]
    values["key"] = sha256_of([identity, values["dataset"]["sha256"], points])
    result.write_text(json.dumps(values))
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    stated = {
        p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256_of_file(p)}
        for p in files
    }
    edit(folder / "manifest.json", lambda manifest: manifest.update(files=stated))


def flip_a_byte(folder, point=POINT):
    path = sorted((folder / point / "bitstreams").iterdir())[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


def claim_fewer_bits(folder):
    def change(point):
        point["per_picture"]["bits"][0] -= 800
        point["bits"] -= 800

    def line(lines):
        first = json.loads((folder / POINT / "point.json").read_text())["per_picture"]["image_id"][
            0
        ]
        return [{**r, "bits": r["bits"] - 800 * (r["image_id"] == first)} for r in lines]

    edit_point(folder, change)
    edit_lines(folder / POINT / "pictures.jsonl", line)


def claim_more_accuracy(folder):
    def change(point):
        point["accuracy"]["box_ap"] += 0.01

    edit_point(folder, change)


def swap_two_files(folder):
    """Two files change places, and nothing else: each of them decodes."""
    first, second, *_ = sorted((folder / POINT / "bitstreams").iterdir())
    data = first.read_bytes(), second.read_bytes()
    first.write_bytes(data[1])
    second.write_bytes(data[0])


def swap_two_pictures(folder):
    """The bitstreams of two pictures change places, and so do all claims about the files."""
    one, two = sorted((folder / POINT / "bitstreams").iterdir())[:2]
    ids = [int(one.stem), int(two.stem)]
    data = one.read_bytes(), two.read_bytes()
    one.write_bytes(data[1])
    two.write_bytes(data[0])
    bits = dict(zip(ids, (8 * len(data[1]), 8 * len(data[0])), strict=True))
    sha256 = {int(path.stem): sha256_of_file(path) for path in (one, two)}

    def change(point):
        for place, image_id in enumerate(point["per_picture"]["image_id"]):
            point["per_picture"]["bits"][place] = bits.get(
                image_id, point["per_picture"]["bits"][place]
            )

    edit_point(folder, change)
    edit_lines(
        folder / POINT / "pictures.jsonl",
        lambda lines: [
            {
                **r,
                "bits": bits.get(r["image_id"], r["bits"]),
                "file_sha256": sha256.get(r["image_id"], r["file_sha256"]),
            }
            for r in lines
        ],
    )


def claim_other_weights(folder):
    sha256 = "5" * 64
    for name, where in (("run.json", "codec"), ("result.json", "codec_identity")):
        edit(
            folder / RUN / name,
            lambda value, where=where: value[where].update(weights_sha256=sha256),
        )
    edit(
        folder / "manifest.json",
        lambda manifest: manifest["weights"]["diff_fchm"].update(codec_sha256=sha256),
    )


def lose_a_bitstream(folder):
    sorted((folder / POINT / "bitstreams").iterdir())[0].unlink()


def change_the_condition(folder):
    path = folder / RUN / "condition.yaml"
    values = yaml.safe_load(path.read_text())
    values["score_threshold"] = 0.3
    path.write_text(yaml.safe_dump(values))


def type_a_bd_rate(folder):
    edit(folder / "claims.json", lambda claims: claims["bd_rate"][0].update(percent=-99.0))


def drop_a_line(folder):
    edit_lines(folder / POINT / "pictures.jsonl", lambda lines: lines[1:])


def claim_more_pixels(folder):
    edit(folder / RUN / "result.json", lambda r: r["dataset"].update(pixels=1 << 20))


def claim_a_whole_test_set(folder):
    edit(folder / RUN / "result.json", lambda r: r["dataset"].update(cut_from=None))


def claim_objects_passed_over(folder):
    edit(folder / RUN / "result.json", lambda r: r["dataset"].update(passed_over=3))


def claim_human_vision(folder):
    for name, where in (("run.json", "test"), ("result.json", "test")):
        edit(folder / RUN / name, lambda r, where=where: r[where].update(human_vision=True))


TAMPERING = {
    flip_a_byte: "bitstreams",
    claim_fewer_bits: "bitstreams",
    claim_more_accuracy: "accuracy",
    swap_two_files: "bitstreams",
    swap_two_pictures: "features",
    claim_other_weights: "config",
    lose_a_bitstream: "bitstreams",
    change_the_condition: "config",
    type_a_bd_rate: "bd_rate",
    drop_a_line: "bitstreams",
    claim_more_pixels: "data",
    claim_a_whole_test_set: "data",
    claim_objects_passed_over: "data",
    claim_human_vision: "config",
}
HOSTILE = {
    "runs/../../escaped.json": (b"{}", "leaves the folder"),
    "/escaped.json": (b"{}", "leaves the folder"),
    f"{RUN}/weights.pkl": (b"cos\nsystem\n(S'false'\ntR.", "may hold pickled code"),
    f"{RUN}/notes.sh": (b"false", "is no file of a package"),
    f"{RUN}/0.7/bitstreams/9.fcm": (bytes(1 << 24), "is a zip bomb"),
}  # fmt: skip


def tampered(package, folder, change, signed):
    unpacked = folder / "unpacked"
    with zipfile.ZipFile(package) as archive:
        archive.extractall(unpacked)
    change(unpacked)
    if signed:
        sign(unpacked)
    return zipped(unpacked, folder / "tampered.zip")


def zipped(folder, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


def pages_of(path):
    return len(re.findall(rb"/Type /Page\b", path.read_bytes()))


def test_the_verdict_stays_on_one_page(tmp_path):
    """Whatever was found: long reasons, many rate points, BD-rates and remarks."""
    check = CrossCheck("diff_fchm", ["vvc_remote"], {"torch": "2.14.1"}, {"torch": "2.13.0"}, {})
    check.occasion = Occasion("proposal.zip", "a" * 64, 1, "2026-01-01 00:00", 1.0, 1, 1)
    for number in range(90):
        difference = Difference.between(70.0, 70.0 + number / 100)
        point = PointCheck("vvc_remote", str(number), 8, 8, 0.0, 0.0, {"box_ap": difference})
        check.points.append(point)
        check.bd_rates.append(BdRateCheck("diff_fchm", "vvc_remote", "box_ap", "pchip", 1.0, 1.0))
        check.add([Finding("data", SKIPPED, "no pictures here " * 40, "vvc_remote")])
    write_verdict_page(check, tmp_path / "verdict.pdf")
    assert pages_of(tmp_path / "verdict.pdf") == 1
    check.add([Finding("accuracy", "failed", "another accuracy " * 90, "vvc_remote", "7")])
    write_verdict_page(check, tmp_path / "failed.pdf")
    assert pages_of(tmp_path / "failed.pdf") == 1


def test_an_honest_package_is_confirmed(package, tmp_path, capsys):
    words = ["crosscheck", package, "-o", tmp_path / "out", "--threads", 2, "--jobs", 2, "--encode"]
    code = main([str(word) for word in words])
    found = json.loads((tmp_path / "out" / "crosscheck.json").read_text())
    out = capsys.readouterr().out
    remarks = [f for f in found["findings"] if f["status"] in ("failed", "skipped", "remark")]
    assert {f["step"] for f in remarks} <= {"encoding"}, remarks  # other threads: a tie may fall
    assert (code, found["verdict"]) in ((0, CONFIRMED), (3, WITH_REMARKS)) and code == (
        3 if remarks else 0
    )
    assert out.rstrip().endswith(found["verdict"])
    assert {f["step"] for f in found["findings"]} == {
        "manifest", "config", "data", "bitstreams", "features", "predictions", "accuracy",
        "encoding", "bd_rate",
    }  # fmt: skip
    occasion = found["occasion"]
    assert (occasion["package"], occasion["sha256"]) == (package.name, sha256_of_file(package))
    assert (occasion["jobs"], occasion["threads"], occasion["bytes"]) == (
        2, 2, package.stat().st_size,
    )  # fmt: skip
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", occasion["date"]) and occasion["seconds"] > 1
    assert occasion["sha256"] in out and "2 processes of 2 threads" in out
    page = (tmp_path / "out" / "crosscheck.html").read_text()
    assert occasion["sha256"] in page and "0.7, 1.4, 2.8, 5.6" in page
    assert pages_of(tmp_path / "out" / "verdict.pdf") == 1
    assert len(found["points"]) == 2 * (4 + 1)
    for point in found["points"]:
        if point["rate_point"] != "uncompressed":
            assert point["bits"] == point["found_bits"] and point["feature_deviation"] < 1e-3
        assert all(abs(a["difference"]) < 0.3 for a in point["accuracy"].values())


def test_without_an_anchor_the_bd_rate_is_not_applicable(alone):
    check = crosscheck(alone, CheckOptions())
    assert check.verdict == CONFIRMED, [f for f in check.findings if f.status != "ok"]
    assert [f.status for f in check.findings if f.step == "bd_rate"] == ["not applicable"]


def test_a_size_in_the_manifest_is_compared(package, tmp_path):
    def longer(folder: Path) -> None:
        edit(folder / "manifest.json",
             lambda manifest: manifest["files"]["claims.json"].update(bytes=1))  # fmt: skip

    check = crosscheck(tampered(package, tmp_path, longer, signed=False), CheckOptions())
    assert check.verdict == NOT_CONFIRMED and check.first_failure.step == "manifest"


@pytest.mark.parametrize("change", TAMPERING, ids=lambda change: change.__name__)
def test_tampering_is_caught_by_the_manifest(package, tmp_path, change):
    check = crosscheck(tampered(package, tmp_path, change, signed=False), CheckOptions())
    assert check.verdict == NOT_CONFIRMED and check.first_failure.step == "manifest"


@pytest.mark.parametrize("change", TAMPERING, ids=lambda change: change.__name__)
def test_signed_tampering_is_caught_by_the_step_that_owns_the_fact(
    package, alone, tmp_path, change
):
    source = package if change is type_a_bd_rate else alone
    check = crosscheck(tampered(source, tmp_path, change, signed=True), CheckOptions())
    assert check.verdict == NOT_CONFIRMED
    assert check.first_failure.step == TAMPERING[change], check.first_failure
    if check.first_failure.rate_point:
        assert check.first_failure.rate_point == "0.7"
        assert check.verdict_of_point("diff_fchm", "0.7") == NOT_CONFIRMED
        assert check.verdict_of_point("diff_fchm", "5.6") == CONFIRMED


@pytest.mark.parametrize("signed", (False, True))
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_before_anything_is_unpacked(package, tmp_path, name, signed):
    data, message = HOSTILE[name]
    path = tampered(package, tmp_path, lambda folder: None, signed)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    before = set(Path(tmp_path).rglob("*")) | set(tmp_path.parent.iterdir())
    with pytest.raises(InputError, match=message) as error:
        crosscheck(path, CheckOptions())
    assert "\n" not in str(error.value)
    assert set(Path(tmp_path).rglob("*")) | set(tmp_path.parent.iterdir()) == before


def test_a_pickle_under_an_honest_name_does_not_decode(alone, tmp_path):
    def change(folder):
        path = folder / POINT / "bitstreams" / "1.fcm"
        path.write_bytes(b"cos\nsystem\n(S'false'\ntR." + bytes(path.stat().st_size - 24))

    check = crosscheck(tampered(alone, tmp_path, change, signed=True), CheckOptions())
    assert check.first_failure.step == "bitstreams"


def test_a_detector_configuration_with_code_is_refused(alone, tmp_path):
    def change(folder):
        (folder / RUN / "model.yaml").write_text("MODEL: !!python/object/apply:os.system [false]\n")

    check = crosscheck(tampered(alone, tmp_path, change, signed=True), CheckOptions())
    assert check.first_failure.step == "config" and "plain YAML" in check.first_failure.text


def test_other_pictures_here_are_named(alone, tmp_path):
    def change(folder):
        edit_lines(
            folder / RUN / "uncompressed" / "pictures.jsonl",
            lambda lines: [{**lines[0], "picture_sha256": "0" * 64}, *lines[1:]],
        )

    check = crosscheck(tampered(alone, tmp_path, change, signed=True), CheckOptions())
    assert check.first_failure.step == "data"


def test_without_the_test_set_and_the_weights_the_steps_are_skipped(tiny_condition, tmp_path):
    """Weights and pictures that only the proponent has: remarks, not a failure."""
    folder = tiny_condition.parent
    machine = MachineCodec(folder / "tiny.safetensors")
    network = ImportanceNetwork(ImportanceConfig(machine.config.latents, 4))
    export(network, machine.latents_sha256, {}, folder / "importance.safetensors")
    condition = folder / "importance.yaml"
    text = tiny_condition.read_text()
    condition.write_text(f"{text}diff_fchm_importance_weights: importance.safetensors\n")
    words = ["run", condition, "--codec", "diff_fchm", "-o", tmp_path / "run"]
    assert main([str(word) for word in words]) == 0
    make_package(tmp_path / "run", [], tmp_path / "p.zip")
    check = crosscheck(tmp_path / "p.zip", CheckOptions())
    assert check.verdict == WITH_REMARKS
    assert {f.step for f in check.findings if f.status == SKIPPED} >= {"config", "features"}
    weights = tuple(folder / n for n in ("tiny.safetensors", "random.pth"))
    check = crosscheck(tmp_path / "p.zip", CheckOptions(weights=weights))
    assert any("diff_fchm_importance_weights: no file" in f.text for f in check.findings)
    weights += (folder / "importance.safetensors",)
    check = crosscheck(tmp_path / "p.zip", CheckOptions(weights=weights))
    assert check.verdict == CONFIRMED, [f for f in check.findings if f.status != "ok"]
    code = main(["crosscheck", str(tmp_path / "p.zip"), "-o", str(tmp_path / "out")])
    assert code == 3


def test_a_package_names_no_path_and_no_host(package, runs):
    with zipfile.ZipFile(package) as archive:
        names = [name for name in archive.namelist() if name.endswith((".json", ".yaml"))]
        text = b"".join(archive.read(name) for name in names).decode()
    assert len(names) > 10
    for word in (str(runs), str(ROOT), os.uname().nodename, "/home", "/tmp"):
        assert not re.search(rf"\b{re.escape(word)}\b", text), word


def test_the_same_run_makes_the_same_package(package, runs, tmp_path):
    make_package(runs / "diff_fchm", [runs / "vvc_feature"], tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == package.read_bytes()


@pytest.mark.parametrize(
    "content, message",
    (
        (b"no zip", "expected a package of `vcm-plugin package`"),
        ({"format": "vcm-plugin package", "version": 2}, "of version 1, found"),
        ({"format": "vcm-plugin package", "version": 1}, "lacks its proposal"),
        ([], "of version 1, found None"),
    ),
)
def test_what_is_no_package_of_this_version_ends_in_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "p.zip"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("manifest.json", json.dumps(content))
    assert main(["crosscheck", str(path), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_run_that_is_not_complete_makes_no_package(runs, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(runs / "diff_fchm", copy)
    (copy / "condition.yaml").unlink()
    with pytest.raises(InputError, match="expected condition.yaml, found none"):
        make_package(copy, [], tmp_path / "p.zip")
    (copy / "result.json").unlink()
    with pytest.raises(InputError, match="the run is not complete"):
        make_package(copy, [], tmp_path / "p.zip")
    assert not (tmp_path / "p.zip").exists()


def test_packaging_needs_no_torch():
    code = "import sys, vcm_plugin.crosscheck.package; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environment)
    assert done.returncode == 0
