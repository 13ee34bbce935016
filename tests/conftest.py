# SPDX-License-Identifier: BSD-3-Clause
"""What several test files share: the smallest real test condition, a cache, the wheel."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Then vcm-plugin keeps warnings to itself no longer, so that tests show them.
sys.warnoptions.append("default")


@pytest.fixture(scope="session")
def tiny_condition(tmp_path_factory) -> Path:
    """A condition of two pictures: the built-in detector and a VFCN for it with random weights."""
    from tiny_condition import write_tiny_condition

    return write_tiny_condition(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_cache(shared_cache, monkeypatch) -> Path:
    """Keeps drawn pictures and features away from the user's cache folder."""
    monkeypatch.setenv("VCM_CACHE", str(shared_cache))
    return shared_cache


@pytest.fixture(scope="session")
def sfu(shared_cache, tmp_path_factory) -> Path:
    """A run of diff_fchm on three drawn sequences of two frames, beside their data."""
    from drawn_runs import drawn_sfu

    from vcm_plugin.ctc.codecs import load_condition

    names = load_condition("sfu_hw").sequences
    chosen = tuple(name for name in names if "RaceHorses" in name or "BQSquare" in name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        return drawn_sfu(tmp_path_factory.mktemp("sfu"), chosen, frames=2)


@pytest.fixture(scope="session")
def human_runs(tiny_condition, shared_cache, tmp_path_factory):
    """Real runs of three codecs over two pictures, what they returned, and their report."""
    from changed import changed
    from hvcn_tiny import tiny_folder

    from vcm_plugin.ctc.codecs import load_condition
    from vcm_plugin.ctc.run import RunOptions, run
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec
    from vcm_plugin.report import write_report

    tiny_folder(
        tiny_condition.parent / "painter", MachineCodec(tiny_condition.parent / "tiny.safetensors")
    )
    condition = changed(
        load_condition(tiny_condition), human_vision=True, diff_fchm_human_weights="painter",
        diff_fchm_human_points=("1+0.5", "1+2"), simulcast_points=("1+42", "1+47"),
        vvc_remote_qps=(37, 47), vvc_remote_sizes=(100,),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("human")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        names = ("diff_fchm_human", "simulcast", "vvc_remote")
        found = {n: run(condition, n, folder / n, RunOptions()) for n in names}
        runs = [folder / name for name in names]
        write_report(runs, ["simulcast", "vvc_remote"], folder / "report")
    return found, folder


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Features of six drawn pictures, by a small detector with random weights."""
    from dataclasses import replace

    import torch

    from vcm_plugin.environment import cfg_folder
    from vcm_plugin.split import load_split_model
    from vcm_plugin.split.config import load_config
    from vcm_plugin.split.torchvision import build_rcnn, to_detectron2_state_dict
    from vcm_plugin.testsets import minictc
    from vcm_plugin.testsets.coco import load_coco
    from vcm_plugin.training.feature_store import FeatureStore

    folder = tmp_path_factory.mktemp("drawn")
    dataset = load_coco(folder / "images", minictc.generate("train", folder, count=6))
    whole = load_config(cfg_folder() / "models/minictc_mask_rcnn.yaml")
    config = replace(whole, stem_out_channels=8, res2_out_channels=8, fpn_channels=8, box_fc_dim=16)
    torch.manual_seed(0)
    torch.save({"model": to_detectron2_state_dict(build_rcnn(config))}, folder / "random.pth")
    detector = load_split_model(config, folder / "random.pth", runtime="torchvision")
    return FeatureStore(detector, dataset, folder / "features")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this package, built from a copy so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = (".git", ".venv", "build", "dist", "*.egg-info", "runs", "__pycache__")
    shutil.copytree(
        Path(__file__).parents[1], folder / "source", ignore=shutil.ignore_patterns(*left_out)
    )
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder]
    if all(importlib.util.find_spec(name) for name in ("setuptools", "wheel")):
        command.append("--no-build-isolation")  # needs no network
    done = subprocess.run([*command, folder / "source"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))
