# SPDX-License-Identifier: BSD-3-Clause
"""What does the payload of a unit say, and in which bytes?

`to_bytes` and `from_bytes` raise BitstreamError for values that the tables of syntax.py, or what
the values mean, do not allow.
"""

from __future__ import annotations

from dataclasses import dataclass

from vcm_plugin.bitstream.bits import read_elements, write_elements
from vcm_plugin.bitstream.syntax import (
    AUXILIARY_PICTURE_PAYLOAD,
    ENHANCEMENT_PAYLOAD,
    FCTM_LIKE_PAYLOAD,
    HUMAN_PAYLOAD,
    LATENTS_PAYLOAD,
    LEARNED_PICTURE_PAYLOAD,
    MACHINE_PAYLOAD,
    PERCENTS,
)
from vcm_plugin.errors import BitstreamError


@dataclass(frozen=True)
class MachinePayload:
    """Payload of a machine unit; its floats must be 16-bit floats already (round_float)."""

    value_range: tuple[float, float]
    rate_point: float
    checksum: int
    data: bytes

    def to_bytes(self) -> bytes:
        low, high = self.value_range
        if not low < high:
            raise BitstreamError(f"expected a range low < high, found {self.value_range}")
        values = {"range_low": low, "range_high": high, "rate_point": self.rate_point}
        return write_elements(
            MACHINE_PAYLOAD, values | {"checksum": self.checksum, "data": self.data}
        )

    @classmethod
    def from_bytes(cls, payload: bytes) -> MachinePayload:
        values, _ = read_elements(MACHINE_PAYLOAD, payload, 0, "the payload of a machine unit")
        low, high = values["range_low"], values["range_high"]
        if not low < high:
            raise BitstreamError(f"expected a range low < high, found {(low, high)}")
        return cls((low, high), values["rate_point"], values["checksum"], values["data"])


@dataclass(frozen=True)
class HumanPayload:
    """Payload of a human unit: how its picture is sampled, and its entropy-coded data.

    step must be a 16-bit float above zero already (round_float).
    """

    weights_id: int
    step: float
    seed: int
    steps: int
    start: int
    checksum: int
    data: bytes
    sampler: int = 0

    def to_bytes(self) -> bytes:
        self._check()
        return write_elements(HUMAN_PAYLOAD, vars(self))

    @classmethod
    def from_bytes(cls, payload: bytes) -> HumanPayload:
        found = cls(**read_elements(HUMAN_PAYLOAD, payload, 0, "the payload of a human unit")[0])
        found._check()
        return found

    def _check(self) -> None:
        if not self.step > 0.0:
            raise BitstreamError(f"expected a quantiser step above 0, found {self.step}")
        if self.steps > self.start:
            raise BitstreamError(
                f"expected at most as many sampling steps as time steps, found {self.steps} steps "
                f"from {self.start}"
            )


@dataclass(frozen=True)
class AuxiliaryPicturePayload:
    """Payload of an auxiliary picture: how it is restored, and its VVC stream.

    weights_id: 16 bits. percent: of the source's height and width. block_map: None where the
    strength holds everywhere.
    """

    weights_id: int
    percent: int
    qp: int
    strength: int
    block_map: bytes | None
    data: bytes

    def to_bytes(self) -> bytes:
        mapped = self.block_map is not None
        values = {
            "weights_id": self.weights_id,
            "size": _code_of_percent(self.percent),
            "qp": self.qp,
            "strength": self.strength,
            "map_flag": int(mapped),
            "reserved": 0,
            "map_bytes": len(self.block_map) if mapped else None,
            "map": self.block_map,
            "data": self.data,
        }
        return write_elements(AUXILIARY_PICTURE_PAYLOAD, values)

    @classmethod
    def from_bytes(cls, payload: bytes) -> AuxiliaryPicturePayload:
        values, _ = read_elements(
            AUXILIARY_PICTURE_PAYLOAD, payload, 0, "the payload of an auxiliary picture"
        )
        percent = int(PERCENTS[values["size"]].partition(" ")[0])
        return cls(
            values["weights_id"], percent, values["qp"], values["strength"], values.get("map"),
            values["data"],
        )  # fmt: skip


