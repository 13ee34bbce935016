# SPDX-License-Identifier: BSD-3-Clause
"""Do the recipes at the scale of the test conditions train, resume, export and code?"""

import json
import os
import subprocess
import sys
from pathlib import Path

import drawn_sets
import pytest
import torch
from PIL import Image
from split_parity import random_checkpoint

from vcm_plugin.conditions import model_path
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.split import load_split_model
from vcm_plugin.split.config import load_config
from vcm_plugin.testsets import minictc
from vcm_plugin.testsets.pictures import read_picture

ROOT = Path(__file__).parents[2]
RECIPES = ("vfcn_X_101_32x8d_FPN_openimages", "vfcn_X_101_32x8d_FPN_coco")
MODEL = "faster_rcnn_X_101_32x8d_FPN_3x"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two drawn pictures of the shape of photographs, and X101-FPN with random weights."""
    folder = tmp_path_factory.mktemp("data")
    images, annotations = [], []
    for n, (picture, objects) in enumerate(drawn_sets.draw_sequence(7, 2, (256, 384)), start=1):
        Image.fromarray(picture).save(folder / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "height": 256, "width": 384})
        for category, mask in objects:
            annotations.append(minictc.annotation(len(annotations) + 1, n, category, mask))
    categories = [{"id": n, "name": name} for n, name in enumerate(minictc.CLASS_NAMES, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(coco))
    checkpoint = random_checkpoint(load_config(model_path(MODEL)))
    torch.save({"model": checkpoint.weights}, folder / "model.pth")
    return folder


def trained(recipe: str, data: Path, output: Path, iterations: int) -> None:
    command = [
        sys.executable, ROOT / "scripts/train_vfcn.py", recipe, "-o", output,
        "--weights", data / "model.pth", "--images", data, "--annotations", data / "instances.json",
        "--cache", data / "features", "--iterations", iterations, "--batch-size", 1,
        "--warmup", 1, "--checkpoint-every", 1, "--threads", 1,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(list(map(str, command)), check=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_resumes_exports_and_codes(data, tmp_path, recipe):
    trained(recipe, data, tmp_path, iterations=2)  # the second with the detector's losses
    trained(recipe, data, tmp_path, iterations=3)
    state = torch.load(tmp_path / "vfcn_state.pth", weights_only=True)
    assert state["iteration"] == 3 and state["schedule"]["mixed_precision"] in ("no", "bf16")
    codec = MachineCodec(tmp_path / "vfcn.safetensors")
    detector = load_split_model(model_path(MODEL), data / "model.pth", runtime="torchvision")
    features = detector.nn_part1(read_picture(data / "1.png"))
    assert features.input_size == (800, 1200)
    sizes = [len(codec.encode(features, s)) for s in ("0.5", "4")]
    assert sizes[0] > sizes[1]
    decoded = codec.decode(codec.encode(features, "4")).require_finite()
    assert len(detector.nn_part2(decoded)) <= 100
