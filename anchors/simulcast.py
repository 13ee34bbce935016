# SPDX-License-Identifier: BSD-3-Clause
"""Simulcast, the anchors of two independent streams: one for the detector, one for a person (MBID).

    simulcast          file = the machine bitstream (.fcm, one machine unit), then a VVC stream
    simulcast_learned  file = the machine bitstream, then the .fcm file of picture_learned

The machine bitstream says where it ends, a VVC stream begins with a start code and an .fcm file
with its magic, so nothing is added: the bits are exactly those of the two streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from anchors.vvc_remote import VvcRemoteCodec
from vcm_plugin import bitstream
from vcm_plugin.errors import BitstreamError
from vcm_plugin.rate_points import PICTURE, QP, SCALE, Grammar, layered, split_layers
from vcm_plugin.vvc import stream as vvc_stream

if TYPE_CHECKING:
    from anchors.picture_learned import PictureLearnedCodec
    from vcm_plugin.features import FeaturePyramid

FCM = b"FCM"
PICTURES = (*vvc_stream.START_CODES, FCM)  # how the picture of a file begins


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
class SimulcastLearnedSettings:
    """What a test condition says of simulcast_learned; its two codecs have their own keys."""

    name: ClassVar[str] = "simulcast_learned"
    kind: ClassVar[str] = "human"
    grammar: ClassVar[Grammar] = layered(SCALE, QP)
    points_key: ClassVar[str] = "simulcast_learned_points"
    weights_keys: ClassVar[dict[str, str]] = {
        "diff_fchm_weights": "codec_sha256",
        "simulcast_learned_weights": "picture_sha256",
    }

    simulcast_learned_weights: str | None = None  # of picture_learned, trained for people alone
    simulcast_learned_points: tuple[str, ...] = ()  # "S+QP"

    def make(self, context) -> SimulcastCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        from anchors.picture_learned import PictureLearnedCodec

        weights = context.weights("simulcast_learned_weights", "train_picture")
        picture = PictureLearnedCodec(weights, context.device)
        return SimulcastCodec(context.codec("diff_fchm"), picture, self.name)


@dataclass(frozen=True)
class SimulcastCodec:
    """Human codec: features by a feature codec whose files are .fcm with one unit, the picture by
    VVC at "QP", "QP@percent" or "auto:Q", or by picture_learned at "QP"."""

    machine: Any
    picture: VvcRemoteCodec | PictureLearnedCodec
    name: str = "simulcast"

    kind: ClassVar[str] = "human"

    @property
    def parameters(self) -> int | None:
        """Of the picture's networks, where it has any, and of the machine's."""
        own = getattr(self.picture, "parameters", None)
        return own and own + self.machine.parameters

    def identity(self) -> dict:
        """What affects the result."""
        return {"machine": self.machine.identity(), "picture": self.picture.identity()}

    def check_rate_point(self, rate_point: str) -> None:
        """Raise InputError for a QP that a learned picture codec was not trained for."""
        if hasattr(self.picture, "check_rate_point"):
            self.picture.check_rate_point(split_layers(rate_point)[1])

    def encode(
        self, picture: np.ndarray, features: FeaturePyramid, rate_point: str, human_rate_point: str
    ) -> bytes:
        """Both streams, one after the other."""
        machine = self.machine.encode(features, rate_point)
        return machine + self.picture.encode(picture, human_rate_point)

    def decode(self, data: bytes) -> tuple[FeaturePyramid, np.ndarray]:
        """Features, and the picture as uint8 RGB (H, W, 3)."""
        machine, picture = split(data)
        if is_fcm(picture) != (self.name == "simulcast_learned"):
            raise BitstreamError(
                f"expected a file of {self.name}, found one of simulcast"
                f"{'_learned' if is_fcm(picture) else ''}: decode it with the codec that wrote it"
            )
        return self.machine.decode(machine), self.picture.decode(picture)

    def machine_bits(self, data: bytes) -> int:
        """Bits of the stream that the detector needs."""
        return 8 * len(split(data)[0])


def split(data: bytes) -> tuple[bytes, bytes]:
    """The two streams of a simulcast file; raises BitstreamError where either is missing."""
    end = machine_end(data)
    if not data.startswith(PICTURES, end):
        raise BitstreamError(
            f"expected a VVC stream or an .fcm file of a picture after the machine bitstream, at "
            f"byte {end}, found {data[end : end + 4].hex(' ') or 'the end of the file'}; this is "
            "no simulcast file"
        )
    return data[:end], data[end:]


def is_simulcast(data: bytes) -> bool:
    """Whether a picture follows the first unit: no unit begins as a VVC stream or a file does."""
    return data.startswith(PICTURES, machine_end(data))


def is_fcm(data: bytes) -> bool:
    """Whether the picture of a simulcast file is that of a learned codec."""
    return data.startswith(FCM)


def machine_end(data: bytes) -> int:
    """Where the first unit of an .fcm file ends, in bytes."""
    _, start = bitstream.read_header(data)
    return bitstream.read_unit(data, start)[1]
