# SPDX-License-Identifier: BSD-3-Clause
"""Recipes: the bundled ones are complete, a wrong key is named, what is typed comes first."""

import pytest

from anchors.msfc_networks import MsfcConfig
from vcm_plugin.conditions import model_path
from vcm_plugin.diff_fchm.human.config import HvcnConfig
from vcm_plugin.diff_fchm.machine.config import VfcnConfig
from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError
from vcm_plugin.split.config import load_config
from vcm_plugin.training import options as cli
from vcm_plugin.training.hvcn.recipe import HvcnTraining
from vcm_plugin.training.msfc import MsfcTraining
from vcm_plugin.training.vfcn import VfcnTraining

RECIPES = sorted(path.stem for path in (cfg_folder() / "training").glob("*.yaml"))
CODECS = {
    "vfcn": (VfcnConfig, VfcnTraining),
    "msfc": (MsfcConfig, MsfcTraining),
    "hvcn": (HvcnConfig, HvcnTraining),
}


def typed(monkeypatch, codec, *words):
    monkeypatch.setattr("sys.argv", ["train.py", *map(str, words), "-o", "out"])
    parser = cli.parser("", *CODECS[codec])
    parser.add_argument("--init")
    parser.add_argument("--rate-points", nargs="+")
    parser.add_argument("--vfcn")
    return cli.parse(parser)


@pytest.mark.parametrize("name", RECIPES)
def test_bundled_recipes_are_complete(monkeypatch, name):
    codec = name.split("_")[0]
    options = typed(monkeypatch, codec, name)
    config, schedule = (cli.chosen(kind, options) for kind in CODECS[codec])
    if codec == "hvcn":  # the machine layer says the channels
        assert name.endswith(schedule.stage)
    else:
        assert config.channels == load_config(model_path(options.model)).fpn_channels


def test_what_is_typed_comes_first(monkeypatch):
    options = typed(monkeypatch, "vfcn", "vfcn_minictc", "--iterations", 3)
    assert (options.iterations, options.latents) == (3, 320)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--checkpoint-every", 0, "checkpoint_every: expected at least 1"),
        ("--mixed-precision", "half", "mixed_precision: expected one of no"),
        ("--scales", 0, "scales: expected two"),
        ("--latents", 100, "slices must add up"),
    ],
)
def test_settings_that_cannot_train(monkeypatch, option, value, message):
    options = typed(monkeypatch, "vfcn", "vfcn_minictc", option, value)
    with pytest.raises(InputError, match=message):
        for kind in CODECS["vfcn"]:
            cli.chosen(kind, options)


def test_bad_recipes(monkeypatch, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: minictc_mask_rcnn\niteration: 3\n")
    with pytest.raises(InputError, match="unknown key iteration; did you mean iterations"):
        typed(monkeypatch, "vfcn", path)
    path.write_text("iterations: 3\n")
    with pytest.raises(InputError, match="expected the key model"):
        typed(monkeypatch, "vfcn", path)
    with pytest.raises(InputError, match="vfcn_minictc"):
        typed(monkeypatch, "vfcn", "nowhere")
    for line, message in {
        "iterations: 2.5": "iterations: expected int, found 2.5",
        "scales: 4": "scales: expected a list of float, found 4",
        "fuse: 'no'": "fuse: expected bool, found 'no'",
        "[1, 2]": "expected a YAML of keys",
    }.items():
        path.write_text(line)
        with pytest.raises(InputError, match=message):
            typed(monkeypatch, "vfcn", path)
