# SPDX-License-Identifier: BSD-3-Clause
"""Do `encode --human` and `decode --human` do what their help says?"""

from pathlib import Path

import numpy as np
import pytest
from hvcn_tiny import picture, tiny_folder
from picture_tiny import tiny_weights as tiny_picture_weights
from PIL import Image
from restorer_tiny import tiny_restorer_weights

from vcm_plugin.cli.main import main
from vcm_plugin.diff_fchm.machine.codec import MachineCodec

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def folder(tiny_condition) -> Path:
    """A human layer on the machine layer of the tiny condition."""
    place = tiny_condition.parent / "hvcn"
    return tiny_folder(place, MachineCodec(tiny_condition.parent / "tiny.safetensors"))


@pytest.fixture
def typed(capsys, monkeypatch, tmp_path, tiny_condition):
    """Runs a command line on the tiny condition; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture((70, 90))).save("picture.png")

    def run(*words) -> tuple[int, str, str]:
        code = main([*map(str, words), "--condition", str(tiny_condition)])
        return code, *capsys.readouterr()

    return run


def test_encode_and_decode_a_human_layer(typed, folder, tmp_path):
    weights = ("--human-weights", folder)
    words = ("encode", "picture.png", "-o", "both.fcm", "--rate-point", 1, "--human")
    code, out, _ = typed(*words, *weights, "--human-rate-point", 2, "--human-steps", 2)
    assert code == 0 and "human layer" in out
    assert typed("encode", "picture.png", "-o", "machine.fcm", "--rate-point", 1)[0] == 0
    both, machine = (Path(name).read_bytes() for name in ("both.fcm", "machine.fcm"))
    assert both.startswith(machine) and len(both) > len(machine)
    assert typed("decode", "machine.fcm", "-o", "machine.json")[0] == 0
    for name in ("first", "again"):
        found = ("-o", f"{name}.json", "--human", f"{name}.png")
        assert typed("decode", "both.fcm", *found, *weights)[0] == 0
        assert Path(f"{name}.json").read_bytes() == Path("machine.json").read_bytes()
    painted = [np.asarray(Image.open(f"{name}.png")) for name in ("first", "again")]
    assert painted[0].shape == (70, 90, 3) and np.array_equal(*painted)


BAD_LINES = {
    "no human layer in the file": ("decode machine.fcm --human x.png {weights}", "encode with"),
    "no human weights": ("decode machine.fcm --human x.png", "or with --human-weights"),
    "missing human weights": (
        "encode picture.png -o x --rate-point 1 --human --human-weights gone",
        "gone: expected the weights of a human layer",
    ),
    "missing prior": (
        "decode machine.fcm --human x.png {weights} --human-prior gone",
        "gone: expected a prior with the folders vae, unet and scheduler",
    ),
    "another codec": (
        "encode picture.png -o x --rate-point 37 --human --codec vvc_remote",
        "vvc_remote: leave out --human, which is for diff_fchm",
    ),
    "a rate without a layer": (
        "encode picture.png -o x --rate-point 1 --human-rate-point 37",
        "--human-rate-point: expected --human and the codec diff_fchm",
    ),
    "a kind for another codec": (
        "encode picture.png -o x --rate-point 37 --codec vvc_remote --human-kind learned",
        "--human-kind: expected --human and the codec diff_fchm",
    ),
    "a seed without noise": (
        "encode picture.png -o x --rate-point 1 --human-seed 3",
        "--human-seed: expected a latent layer, found diff_fchm",
    ),
    "too many steps": (
        "encode picture.png -o x --rate-point 1 --human --human-steps 51 {weights}",
        "1 to 50 sampling steps",
    ),
    "bad rate": (
        "encode picture.png -o x --rate-point 1 --human --human-rate-point 0 {weights}",
        "rate point: expected a scale",
    ),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_input_is_one_line_and_exit_code_2(typed, folder, case):
    assert typed("encode", "picture.png", "-o", "machine.fcm", "--rate-point", 1)[0] == 0
    words, message = BAD_LINES[case]
    code, _, err = typed(*words.format(weights=f"--human-weights {folder}").split())
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1, err


@pytest.fixture(scope="module")
def restorer(tiny_condition) -> Path:
    """A restorer on the machine layer of the tiny condition."""
    machine = MachineCodec(tiny_condition.parent / "tiny.safetensors")
    return tiny_restorer_weights(tiny_condition.parent, machine)


def test_encode_and_decode_an_auxiliary_picture(typed, restorer, folder):
    weights = ("--restorer", restorer)
    words = ("encode", "picture.png", "-o", "both.fcm", "--rate-point", 1, "--human", *weights)
    code, out, _ = typed(*words, "--human-rate-point", "32@75")
    assert code == 0 and "human layer" in out
    assert typed("encode", "picture.png", "-o", "machine.fcm", "--rate-point", 1)[0] == 0
    assert Path("both.fcm").read_bytes().startswith(Path("machine.fcm").read_bytes())
    assert typed("decode", "machine.fcm", "-o", "machine.json")[0] == 0
    code, out, error = typed("decode", "both.fcm", "-o", "x.json", "--human", "x.png", *weights)
    assert code == 0, error
    assert Path("x.json").read_bytes() == Path("machine.json").read_bytes()
    restored = np.asarray(Image.open("x.png"))
    assert restored.shape == (70, 90, 3)
    painter = ("--human-steps", 2, "--human-weights", folder)
    assert typed("decode", "both.fcm", "--human", "y.png", *weights, *painter)[0] == 0
    painted = np.asarray(Image.open("y.png"))
    assert painted.shape == restored.shape and not np.array_equal(painted, restored)


def test_encode_and_decode_a_learned_picture(typed, restorer, tiny_condition, capsys, tmp_path):
    picture_weights = tiny_picture_weights(tmp_path / "picture.safetensors")
    keys = f"diff_fchm_learned_weights: {picture_weights}\n"
    path = tiny_condition.with_name("learned_picture.yaml")
    path.write_text(tiny_condition.read_text() + keys)

    def learned(*words) -> tuple[int, str]:
        code = main([*map(str, words), "--restorer", str(restorer), "--condition", str(path)])
        return code, "".join(capsys.readouterr())

    encode = ("encode", "picture.png", "--rate-point", 1, "--human", "--human-kind", "learned")
    code, out = learned(*encode, "-o", "both.fcm", "--human-rate-point", 40)
    assert code == 0 and "human layer" in out, out
    assert typed("encode", "picture.png", "-o", "machine.fcm", "--rate-point", 1)[0] == 0
    both, machine = (Path(name).read_bytes() for name in ("both.fcm", "machine.fcm"))
    assert both.startswith(machine)
    assert typed("decode", "machine.fcm", "-o", "machine.json")[0] == 0
    code, out = learned("decode", "both.fcm", "-o", "both.json", "--human", "x.png")
    assert code == 0, out
    assert Path("both.json").read_bytes() == Path("machine.json").read_bytes()
    assert np.asarray(Image.open("x.png")).shape == (70, 90, 3)
    assert main(["info", "both.fcm"]) == 0
    assert "learned_picture unit of frame 0" in capsys.readouterr().out
    for words, message in (
        ((*encode, "-o", "x.fcm", "--human-rate-point", 46), "trained for the QPs 20 to 45"),
        ((*encode, "-o", "x.fcm", "--human-rate-point", "40@50"), "expected a QP from 0 to 63"),
    ):
        code, out = learned(*words)
        assert code == 2 and message in out
    code, _, error = typed(*encode, "-o", "x.fcm")
    assert code == 2 and "name them in the key diff_fchm_learned_weights" in error
    code, _, error = typed("decode", "both.fcm", "--picture", "x.png")
    assert code == 2 and "show it with --human in place of --picture" in error
    code, _, error = typed("encode", "picture.png", "-o", "x.fcm", "--codec", "diff_fchm_learned")
    assert code == 2 and "name them in the key" in error


BAD_PICTURE_LINES = {
    "no restorer": (
        "encode picture.png -o x --rate-point 1 --human --human-kind picture",
        "train them with scripts/train_restorer.py",
    ),
    "missing restorer": (
        "encode picture.png -o x --rate-point 1 --human --restorer gone",
        "gone: cannot read the RESTORER weights",
    ),
    "bad QP": (
        "encode picture.png -o x --rate-point 1 --human {restorer} --human-rate-point 64",
        "expected a QP from 0 to 63",
    ),
    "painted anew without a picture": (
        "decode machine.fcm --human-steps 4",
        "expected a file with an auxiliary picture",
    ),
    "no picture in the file": (
        "decode machine.fcm --human x.png {restorer}",
        "expected an auxiliary_picture unit after the machine unit",
    ),
}


@pytest.mark.parametrize("case", BAD_PICTURE_LINES)
def test_bad_input_for_an_auxiliary_picture(typed, restorer, case):
    line, expected = BAD_PICTURE_LINES[case]
    assert typed("encode", "picture.png", "-o", "machine.fcm", "--rate-point", 1)[0] == 0
    code, _, error = typed(*line.format(restorer=f"--restorer {restorer}").split())
    assert code == 2 and expected in error and len(error.strip().splitlines()) == 1