@dataclass(frozen=True)
class LearnedPicturePayload:
    """Payload of a learned picture: how it is restored, and its entropy-coded latents.

    weights_id, picture_id: 16 bits, of the restorer and of the picture codec. block_map: None where
    the strength holds everywhere.
    """

    weights_id: int
    picture_id: int
    qp: int
    strength: int
    block_map: bytes | None
    checksum: int
    data: bytes

    def to_bytes(self) -> bytes:
        mapped = self.block_map is not None
        values = {
            "map_flag": int(mapped),
            "reserved": 0,
            "map_bytes": len(self.block_map) if mapped else None,
            "map": self.block_map,
        }
        return write_elements(LEARNED_PICTURE_PAYLOAD, vars(self) | values)

    @classmethod
    def from_bytes(cls, payload: bytes) -> LearnedPicturePayload:
        what = "the payload of a learned picture"
        values, _ = read_elements(LEARNED_PICTURE_PAYLOAD, payload, 0, what)
        return cls(
            values["weights_id"], values["picture_id"], values["qp"], values["strength"],
            values.get("map"), values["checksum"], values["data"],
        )  # fmt: skip


@dataclass(frozen=True)
class LatentsPayload:
    """Payload of a latents or base unit: the QP whose step its quantiser has, and the data."""

    qp: int
    checksum: int
    data: bytes

    def to_bytes(self) -> bytes:
        return write_elements(LATENTS_PAYLOAD, vars(self))

    @classmethod
    def from_bytes(cls, payload: bytes) -> LatentsPayload:
        return cls(**read_elements(LATENTS_PAYLOAD, payload, 0, "the payload of latents")[0])


@dataclass(frozen=True)
class EnhancementPayload:
    """Payload of an enhancement unit: what the latents of its base lack."""

    checksum: int
    data: bytes

    def to_bytes(self) -> bytes:
        return write_elements(ENHANCEMENT_PAYLOAD, vars(self))

    @classmethod
    def from_bytes(cls, payload: bytes) -> EnhancementPayload:
        what = "the payload of an enhancement unit"
        return cls(**read_elements(ENHANCEMENT_PAYLOAD, payload, 0, what)[0])


@dataclass(frozen=True)
class FctmLikePayload:
    """Payload of a private unit of fctm_like: what its VVC picture holds, and the stream.

    statistics: eight integers of 8 bits, mean and spread of each layer; None where none are sent.
    """

    channels: int
    whole: int
    ordered: bool
    statistics: tuple[int, ...] | None
    data: bytes

    @property
    def packing(self) -> tuple[int, int, bool]:
        """What all frames of a sequence have alike."""
        return self.channels, self.whole, self.ordered

    def to_bytes(self) -> bytes:
        self._check()
        values = {
            "channels": self.channels,
            "whole_channels": self.whole,
            "ordered_flag": int(self.ordered),
            "reserved": 0,
            "statistics": len(self.statistics or ()),
            "statistic": self.statistics or (),
            "data": self.data,
        }
        return write_elements(FCTM_LIKE_PAYLOAD, values)

    @classmethod
    def from_bytes(cls, payload: bytes) -> FctmLikePayload:
        what = "the payload of a private unit of fctm_like"
        values, _ = read_elements(FCTM_LIKE_PAYLOAD, payload, 0, what)
        found = cls(
            values["channels"], values["whole_channels"], bool(values["ordered_flag"]),
            tuple(values["statistic"]) or None, values["data"],
        )  # fmt: skip
        found._check()
        return found

    def _check(self) -> None:
        if self.whole > self.channels:
            raise BitstreamError(
                f"expected at most {self.channels} whole channels, which is how many there are, "
                f"found {self.whole}"
            )
        if self.statistics is not None and len(self.statistics) != 8:
            raise BitstreamError(
                f"expected no statistics, or two for each of four layers, found "
                f"{len(self.statistics)}"
            )


def _code_of_percent(percent: int) -> int:
    for code, name in PERCENTS.items():
        if name == f"{percent} percent":
            return code
    raise BitstreamError(f"expected a size of {', '.join(PERCENTS.values())}; found {percent}")
