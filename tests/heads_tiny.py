# SPDX-License-Identifier: BSD-3-Clause
"""Tiny real codecs latent_scalable and multi_head, and their weights files, for tests."""

from pathlib import Path

import picture_tiny
import torch
import vfcn_tiny

from anchors.feature_head import FeatureHead
from anchors.latent_transform import LatentTransform, export
from anchors.picture_config import TransformConfig
from anchors.picture_heads import LatentScalableCodec, MultiHeadCodec
from anchors.picture_learned import PictureLearnedCodec
from vcm_plugin.diff_fchm.machine.codec import MachineCodec

BASE, ALL = 12, sum(picture_tiny.CONFIG.slices)  # channels of y: two slices of three, and all
QPS = (22, 40)


def tiny_transform(
    path: Path,
    picture: PictureLearnedCodec,
    machine: MachineCodec,
    latents: int = BASE,
    detector: str = "0" * 64,
) -> Path:
    """The weights file of a random transform between two codecs."""
    torch.manual_seed(latents)
    config = TransformConfig(latents, machine.config.latents, width=8, blocks=1, qps=QPS)
    model = LatentTransform(config)
    model.std.fill_(4.0)
    return export(model, picture.sha256, machine.latents_sha256, detector, {}, path)


def tiny_codecs(folder: Path) -> dict[str, LatentScalableCodec | MultiHeadCodec]:
    """Both codecs over one picture codec and one machine layer."""
    picture = picture_tiny.tiny_codec(folder)
    machine = MachineCodec(vfcn_tiny.tiny_weights(folder))
    heads = [
        FeatureHead(
            tiny_transform(folder / f"{n}.safetensors", picture, machine, n), picture, machine
        )
        for n in (BASE, ALL)
    ]
    return {
        "latent_scalable": LatentScalableCodec(heads[0]),
        "multi_head": MultiHeadCodec(heads[1]),
    }


def golden_codecs(golden: Path) -> dict[str, LatentScalableCodec | MultiHeadCodec]:
    """Both codecs with the weights of tests/golden."""
    picture, machine = (
        PictureLearnedCodec(golden / "tiny.picture"),
        MachineCodec(golden / "tiny.vfcn"),
    )
    heads = {
        name: FeatureHead(golden / f"tiny.{name}", picture, machine)
        for name in ("latent_scalable", "multi_head")
    }
    return {
        "latent_scalable": LatentScalableCodec(heads["latent_scalable"]),
        "multi_head": MultiHeadCodec(heads["multi_head"]),
    }
