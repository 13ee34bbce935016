# SPDX-License-Identifier: BSD-3-Clause
"""Are runs of the learned picture codecs measured, packed, confirmed, and false claims caught?"""

import json
import zipfile
from pathlib import Path

import pytest
from changed import changed
from picture_tiny import tiny_weights
from restorer_tiny import tiny_restorer_weights
from test_crosscheck import cache, edit, tampered  # noqa: F401 (cache: a fixture)

from vcm_plugin.cli.main import main
from vcm_plugin.crosscheck.check import CheckOptions, crosscheck
from vcm_plugin.crosscheck.findings import CONFIRMED, NOT_CONFIRMED
from vcm_plugin.crosscheck.package import make_package
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.testsets.pictures import read_picture

CODECS = ("picture_learned", "simulcast_learned", "diff_fchm_learned")
LATER = {"box_classification", "mask_union_iou", "mask_union_dice", "mask_pixel_accuracy"}


@pytest.fixture(scope="module")
def picture(tiny_condition):
    return tiny_weights(tiny_condition.parent / "picture.safetensors")


@pytest.fixture(scope="module")
def restorer(tiny_condition):
    machine = MachineCodec(tiny_condition.parent / "tiny.safetensors")
    return tiny_restorer_weights(tiny_condition.parent, machine)


@pytest.fixture(scope="module")
def weights(tiny_condition, picture, restorer):
    own = (tiny_condition.parent / name for name in ("tiny.safetensors", "random.pth"))
    return (*own, picture, restorer)


@pytest.fixture(scope="module")
def packages(tiny_condition, picture, restorer, shared_cache, tmp_path_factory):
    condition = changed(
        load_condition(tiny_condition), human_vision=True, picture_learned_weights=picture.name,
        simulcast_learned_weights=picture.name,
        picture_learned_qps=(30, 42), simulcast_learned_points=("1+30", "1+42"),
        diff_fchm_learned_weights=picture.name, diff_fchm_learned_restorer=restorer.name,
        diff_fchm_learned_points=("1+30", "1+42"),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("learned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        for name in CODECS:
            found = run(condition, name, folder / name, RunOptions())
            assert {point.rate_point[-2:] for point in found.points} == {"30", "42"}
            assert set(found.uncompressed.accuracy) >= LATER
            assert all(set(p.accuracy) == set(found.uncompressed.accuracy) for p in found.points)
            fine, coarse = (point.human_vision["psnr"] for point in found.points)
            assert fine > coarse > 15.0
            make_package(folder / name, [], folder / f"{name}.zip")
    assert sorted((folder / "picture_learned" / "30" / "bitstreams").glob("*.fcm"))
    return {name: folder / f"{name}.zip" for name in CODECS}


@pytest.mark.parametrize("name", CODECS)
def test_an_honest_run_is_confirmed(packages, weights, name):
    with zipfile.ZipFile(packages[name]) as archive:
        stated = json.loads(archive.read("manifest.json"))["weights"][name]
    assert stated["codec_sha256"] and ("picture_sha256" in stated) == (name != "picture_learned")
    assert ("restorer_sha256" in stated) == (name == "diff_fchm_learned")
    check = crosscheck(packages[name], CheckOptions(weights, threads=2))
    assert check.verdict == CONFIRMED, [f for f in check.findings if f.status != "ok"]


def claim_other_weights(part, key):
    """A claim that pictures were made with weights that the bitstreams do not name."""

    def claim(folder):
        for name, where in (("run.json", "codec"), ("result.json", "codec_identity")):
            run_file = folder / "runs/diff_fchm_learned" / name
            edit(run_file, lambda v, at=where: key(v[at]))
        named = {part: "5" * 64}
        edit(folder / "manifest.json", lambda m: m["weights"]["diff_fchm_learned"].update(named))

    return claim


@pytest.mark.parametrize(
    "part, key",
    [
        ("restorer_sha256", lambda v: v.update(restorer_weights_sha256="5" * 64)),
        ("picture_sha256", lambda v: v["picture"].update(weights_sha256="5" * 64)),
    ],
)
def test_other_weights_of_a_restored_picture_are_caught(packages, weights, tmp_path, part, key):
    claim = claim_other_weights(part, key)
    changed_package = tampered(packages["diff_fchm_learned"], tmp_path, claim, signed=True)
    check = crosscheck(changed_package, CheckOptions(weights, threads=2))
    assert check.verdict == NOT_CONFIRMED
    assert any("was made with the weights" in f.text for f in check.findings)


def test_a_false_claim_of_a_later_measure_is_caught(packages, weights, tmp_path):
    def claim(folder):
        def more(result):
            result["points"][0]["accuracy"]["mask_pixel_accuracy"] += 1.0

        run_folder = folder / "runs/picture_learned"
        edit(run_folder / "result.json", more)
        edit(
            run_folder / "30" / "point.json",
            lambda v: v["accuracy"].update(
                mask_pixel_accuracy=v["accuracy"]["mask_pixel_accuracy"] + 1.0
            ),
        )

    changed_package = tampered(packages["picture_learned"], tmp_path, claim, signed=True)
    check = crosscheck(changed_package, CheckOptions(weights, threads=2))
    assert check.verdict == NOT_CONFIRMED
    assert any("mask_pixel_accuracy" in f.text for f in check.findings)


def test_from_the_command_line(tiny_condition, picture, own_cache, tmp_path, capsys, monkeypatch):
    from PIL import Image

    from vcm_plugin.testsets.minictc import FIRST_SEED, draw_picture

    monkeypatch.chdir(tmp_path)
    Image.fromarray(draw_picture(FIRST_SEED["val"])[0]).save("picture.png")
    path = tiny_condition.with_name("learned.yaml")
    keys = f"picture_learned_weights: {picture.name}\npicture_learned_qps: [30, 42]\n"
    path.write_text(tiny_condition.read_text() + keys)
    words = ["--condition", str(path)]
    assert main(["encode", "picture.png", "-o", "x.fcm", "--codec", "picture_learned", *words]) == 0
    assert "rate point 30" in capsys.readouterr().out
    assert main(["decode", "x.fcm", "--picture", "y.png", *words]) == 0
    assert read_picture(Path("y.png")).shape == read_picture(Path("picture.png")).shape
    assert main(["info", "x.fcm"]) == 0
    assert "profile picture_learned" in capsys.readouterr().out
