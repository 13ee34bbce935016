# SPDX-License-Identifier: BSD-3-Clause
"""How a VVC picture beside the machine layer becomes the picture that a person sees.

encode: machine layer -> p2, p3; picture -> VVC -> restorer -> strength -> auxiliary_picture unit
decode: VVC stream -> picture; p2, p3 -> restorer -> residual x strength -> picture

The decoded VVC picture is the same samples on every machine. The restorer is float: its pictures
differ by float noise, and nothing that is decoded depends on it.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from vcm_plugin import bitstream
from vcm_plugin.bitstream import AuxiliaryPicturePayload, Unit
from vcm_plugin.diff_fchm.human.geometry import Geometry
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
from vcm_plugin.vvc import Planes, VVenC
from vcm_plugin.vvc import planes as vvc_planes
from vcm_plugin.vvc.choice import Candidate, Coding, best, bit_price, coded_size, codings
from vcm_plugin.vvc.stream import read_format
from vcm_plugin.weights_file import read_weights, write_weights


class PictureRestorer:
    """A trained restorer: decoded planes and features -> what to add to the decoded picture."""

    def __init__(self, weights: Path, device: str = "cpu"):
        data, tensors, self.metadata = read_weights(weights, "restorer")
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.weights_id = int(self.sha256[:4], 16)
        self.device = torch.device(device)
        try:
            self.machine_sha256 = self.metadata["trained"]["machine_sha256"]
            model = Restorer(RestorerConfig(**self.metadata["config"]))
            model.load_state_dict({name: x.float() for name, x in tensors.items()})
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{weights}: the weights file is damaged: {reason}") from error
        if not all(x.isfinite().all() for x in tensors.values()):
            raise InputError(f"{weights}: the weights file is damaged: a weight is NaN or infinite")
        self.parameters = sum(x.numel() for x in tensors.values())
        self.model = model.requires_grad_(False).eval()
        self.model.to(self.device, memory_format=torch.channels_last)

    @stage("picture_restoration")
    @torch.inference_mode()
    def residual(
        self, planes: Planes, coding: Coding, features: FeaturePyramid, s: float
    ) -> np.ndarray:
        """RGB (H, W, 3), float64: what to add to the decoded picture in 0 .. 255.

        planes: of the decoded VVC picture. features: as decoded, with the sizes of the source. s:
        the rate point of the machine layer.
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


