# SPDX-License-Identifier: BSD-3-Clause
"""Is fctm_like a codec like any other: run, encode, decode, info, package, cross-check?"""

from pathlib import Path

import pytest
from changed import changed
from fctm_like_tiny import tiny_weights

from vcm_plugin.cli.main import main
from vcm_plugin.crosscheck.check import CheckOptions, crosscheck
from vcm_plugin.crosscheck.findings import CONFIRMED
from vcm_plugin.crosscheck.package import make_package
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.files import sha256_of_file


@pytest.fixture(scope="module")
def weights(tiny_condition):
    detector = sha256_of_file(tiny_condition.parent / "random.pth")
    path = tiny_condition.parent / "fctm_like.safetensors"
    return tiny_weights(path, detector=detector, channels=64)


def test_an_honest_run_is_confirmed(tiny_condition, weights, own_cache, tmp_path):
    condition = changed(
        load_condition(tiny_condition), fctm_like_weights=weights.name, fctm_like_qps=(22, 37),
        fctm_like_preset="faster", fctm_like_zscore=True,
    )  # fmt: skip
    found = run(condition, "fctm_like", tmp_path / "run", RunOptions())
    assert [point.rate_point for point in found.points] == ["22", "37"]
    assert found.points[0].bits > found.points[1].bits
    assert found.codec_identity["tools"]["zscore"] is True
    make_package(tmp_path / "run", [], tmp_path / "package.zip")
    files = (weights, tiny_condition.parent / "random.pth")
    check = crosscheck(tmp_path / "package.zip", CheckOptions(files, threads=2))
    assert check.verdict == CONFIRMED, [f for f in check.findings if f.status != "ok"]


def test_from_the_command_line(tiny_condition, weights, own_cache, tmp_path, capsys, monkeypatch):
    from PIL import Image

    from vcm_plugin.testsets.minictc import FIRST_SEED, draw_picture

    monkeypatch.chdir(tmp_path)
    Image.fromarray(draw_picture(FIRST_SEED["val"])[0]).save("picture.png")
    path = tiny_condition.with_name("fctm.yaml")
    keys = f"fctm_like_weights: {weights.name}\nfctm_like_qps: [22, 37]\nfctm_like_preset: faster\n"
    path.write_text(tiny_condition.read_text() + keys)
    words = ["--condition", str(path)]
    assert main(["encode", "picture.png", "-o", "x.fcm", "--codec", "fctm_like", *words]) == 0
    assert main(["decode", "x.fcm", "-o", "found.json", *words]) == 0
    assert Path("found.json").is_file()
    capsys.readouterr()
    assert main(["info", "x.fcm"]) == 0
    assert "profile fctm_like" in capsys.readouterr().out
