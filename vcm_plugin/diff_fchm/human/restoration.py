# SPDX-License-Identifier: BSD-3-Clause
"""How is a decoded picture restored with the machine layer? The same whoever codes the picture.

encode: machine layer -> p2, p3; decoded picture, p2, p3 -> restorer -> residual -> strength
decode: decoded picture + residual x strength -> picture

The restorer is float: its pictures differ by float noise, and nothing that is decoded depends on
it.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vcm_plugin.bitstream import AuxiliaryPicturePayload, LearnedPicturePayload
from vcm_plugin.diff_fchm.human.geometry import Geometry, geometry_of_picture
from vcm_plugin.diff_fchm.human.restorer import (
    LAYERS,
    Restorer,
    RestorerConfig,
    on_picture_grids,
    padded,
    to_planes,
)
from vcm_plugin.diff_fchm.human.strength import Strength, choose_strength, read_strength, restore
from vcm_plugin.diff_fchm.machine.codec import MachineCodec, MachineLayer
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.rate_points import SCALES
from vcm_plugin.stages import stage
from vcm_plugin.vvc import Planes
from vcm_plugin.vvc import planes as vvc_planes
from vcm_plugin.vvc.choice import Coding, coded_size
from vcm_plugin.weights_file import fitting, read_weights, write_weights


class Shown(NamedTuple):
    """A decoded picture before it is restored.

    planes: 10-bit Y', Cb, Cr, as VVC codes them. coding: at which QP and size. rgb: float
    (H, W, 3) at the source's size, about 0 .. 255; with strength 0 it is shown, rounded.
    """

    planes: Planes
    coding: Coding
    rgb: np.ndarray


class Guide(NamedTuple):
    """What the machine layer of a file tells: its decoded features, and its s."""

    features: FeaturePyramid
    s: float


@dataclass(frozen=True)
class Restored:
    """What the encoder chose for a picture: how strongly its residual (H, W, 3) is added."""

    shown: Shown
    residual: np.ndarray
    strength: Strength

    def picture(self) -> np.ndarray:
        """uint8 RGB (H, W, 3)."""
        return restore(self.shown.rgb, self.residual, self.strength)


class PictureRestorer:
    """A trained restorer: decoded planes and features -> what to add to the decoded picture."""

    def __init__(self, weights: Path, device: str = "cpu"):
        data, tensors, self.metadata = read_weights(weights, "restorer")
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.weights_id = int(self.sha256[:4], 16)
        self.device = torch.device(device)
        with fitting(weights, tensors):
            self.machine_sha256 = self.metadata["trained"]["machine_sha256"]
            model = Restorer(RestorerConfig(**self.metadata["config"]))
            model.load_state_dict({name: x.float() for name, x in tensors.items()})
        self.parameters = sum(x.numel() for x in tensors.values())
        self.model = model.requires_grad_(False).eval()
        self.model.to(self.device, memory_format=torch.channels_last)

    @stage("picture_restoration")
    @torch.inference_mode()
    def residual(
        self, planes: Planes, coding: Coding, features: FeaturePyramid, s: float
    ) -> np.ndarray:
        """RGB (H, W, 3), float64: what to add to the decoded picture in 0 .. 255.

        planes: of the decoded picture. features: as decoded, with the sizes of the source. s: the
        rate point of the machine layer.
        """
        geometry = Geometry(features.source_size, features.input_size)
        height, width = geometry.source_size
        luma, *chroma = vvc_planes.resample_planes(
            planes, padded(geometry.source_size), geometry.source_size, coding.percent < 100
        )
        samples = to_planes(
            torch.from_numpy(luma)[None, None], torch.from_numpy(np.stack(chroma))[None]
        )
        layers = {name: features.layers[name][None] for name in LAYERS}
        layers = on_picture_grids(layers, geometry) if self.model.config.features else {}
        known = torch.tensor([[coding.qp, coding.percent, s]], dtype=torch.float32)
        found = self.model(
            self._placed(samples), {k: self._placed(x) for k, x in layers.items()},
            known.to(self.device),
        )  # fmt: skip
        ycbcr = found[0, :, :height, :width].permute(1, 2, 0).double().cpu().numpy()
        return ycbcr @ vvc_planes.RGB_OF_LEVELS.T

    def _placed(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.device, memory_format=torch.channels_last)


class Restoration:
    """A machine codec and a restorer that was trained on it. Raises InputError where it was not."""

    def __init__(self, machine: MachineCodec, weights: Path, device: str = "cpu"):
        self.machine, self.restorer = machine, PictureRestorer(weights, device)
        trained_on = self.restorer.machine_sha256
        if not machine.carries(trained_on):
            raise InputError(
                f"{weights}: this restorer was trained on the machine layer {trained_on[:12]}, "
                f"found {machine.latents_sha256[:12]}; use the VFCN weights that it was trained on"
            )
        self.parameters = machine.parameters + self.restorer.parameters

    def identity(self) -> dict:
        """What affects the result."""
        return self.machine.identity() | {"restorer_weights_sha256": self.restorer.sha256}

    def code(
        self, picture: np.ndarray, features: FeaturePyramid, rate_point: str
    ) -> tuple[bytes, Guide]:
        """The machine codec's file of the features, and what it tells of the picture.

        Raises InputError where the picture is not the one that the features were made of.
        """
        geometry_of_picture(picture, features)
        data, machine = self.machine.code(features, rate_point)
        return data, self.guide(machine)

    def guide(self, machine: MachineLayer) -> Guide:
        """What a decoded machine layer tells of the picture."""
        return Guide(self.machine.synthesise(machine), machine.payload.rate_point)

    @staticmethod
    def shown(picture: np.ndarray, qp: int) -> Shown:
        """A decoded picture, uint8 (H, W, 3), of a codec that codes no planes. qp: of VVC, where a
        picture is about as close to its source."""
        planes = vvc_planes.to_planes(picture, coded_size(picture.shape[:2], 100), resized=False)
        return Shown(planes, Coding(qp, 100), picture.astype(np.float64))

    def choose(self, source: np.ndarray, shown: Shown, guide: Guide, price: float) -> Restored:
        """The strength with the least squared error. price: squared error that a bit is worth."""
        residual = self.restorer.residual(shown.planes, shown.coding, *guide)
        return Restored(shown, residual, choose_strength(source, shown.rgb, residual, price))

    def restored(self, shown: Shown, guide: Guide, strength: Strength) -> np.ndarray:
        """The picture that a person sees, uint8 RGB (H, W, 3)."""
        if strength.value == 0:
            return vvc_planes.to_levels(shown.rgb)
        residual = self.restorer.residual(shown.planes, shown.coding, *guide)
        return restore(shown.rgb, residual, strength)

    def read(
        self, data: bytes, payload: AuxiliaryPicturePayload | LearnedPicturePayload
    ) -> tuple[MachineLayer, Strength]:
        """The machine layer of a file, and the strength that its picture's payload states.

        Raises BitstreamError unless latents and lengths are right, and the restorer is this one;
        with strength 0 no restorer is needed, and its weights may be any.
        """
        weights_id = self.restorer.weights_id
        if payload.strength and payload.weights_id != weights_id:
            raise BitstreamError(
                f"the auxiliary picture was made with the restorer {payload.weights_id:04x}, "
                f"found {weights_id:04x}; decode it with the weights that it names"
            )
        machine = self.machine.decode_latents(data)
        size = machine.header.source_size
        Geometry(size, machine.header.input_size).require(BitstreamError)
        low, high = SCALES
        if not low <= machine.payload.rate_point <= high:
            raise BitstreamError(
                f"expected a rate_point between {low:g} and {high:g}, found "
                f"{machine.payload.rate_point:g}"
            )
        return machine, read_strength(payload.strength, payload.block_map, size)


def export(model: Restorer, trained: dict, path: Path) -> Path:
    """Write the weights file of a trained restorer: 16-bit floats, statistics in 32 bits.

    trained: the record of its training; its machine_sha256 is the machine layer's latents_sha256.
    """
    tensors = {
        name: x if name in ("mean", "std") else x.half() for name, x in model.state_dict().items()
    }
    return write_weights(
        path, "restorer", tensors, {"config": asdict(model.config), "trained": trained}
    )