class AuxiliaryPictureCodec:
    """Human codec diff_fchm_picture: a machine codec, VVC, and a restorer built on both.

    preset, threads: of VVenC. The human rate point is "QP", "QP@percent" or "auto:Q".
    """

    name = "diff_fchm_picture"
    kind = "human"

    def __init__(
        self,
        machine: MachineCodec,
        weights: Path,
        preset: str = "faster",
        threads: int = 1,
        device: str = "cpu",
    ):
        self.machine, self.encoder = machine, VVenC(preset, threads)
        self.restorer = PictureRestorer(weights, device)
        trained_on = self.restorer.machine_sha256
        if not machine.carries(trained_on):
            raise InputError(
                f"{weights}: this restorer was trained on the machine layer {trained_on[:12]}, "
                f"found {machine.latents_sha256[:12]}; use the VFCN weights that it was trained on"
            )
        self.parameters = machine.parameters + self.restorer.parameters

    def identity(self) -> dict:
        """What affects the result."""
        return self.machine.identity() | {
            "restorer_weights_sha256": self.restorer.sha256,
            "inner_codec": self.encoder.identity(luma_only=False),
        }

    def encode(
        self,
        picture: np.ndarray,
        features: FeaturePyramid,
        rate_point: str,
        human_rate_point: str,
    ) -> bytes:
        """A picture and its features -> an .fcm file with a machine unit and an auxiliary picture.

        The bytes up to the end of the machine unit are those that the machine codec writes alone.
        """
        wanted, price = codings(human_rate_point), bit_price(human_rate_point)
        geometry = Geometry(features.source_size, features.input_size)
        if geometry.problem():
            raise InputError(geometry.problem())
        if tuple(picture.shape) != (*geometry.source_size, 3) or picture.dtype != np.uint8:
            raise InputError(
                f"expected the picture that the features were made of, uint8 "
                f"{(*geometry.source_size, 3)}, found {picture.dtype} {tuple(picture.shape)}"
            )
        data, machine = self.machine.code(features, rate_point)
        decoded = self.machine.synthesise(machine)
        s = machine.payload.rate_point
        candidates = (self._coded(picture, coding, decoded, s, price) for coding in wanted)
        return data + best(picture, candidates, price)

    def decode(self, data: bytes) -> tuple[FeaturePyramid, np.ndarray]:
        """An .fcm file -> features, and the picture as uint8 RGB (H, W, 3)."""
        machine, payload, strength = self.read(data)
        features = self.machine.synthesise(machine)
        planes = decode_planes(payload, features.source_size, self.encoder)
        coding = Coding(payload.qp, payload.percent)
        rgb = vvc_planes.to_rgb(planes, features.source_size, payload.percent < 100)
        if strength.value == 0:
            return features, vvc_planes.to_levels(rgb)
        residual = self.restorer.residual(planes, coding, features, machine.payload.rate_point)
        return features, restore(rgb, residual, strength)

    def machine_bits(self, data: bytes) -> int:
        """Bits of the file up to the end of its machine layer."""
        return bitstream.machine_bits(data)

    def read(self, data: bytes) -> tuple[MachineLayer, AuxiliaryPicturePayload, Strength]:
        """What a file says, its latents and lengths checked; nothing is restored.

        Raises BitstreamError where there is no auxiliary picture, or one that this restorer, or
        none, can decode. With strength 0 no restorer is needed, and its weights may be any.
        """
        payload = auxiliary_picture(data)
        weights_id = self.restorer.weights_id
        if payload.strength and payload.weights_id != weights_id:
            raise BitstreamError(
                f"the auxiliary picture was made with the restorer {payload.weights_id:04x}, "
                f"found {weights_id:04x}; decode it with the weights that it names"
            )
        machine = self.machine.decode_latents(data)
        size = machine.header.source_size
        problem = Geometry(size, machine.header.input_size).problem()
        if problem:
            raise BitstreamError(problem)
        low, high = SCALES
        if not low <= machine.payload.rate_point <= high:
            raise BitstreamError(
                f"expected a rate_point between {low:g} and {high:g}, found "
                f"{machine.payload.rate_point:g}"
            )
        return machine, payload, read_strength(payload.strength, payload.block_map, size)

    def _coded(
        self, picture: np.ndarray, coding: Coding, features: FeaturePyramid, s: float, price: float
    ) -> Candidate:
        """One way to code the picture: its unit, restored as well as it can be."""
        size, resized = features.source_size, coding.percent < 100
        samples = vvc_planes.to_planes(picture, coded_size(size, coding.percent), resized)
        stream = self.encoder.encode(samples, coding.qp)
        planes = self.encoder.decode(stream)
        rgb = vvc_planes.to_rgb(planes, size, resized)
        residual = self.restorer.residual(planes, coding, features, s)
        strength = choose_strength(picture, rgb, residual, price)
        payload = AuxiliaryPicturePayload(
            self.restorer.weights_id, coding.percent, coding.qp, strength.value,
            strength.map_bytes(), stream,
        )  # fmt: skip
        unit = bitstream.write_unit(Unit("auxiliary_picture", 0, payload.to_bytes()))
        return Candidate(unit, lambda: restore(rgb, residual, strength))


def auxiliary_picture(data: bytes) -> AuxiliaryPicturePayload:
    """The auxiliary picture of a file of one picture. Raises BitstreamError where it has none."""
    stream = bitstream.read(data)
    stream.header.require_picture()
    found = [unit for unit in stream.units if unit.type == "auxiliary_picture"]
    if not found:
        kinds = ", ".join(unit.type for unit in stream.units)
        raise BitstreamError(
            f"expected an auxiliary_picture unit after the machine unit, found only: {kinds}; "
            "encode with --human, or decode for the machine alone"
        )
    return AuxiliaryPicturePayload.from_bytes(found[0].payload)


def decode_planes(
    payload: AuxiliaryPicturePayload, source_size: tuple[int, int], decoder: VVenC
) -> Planes:
    """The planes of the VVC picture in a unit. Raises BitstreamError unless they fit the unit."""
    coded = read_format(payload.data)
    expected = coded_size(source_size, payload.percent)
    if (coded.height, coded.width) != expected or coded.planes != 3:
        raise BitstreamError(
            f"expected a VVC picture of {expected} (height, width) in 4:2:0, {payload.percent} "
            f"percent of {source_size}, found {(coded.height, coded.width)} with {coded.planes} "
            "planes: the auxiliary picture is not that of this file"
        )
    return decoder.decode(payload.data)


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
