# SPDX-License-Identifier: BSD-3-Clause
"""Recipes: the bundled ones are complete, a wrong key is named, what is typed comes first."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from anchors.fctm_config import FctmConfig
from anchors.msfc_config import MsfcConfig
from anchors.picture_config import PictureConfig, TransformConfig
from vcm_plugin.conditions import model_path
from vcm_plugin.diff_fchm.human.config import HvcnConfig, RestorerConfig
from vcm_plugin.diff_fchm.machine.config import VfcnConfig
from vcm_plugin.diff_fchm.machine.inter_config import InterConfig
from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError
from vcm_plugin.split.config import load_config
from vcm_plugin.split.jde_config import is_jde, load_jde_config
from vcm_plugin.training import options
from vcm_plugin.training.schedules import (
    DetectorTraining,
    FctmTraining,
    HeadsTraining,
    HvcnTraining,
    ImportanceTraining,
    InterTraining,
    MsfcTraining,
    PictureTraining,
    RestorerTraining,
    TrackerTraining,
    TransformTraining,
    VfcnTraining,
)

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (cfg_folder() / "training").glob("*.yaml"))
KINDS = {
    "vfcn": (options.VfcnInputs, VfcnConfig, VfcnTraining),
    "msfc": (options.FeatureInputs, MsfcConfig, MsfcTraining),
    "fctm_like": (options.FeatureInputs, FctmConfig, FctmTraining),
    "importance": (options.ImportanceInputs, ImportanceTraining),
    "inter": (options.InterInputs, InterConfig, InterTraining),
    "hvcn": (options.HvcnInputs, HvcnConfig, HvcnTraining),
    "detector": (options.DetectorInputs, DetectorTraining),
    "picture": (options.PictureInputs, PictureConfig, PictureTraining),
    "transform": (options.TransformInputs, TransformConfig, TransformTraining),
    "heads": (options.HeadsInputs, HeadsTraining),
    "tracker": (options.TrackerInputs, TrackerTraining),
    "restorer": (options.RestorerInputs, RestorerConfig, RestorerTraining),
}


def typed(network: str, *words) -> list:
    """The dataclasses that a command line and its recipe make."""
    parser = argparse.ArgumentParser()
    options.add_options(parser, *KINDS[network])
    return options.read_recipe(parser.parse_args([*map(str, words), "-o", "out"]), *KINDS[network])


@pytest.mark.parametrize("name", RECIPES)
def test_bundled_recipes_are_complete(name):
    network = next(network for network in KINDS if name.startswith(f"{network}_"))
    inputs, *others = typed(network, name)
    if is_jde(model_path(inputs.model)):
        load_jde_config(model_path(inputs.model))
        return
    detector = load_config(model_path(inputs.model))
    if network == "hvcn":  # the machine layer says the channels
        assert name.endswith(others[-1].stage)
    elif network in ("vfcn", "msfc", "fctm_like"):
        assert others[0].channels == detector.fpn_channels


def test_what_is_typed_comes_first():
    inputs, config, schedule = typed(
        "vfcn", "vfcn_minictc", "--iterations", 3, "--rate-points", 1, 2, "--no-fuse"
    )
    assert (schedule.iterations, config.latents, config.fuse) == (3, 320, False)
    assert inputs.rate_points == ("1", "2")
    assert schedule.scales == (0.2, 5.0)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--checkpoint-every", 0, "checkpoint_every: expected at least 1"),
        ("--mixed-precision", "half", "mixed_precision: expected one of auto, no"),
        ("--scales", 0, "scales: expected two"),
        ("--latents", 100, "slices must add up"),
    ],
)
def test_settings_that_cannot_train(option, value, message):
    with pytest.raises(InputError, match=message):
        typed("vfcn", "vfcn_minictc", option, value)


def test_the_paper_profile_is_a_recipe_and_each_difference_an_option():
    for stage in ("control", "sampling"):
        _, sizes, schedule = typed("hvcn", f"hvcn_paper_{stage}")
        assert (sizes.profile, schedule.stage) == ("paper", stage)
    _, alone, _ = typed("hvcn", "hvcn_paper_control", "--fusion", "coarse_to_fine")
    assert alone.profile == "paper with fusion coarse_to_fine"
    assert typed("vfcn", "vfcn_paper")[1].fuse is False
    with pytest.raises(InputError, match="control: expected side_encoder or prior_layers, found"):
        typed("hvcn", "hvcn_paper_control", "--control", "none")


def test_bad_recipes(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: minictc_mask_rcnn\niteration: 3\n")
    with pytest.raises(InputError, match="unknown key iteration; did you mean iterations"):
        typed("vfcn", path)
    path.write_text("iterations: 3\n")
    with pytest.raises(InputError, match="expected the key model"):
        typed("vfcn", path)
    assert typed("vfcn", path, "--model", "minictc_mask_rcnn")[2].iterations == 3
    with pytest.raises(InputError, match="vfcn_minictc"):
        typed("vfcn", "nowhere")
    for line, message in {
        "iterations: 2.5": "iterations: expected int, found 2.5",
        "scales: 4": "scales: expected list.float, float., found 4",
        "fuse: 'no'": "fuse: expected bool, found 'no'",
        "[1, 2]": "expected the keys of a",
        "images: somewhere": "expected --annotations too",
        "stage: joined": "unknown key stage",
    }.items():
        path.write_text(line if line.startswith("[") else f"model: minictc_mask_rcnn\n{line}")
        with pytest.raises(InputError, match=message):
            typed("vfcn", path)


@pytest.mark.parametrize("network", KINDS)
@pytest.mark.parametrize(
    ("words", "code"),
    [(["--help"], 0), (["nowhere", "-o", "out"], 2), (["x", "-o", "out", "--seed", "x"], 2)],
)
def test_help_and_wrong_options_need_no_torch(network, words, code):
    program = (
        f"import sys; sys.modules['torch'] = None; sys.path.insert(0, {str(ROOT)!r})\n"
        "from vcm_plugin.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "train", network, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("network", KINDS)
def test_the_script_is_the_command(network):
    command = [sys.executable, ROOT / "scripts" / f"train_{network}.py", "nowhere", "-o", "out"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert done.stderr.startswith("vcm-plugin: error: training recipe nowhere: expected a YAML")
