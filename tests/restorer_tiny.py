# SPDX-License-Identifier: BSD-3-Clause
"""A tiny real restorer on the tiny VFCN, and codecs with it, for tests."""

from dataclasses import replace
from pathlib import Path

import picture_tiny
import torch

from anchors.auxiliary_learned import LearnedAuxiliaryCodec
from anchors.picture_learned import PictureLearnedCodec
from vcm_plugin.diff_fchm.human.auxiliary import AuxiliaryPictureCodec
from vcm_plugin.diff_fchm.human.restoration import Restoration, export
from vcm_plugin.diff_fchm.human.restorer import Restorer, RestorerConfig
from vcm_plugin.diff_fchm.machine.codec import MachineCodec

SIZES = RestorerConfig(channels=8, width2=8, width4=8, width8=8, blocks4=2, told_width=8)


def tiny_restorer(sizes: RestorerConfig = SIZES, seed: int = 0) -> Restorer:
    """Random weights with a residual of some levels, which the features change."""
    torch.manual_seed(seed)
    model = Restorer(sizes)
    model.last.weight.data.normal_(std=0.02)
    if sizes.features:
        model.fusion.zero.weight.data.normal_(std=0.1)
    return model.eval()


def tiny_restorer_weights(
    folder: Path, machine: MachineCodec, sizes: RestorerConfig = SIZES, seed: int = 0
) -> Path:
    """The weights file of tiny_restorer, for the channels of a machine layer."""
    sizes = replace(sizes, channels=machine.config.channels)
    trained = {"machine_sha256": machine.latents_sha256}
    return export(tiny_restorer(sizes, seed), trained, folder / f"tiny{seed}.restorer")


def tiny_picture_codec(folder: Path, machine: MachineCodec) -> AuxiliaryPictureCodec:
    """A codec with its weights in the folder."""
    return AuxiliaryPictureCodec(machine, tiny_restorer_weights(folder, machine))


def tiny_learned_codec(folder: Path, machine: MachineCodec, seed: int = 0) -> LearnedAuxiliaryCodec:
    """diff_fchm_learned with the tiny picture codec; seed: of the restorer."""
    weights = tiny_restorer_weights(folder, machine, seed=seed)
    picture = picture_tiny.tiny_codec(folder)
    return LearnedAuxiliaryCodec(Restoration(machine, weights), picture)


def golden_learned_codec(golden: Path) -> LearnedAuxiliaryCodec:
    """diff_fchm_learned with the weights of the golden files."""
    machine = MachineCodec(golden / "tiny.vfcn")
    restoration = Restoration(machine, golden / "tiny.restorer")
    return LearnedAuxiliaryCodec(restoration, PictureLearnedCodec(golden / "tiny.picture"))
