# SPDX-License-Identifier: BSD-3-Clause
"""How a VVC picture beside the machine layer becomes the picture that a person sees.

encode: machine layer -> p2, p3; picture -> VVC -> restorer -> strength -> auxiliary_picture unit
decode: VVC stream -> picture; p2, p3 -> restorer -> residual x strength -> picture

The decoded VVC picture is the same samples on every machine. What restores it is in restoration.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vcm_plugin import bitstream
from vcm_plugin.bitstream import AuxiliaryPicturePayload, Unit
from vcm_plugin.diff_fchm.human.restoration import Guide, Restoration, Shown
from vcm_plugin.diff_fchm.human.strength import Strength
from vcm_plugin.diff_fchm.machine.codec import MachineCodec, MachineLayer
from vcm_plugin.errors import BitstreamError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.vvc import Planes, VVenC
from vcm_plugin.vvc import planes as vvc_planes
from vcm_plugin.vvc.choice import Candidate, Coding, best, bit_price, coded_size, codings
from vcm_plugin.vvc.stream import read_format


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
        self.restoration = Restoration(machine, weights, device)
        self.restorer = self.restoration.restorer
        self.parameters = self.restoration.parameters

    def identity(self) -> dict:
        """What affects the result."""
        inner = self.encoder.identity(luma_only=False)
        return self.restoration.identity() | {"inner_codec": inner}

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
        data, guide = self.restoration.code(picture, features, rate_point)
        candidates = (self._coded(picture, coding, guide, price) for coding in wanted)
        return data + best(picture, candidates, price)

    def decode(self, data: bytes) -> tuple[FeaturePyramid, np.ndarray]:
        """An .fcm file -> features, and the picture as uint8 RGB (H, W, 3)."""
        machine, payload, strength = self.read(data)
        guide = self.restoration.guide(machine)
        size = guide.features.source_size
        planes = decode_planes(payload, size, self.encoder)
        shown = _shown(planes, Coding(payload.qp, payload.percent), size)
        return guide.features, self.restoration.restored(shown, guide, strength)

    def machine_bits(self, data: bytes) -> int:
        """Bits of the file up to the end of its machine layer."""
        return bitstream.machine_bits(data)

    def read(self, data: bytes) -> tuple[MachineLayer, AuxiliaryPicturePayload, Strength]:
        """What a file says, its latents and lengths checked; nothing is restored.

        Raises BitstreamError where there is no auxiliary picture, or one that this restorer, or
        none, can decode. With strength 0 no restorer is needed, and its weights may be any.
        """
        payload = auxiliary_picture(data)
        machine, strength = self.restoration.read(data, payload)
        return machine, payload, strength

    def _coded(self, picture: np.ndarray, coding: Coding, guide: Guide, price: float) -> Candidate:
        """One way to code the picture: its unit, restored as well as it can be."""
        size, resized = guide.features.source_size, coding.percent < 100
        samples = vvc_planes.to_planes(picture, coded_size(size, coding.percent), resized)
        stream = self.encoder.encode(samples, coding.qp)
        shown = _shown(self.encoder.decode(stream), coding, size)
        restored = self.restoration.choose(picture, shown, guide, price)
        payload = AuxiliaryPicturePayload(
            self.restorer.weights_id, coding.percent, coding.qp, restored.strength.value,
            restored.strength.map_bytes(), stream,
        )  # fmt: skip
        unit = bitstream.write_unit(Unit("auxiliary_picture", 0, payload.to_bytes()))
        return Candidate(unit, restored.picture)


def auxiliary_picture(data: bytes) -> AuxiliaryPicturePayload:
    """The auxiliary picture of a file of one picture. Raises BitstreamError where it has none."""
    payload = bitstream.read(data).payload_of("auxiliary_picture")
    return AuxiliaryPicturePayload.from_bytes(payload)


def _shown(planes: Planes, coding: Coding, size: tuple[int, int]) -> Shown:
    return Shown(planes, coding, vvc_planes.to_rgb(planes, size, coding.percent < 100))


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
