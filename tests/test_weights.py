# SPDX-License-Identifier: BSD-3-Clause
"""The bundled weights are those of their index, small, and readable without pickled code."""

import pytest
import torch
import yaml

from anchors.fctm_like import FctmLikeCodec
from anchors.feature_head import FeatureHead
from anchors.picture_heads import LatentScalableCodec, MultiHeadCodec
from anchors.picture_learned import PictureLearnedCodec
from vcm_plugin.diff_fchm.human.auxiliary import AuxiliaryPictureCodec
from vcm_plugin.diff_fchm.human.codec import HumanCodec
from vcm_plugin.diff_fchm.human.restorer import kmac_per_pixel
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.environment import PACKAGE, cfg_folder
from vcm_plugin.errors import InputError
from vcm_plugin.split import load_split_model
from vcm_plugin.split.jde_config import is_jde
from vcm_plugin.weights_file import digest, fitting, read_weights, write_weights

FOLDER = PACKAGE / "weights"
INDEX = yaml.safe_load((FOLDER / "index.yaml").read_text())
PAINTERS = [name for name in INDEX if (FOLDER / name).is_dir()]  # human layers with their prior


def test_index_lists_every_file():
    found = {p.name for p in FOLDER.iterdir() if p.suffix != ".yaml" and p.name != "__pycache__"}
    assert found == set(INDEX)


@pytest.mark.parametrize("name", INDEX)
def test_weights_are_those_of_the_index(name):
    entry, (sha256, size) = INDEX[name], digest(FOLDER / name)
    assert (entry["sha256"], entry["bytes"]) == (sha256, size)
    if name not in PAINTERS:
        assert entry["id"] == sha256[:8]
    assert size <= (40_000_000 if name in PAINTERS else 12_000_000)
    assert entry["trained_on"] and entry["terms"] and entry["training"]


@pytest.mark.parametrize("kind", ["vfcn", "picture", "transform", "msfc", "fctm_like", "restorer"])
def test_what_is_no_weights_file_is_told_apart(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    contents = {
        "a Git LFS pointer.*git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid s\n",
        "a web page": b"<!DOCTYPE html>",
        "an empty file": b"",
    }
    for found, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"expected {kind.upper()} weights, found {found}"):
            read_weights(path, kind)
    write_weights(path, "other", {"a": torch.ones(2)}, {})
    with pytest.raises(InputError, match=r"another kind, .*\(vcm-plugin other 1\)"):
        read_weights(path, kind)
    for value in (float("nan"), float("inf")):
        write_weights(path, kind, {"a": torch.tensor([1.0, value]).half()}, {})
        with pytest.raises(InputError, match="damaged: a weight is NaN or infinite"):
            with fitting(path, read_weights(path, kind)[1]):
                pass


LEARNED_PICTURES = [name for name in INDEX if "_picture" in name]


@pytest.mark.parametrize("name", LEARNED_PICTURES)
def test_learned_pictures_load_and_are_small(name):
    codec = PictureLearnedCodec(FOLDER / name)
    assert f"{codec.weights_id:08x}" == INDEX[name]["id"]
    assert codec.parameters <= 3_000_000 and INDEX[name]["bytes"] <= 4_000_000


TRANSFORMS = {
    "minictc_scalable.safetensors": LatentScalableCodec,
    "minictc_multi_head.safetensors": MultiHeadCodec,
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_belong_to_their_picture_and_machine_layer(name):
    picture = PictureLearnedCodec(FOLDER / INDEX[name]["picture"])
    machine = MachineCodec(FOLDER / INDEX[name]["machine"])
    codec = TRANSFORMS[name](FeatureHead(FOLDER / name, picture, machine))
    assert f"{codec.head.weights_id:08x}" == INDEX[name]["id"]
    assert codec.head.detector_sha256 == machine.metadata["detector_sha256"]
    assert INDEX[name]["bytes"] <= 4_000_000


LIKE_FCTM = [name for name in INDEX if name.endswith("_fctm_like.safetensors")]


@pytest.mark.parametrize("name", LIKE_FCTM)
def test_fctm_like_belongs_to_its_detector(name):
    codec = FctmLikeCodec(FOLDER / name)
    assert f"{codec.weights_id:08x}" == INDEX[name]["id"] and INDEX[name]["bytes"] <= 4_000_000
    detectors = [d for d in INDEX if INDEX[d].get("detector") == INDEX[name]["detector"]]
    assert codec.metadata["detector_sha256"] in [INDEX[d]["sha256"] for d in detectors]


DETECTORS = [name for name in INDEX if name.endswith(".pth")]


@pytest.mark.parametrize("name", DETECTORS)
def test_weights_load_into_their_detector(name):
    path = FOLDER / name
    assert "model" in torch.load(path, weights_only=True)
    config = cfg_folder() / "models" / f"{INDEX[name]['detector']}.yaml"
    split_point = "jde_tvd" if is_jde(config) else "fpn"
    model = load_split_model(config, path, split_point, runtime="torchvision")
    assert model.weights_sha256 == INDEX[name]["sha256"]


RESTORERS = [name for name in INDEX if name.endswith("_restorer.safetensors")]


INTERS = [name for name in INDEX if name.endswith("_inter.safetensors")]


@pytest.mark.parametrize("name", INTERS)
def test_inter_networks_belong_to_their_machine_layer(name):
    codec = MachineCodec(FOLDER / INDEX[name]["machine"], inter=FOLDER / name)
    assert f"{codec.inter.weights_id:08x}" == INDEX[name]["id"]
    assert INDEX[name]["bytes"] <= 4_000_000


VFCNS = [name for name in INDEX if name.endswith("_vfcn.safetensors")]


@pytest.mark.parametrize("name", VFCNS)
def test_vfcn_belongs_to_its_detector(name):
    codec = MachineCodec(FOLDER / name)
    assert f"{codec.weights_id:08x}" == INDEX[name]["id"]
    detectors = [d for d in DETECTORS if INDEX[d]["detector"] == INDEX[name]["detector"]]
    assert codec.metadata["detector_sha256"] in [INDEX[d]["sha256"] for d in detectors]


@pytest.mark.parametrize("name", RESTORERS)
def test_restorer_belongs_to_its_machine_layer(name):
    machine = MachineCodec(FOLDER / INDEX[name]["machine"])
    codec = AuxiliaryPictureCodec(machine, FOLDER / name)
    assert codec.restorer.sha256.startswith(INDEX[name]["id"])
    assert kmac_per_pixel(codec.restorer.model.config) <= 60


@pytest.mark.parametrize("name", PAINTERS)
def test_human_layer_belongs_to_its_machine_layer(name):
    machine = MachineCodec(FOLDER / INDEX[name]["machine"])
    codec = HumanCodec(machine, FOLDER / name)
    assert f"{codec.weights_id:08x}" == INDEX[name]["id"]
