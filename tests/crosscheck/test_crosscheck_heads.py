# SPDX-License-Identifier: BSD-3-Clause
"""Are runs of latent_scalable and multi_head measured, reported, packed, confirmed, and cut?"""

import json
import zipfile
from pathlib import Path

import pytest
from changed import changed
from heads_tiny import ALL, BASE, tiny_transform
from picture_tiny import tiny_weights

from vcm_plugin import bitstream
from vcm_plugin.cli.main import main
from vcm_plugin.crosscheck.check import CheckOptions, crosscheck
from vcm_plugin.crosscheck.findings import CONFIRMED, FAILED
from vcm_plugin.crosscheck.package import make_package
from vcm_plugin.ctc.codecs import load_condition, make_codec
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.report.classes import class_table
from vcm_plugin.report.tables import build_report
from vcm_plugin.testsets.pictures import read_picture

HEADS = ("latent_scalable", "multi_head")


@pytest.fixture(scope="module")
def condition(tiny_condition):
    """The tiny condition with weights of both heads beside it."""
    picture = tiny_weights(tiny_condition.parent / "seen.safetensors")
    plain = changed(
        load_condition(tiny_condition), human_vision=True, picture_learned_weights=picture.name,
        picture_learned_qps=(30, 39), latent_scalable_qps=(30, 39), multi_head_qps=(30, 39),
    )  # fmt: skip
    pair = make_codec("picture_learned", plain), make_codec("diff_fchm", plain)
    for name, latents in zip(HEADS, (BASE, ALL)):
        path = tiny_condition.parent / f"{name}.safetensors"
        tiny_transform(path, *pair, latents, plain.detector_sha256())
    return changed(plain, **{f"{name}_weights": f"{name}.safetensors" for name in HEADS})


@pytest.fixture(scope="module")
def runs(condition, shared_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        found = {
            name: run(condition, name, folder / name, RunOptions())
            for name in (*HEADS, "picture_learned")
        }
    return found, folder


def test_pictures_cost_and_show_what_those_of_picture_learned_do(runs):
    found, _ = runs
    for point in range(2):
        scalable, heads, plain = (found[n].points[point] for n in (*HEADS, "picture_learned"))
        assert scalable.human_vision["psnr"] == heads.human_vision["psnr"]
        assert heads.human_vision["psnr"] == plain.human_vision["psnr"]
        assert plain.bits == heads.bits < scalable.bits < plain.bits + 2 * 8 * 32
        measured = scalable.human_vision
        assert measured["machine_bits"] + measured["human_bits"] == scalable.bits
        assert heads.human_vision["machine_bits"] == heads.bits


def test_they_stand_in_a_report_beside_the_picture_alone(runs):
    _, folder = runs
    report = build_report([folder / name for name in (*HEADS, "picture_learned")],
                          ["picture_learned"])  # fmt: skip
    compared = {c.test for c in report.human_vision.comparisons}
    assert compared == set(HEADS)
    assert all(e.break_even_share is None for e in report.human_vision.equal
               if e.test == "multi_head")  # fmt: skip
    rows = {row["curve"]: row for row in class_table(report, None, "picture_learned").rows}
    assert {name: row["class"] for name, row in rows.items()} == {
        "latent_scalable": "MBHD", "multi_head": "SBMD", "picture_learned": "SBAR",
    }  # fmt: skip
    assert rows["multi_head"]["decode_kmac"] > rows["picture_learned"]["decode_kmac"]


@pytest.mark.parametrize("name", HEADS)
def test_an_honest_run_is_confirmed_and_other_weights_are_not(runs, tiny_condition, name, tmp_path):
    _, folder = runs
    package = tmp_path / f"{name}.zip"
    make_package(folder / name, [], package)
    with zipfile.ZipFile(package) as archive:
        stated = json.loads(archive.read("manifest.json"))["weights"][name]
    assert {"codec_sha256", "picture_sha256", "synthesis_sha256"} <= set(stated)
    files = ("tiny.safetensors", "random.pth", "seen.safetensors", f"{name}.safetensors")
    given = tuple(tiny_condition.parent / file for file in files)
    check = crosscheck(package, CheckOptions(given, threads=2))
    assert check.verdict == CONFIRMED, [f for f in check.findings if f.status != "ok"]
    lacking = crosscheck(package, CheckOptions(given[:-1], threads=2))
    assert lacking.verdict != CONFIRMED
    assert not any(f.status == FAILED for f in lacking.findings)


def test_from_the_command_line(condition, tiny_condition, own_cache, tmp_path, capsys, monkeypatch):
    from PIL import Image

    from vcm_plugin.testsets.minictc import FIRST_SEED, draw_picture

    monkeypatch.chdir(tmp_path)
    Image.fromarray(draw_picture(FIRST_SEED["val"])[0]).save("picture.png")
    path = tiny_condition.with_name("heads.yaml")
    keys = "picture_learned_weights: seen.safetensors\nlatent_scalable_layers: machine\n"
    keys += "".join(f"{n}_weights: {n}.safetensors\n{n}_qps: [30]\n" for n in HEADS)
    path.write_text(tiny_condition.read_text() + keys)
    words = ["--condition", str(path)]
    coded = ["encode", "picture.png", "--codec", "latent_scalable", *words]
    assert main([*coded, "-o", "base.fcm"]) == 0
    assert main([*coded, "-o", "both.fcm", "--human"]) == 0
    assert "machine layer" in capsys.readouterr().out
    both, base = Path("both.fcm").read_bytes(), Path("base.fcm").read_bytes()
    assert both.startswith(base) and bitstream.machine_bits(both) == 8 * len(base)
    for name in ("base", "both"):
        assert main(["decode", f"{name}.fcm", "-o", f"{name}.json", *words]) == 0
    assert Path("base.json").read_bytes() == Path("both.json").read_bytes()
    assert main(["decode", "both.fcm", "--picture", "y.png", *words]) == 0
    assert read_picture(Path("y.png")).shape == read_picture(Path("picture.png")).shape
    capsys.readouterr()
    assert main(["decode", "base.fcm", "--picture", "n.png", "-o", "n.json", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert "base.fcm ends after its base unit, which holds no picture" in said and "\n" not in said
    assert not Path("n.png").exists() and not Path("n.json").exists()
    assert main(["info", "both.fcm"]) == 0
    assert "enhancement unit of frame 0" in capsys.readouterr().out
    assert main([*coded[:-2], "-o", "m.fcm", "--human", "--codec", "multi_head", *words]) == 2
    assert "leave out --human" in capsys.readouterr().err
