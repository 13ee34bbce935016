# SPDX-License-Identifier: BSD-3-Clause
"""Simulcast, the anchor of two independent streams: one for the detector, one for a person (MBID).

    file = the machine bitstream (.fcm, one machine unit), then the VVC stream of the picture

The .fcm file says where it ends and a VVC stream begins with a start code, so nothing is added:
the bits are exactly those of the two streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from anchors.vvc_remote import VvcRemoteCodec
from vcm_plugin import bitstream
from vcm_plugin.errors import BitstreamError
from vcm_plugin.rate_points import PICTURE, SCALE, Grammar, layered

if TYPE_CHECKING:
    from vcm_plugin.features import FeaturePyramid
from vcm_plugin.vvc import stream as vvc_stream


@dataclass(frozen=True)
class SimulcastSettings:
    """What a test condition says of simulcast; its two codecs have their own keys."""

    name: ClassVar[str] = "simulcast"
    kind: ClassVar[str] = "human"
    grammar: ClassVar[Grammar] = layered(SCALE, PICTURE)
    points_key: ClassVar[str] = "simulcast_points"
    weights_keys: ClassVar[dict[str, str]] = {"diff_fchm_weights": "codec_sha256"}
    preset_key: ClassVar[str] = "vvc_remote_preset"

    simulcast_points: tuple[str, ...] = ()  # "S+QP", "S+QP@percent" or "S+auto:Q"

    def make(self, context) -> SimulcastCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        return SimulcastCodec(context.codec("diff_fchm"), context.codec("vvc_remote"))


@dataclass(frozen=True)
class SimulcastCodec:
    """Human codec: features by a feature codec whose files are .fcm with one unit, the picture by
    VVC at "QP", "QP@percent" or "auto:Q"."""

    machine: Any
    picture: VvcRemoteCodec

    name: ClassVar[str] = "simulcast"
    kind: ClassVar[str] = "human"

    def identity(self) -> dict:
        """What affects the result."""
        return {"machine": self.machine.identity(), "picture": self.picture.identity()}

    def encode(
        self, picture: np.ndarray, features: FeaturePyramid, rate_point: str, human_rate_point: str
    ) -> bytes:
        """Both streams, one after the other."""
        machine = self.machine.encode(features, rate_point)
        return machine + self.picture.encode(picture, human_rate_point)

    def decode(self, data: bytes) -> tuple[FeaturePyramid, np.ndarray]:
        """Features, and the picture as uint8 RGB (H, W, 3)."""
        machine, picture = split(data)
        return self.machine.decode(machine), self.picture.decode(picture)

    def machine_bits(self, data: bytes) -> int:
        """Bits of the stream that the detector needs."""
        return 8 * len(split(data)[0])


def split(data: bytes) -> tuple[bytes, bytes]:
    """The two streams of a simulcast file; raises BitstreamError where either is missing."""
    end = machine_end(data)
    if not data.startswith(vvc_stream.START_CODES, end):
        raise BitstreamError(
            f"expected a VVC stream after the machine bitstream, at byte {end}, found "
            f"{data[end : end + 4].hex(' ') or 'the end of the file'}; this is no simulcast file"
        )
    return data[:end], data[end:]


def is_simulcast(data: bytes) -> bool:
    """Whether a VVC stream follows the first unit: no unit begins as a VVC stream does."""
    return data.startswith(vvc_stream.START_CODES, machine_end(data))


def machine_end(data: bytes) -> int:
    """Where the first unit of an .fcm file ends, in bytes."""
    _, start = bitstream.read_header(data)
    return bitstream.read_unit(data, start)[1]
