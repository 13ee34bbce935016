# SPDX-License-Identifier: BSD-3-Clause
"""Learned codecs with one analysis for detector and person: latent_scalable, multi_head.

    latent_scalable (MBHD)   y = base | enhancement, a unit each
        base ---------------> transform --> synthesis of diff_fchm --> p2..p5
        base, enhancement --> g_s of picture_learned --> picture
    multi_head (SBMD)        y in one unit
        y --+--> transform --> synthesis of diff_fchm --> p2..p5
            +--> g_s of picture_learned --> picture

Analysis, entropy coding and picture are those of picture_learned, with the same weights; a rate
point is a QP. The features are those of the picture at its own size: the detector's resize is left
out, so detectors whose network input is of about the picture's size fit. No detector is needed to
encode. After Choi and Bajic, IEEE TIP 2022 (latent_scalable).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from anchors import picture_learned
from anchors.feature_head import FeatureHead
from anchors.picture_config import octaves_of
from vcm_plugin import bitstream
from vcm_plugin.bitstream import EnhancementPayload, Header, LatentsPayload, Unit
from vcm_plugin.errors import InputError
from vcm_plugin.rate_points import QP, Grammar

if TYPE_CHECKING:
    from vcm_plugin.entropy.latent_coder import Latents
    from vcm_plugin.features import FeaturePyramid

LAYERS = ("machine", "both")  # what latent_scalable writes


@dataclass(frozen=True)
class LatentScalableSettings:
    """What a test condition says of latent_scalable; pictures and synthesis have their own keys."""

    name: ClassVar[str] = "latent_scalable"
    kind: ClassVar[str] = "heads"
    grammar: ClassVar[Grammar] = QP
    points_key: ClassVar[str] = "latent_scalable_qps"
    weights_keys: ClassVar[dict[str, str]] = {
        "latent_scalable_weights": "codec_sha256",
        "picture_learned_weights": "picture_sha256",
        "diff_fchm_weights": "synthesis_sha256",
    }

    latent_scalable_weights: str | None = None
    latent_scalable_qps: tuple[int, ...] = ()
    latent_scalable_layers: str = "both"  # "machine": the base alone

    def make(self, context) -> LatentScalableCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        if self.latent_scalable_layers not in LAYERS:
            raise InputError(
                f"test condition {context.name}: latent_scalable_layers: expected machine or both, "
                f"found {self.latent_scalable_layers!r}"
            )
        both = self.latent_scalable_layers == "both"
        if context.condition.human_vision and not both:
            raise InputError(
                f"test condition {context.name}: latent_scalable_layers: expected both where "
                "pictures are measured (human_vision: true), found machine"
            )
        head = _head_of(context, self.latent_scalable_weights, "latent_scalable_weights")
        return LatentScalableCodec(head, both)


@dataclass(frozen=True)
class MultiHeadSettings:
    """What a test condition says of multi_head; pictures and synthesis have their own keys."""

    name: ClassVar[str] = "multi_head"
    kind: ClassVar[str] = "heads"
    grammar: ClassVar[Grammar] = QP
    points_key: ClassVar[str] = "multi_head_qps"
    weights_keys: ClassVar[dict[str, str]] = {
        "multi_head_weights": "codec_sha256",
        "picture_learned_weights": "picture_sha256",
        "diff_fchm_weights": "synthesis_sha256",
    }

    multi_head_weights: str | None = None
    multi_head_qps: tuple[int, ...] = ()

    def make(self, context) -> MultiHeadCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        return MultiHeadCodec(_head_of(context, self.multi_head_weights, "multi_head_weights"))


class LatentScalableCodec:
    """Codec latent_scalable: the picture -> a base unit, which features are made of, and an
    enhancement unit, with which it is decoded. both: whether the second is written."""

    name: ClassVar[str] = "latent_scalable"
    kind: ClassVar[str] = "heads"

    def __init__(self, head: FeatureHead, both: bool = True):
        self.head, self.picture, self.both = head, head.picture, both
        self.ends = (head.config.latents, head.picture.config.latents)
        self.parameters = head.parameters
        if len(set(self.ends)) == 1:
            raise InputError(
                f"{head.path}: this transform reads all of the latents, so nothing is left for an "
                "enhancement: use it with multi_head"
            )

    def to(self, device: str) -> LatentScalableCodec:
        """Return self with its networks on another device; the latents of a file stay the same."""
        self.head.to(device)
        return self

    def identity(self) -> dict:
        """What affects the result."""
        return self.head.identity() | {"layers": LAYERS[self.both]}

    def check_rate_point(self, rate_point: str) -> None:
        """Raise InputError for a QP without training."""
        self.head.parse(rate_point)

    def encode(self, picture: np.ndarray, rate_point: str) -> bytes:
        """The .fcm file of an RGB picture, uint8 (H, W, 3).

        Raises InputError for what is no such picture, and for a QP without training.
        """
        qp = self.head.parse(rate_point)
        header = self.head.header(self.name, picture)
        layers, latents = self.picture.coder.encode_layers(
            *self.picture.analysis(picture, qp), octaves_of(qp), self.ends,
            picture_learned.ERROR_WEIGHT,
        )  # fmt: skip
        base = LatentsPayload(qp, latents.first(self.ends[0]).checksum(), layers[0])
        units = [Unit("base", 0, base.to_bytes())]
        if self.both:
            payload = EnhancementPayload(latents.checksum(), layers[1])
            units.append(Unit("enhancement", 0, payload.to_bytes()))
        return bitstream.write(header, units)

    def decode(self, data: bytes) -> tuple[FeaturePyramid, np.ndarray | None]:
        """Features, and the picture, uint8 (H, W, 3); None where a file ends after its base unit.
        Raises BitstreamError."""
        header, qp, latents = self.decode_latents(data)
        base = latents.first(self.ends[0])
        features = self.head.features(base, qp, header)
        if len(latents.y) == self.ends[0]:
            return features, None
        return features, self.picture.synthesis(latents, qp, header.source_size)

    def decode_latents(self, data: bytes) -> tuple[Header, int, Latents]:
        """A file -> its header, QP and latents, of the base alone where it has no more.

        Raises BitstreamError unless they match their checksums.
        """
        stream = bitstream.read(data)
        header, (first, *others) = stream.header, stream.units
        self.head.require_header(header, self.name)
        base = LatentsPayload.from_bytes(first.payload)
        self.head.require_qp(base.qp)
        enhancement = [EnhancementPayload.from_bytes(unit.payload) for unit in others]
        layers = [base.data, *(payload.data for payload in enhancement)]
        grid = self.picture.grid_of(header.source_size)
        octaves = octaves_of(base.qp)
        latents = self.picture.coder.decode_layers(layers, grid, octaves, self.ends)
        latents.first(self.ends[0]).require(base.checksum, "latents of the base unit")
        for payload in enhancement:
            latents.require(payload.checksum, "latents of both units")
        return header, base.qp, latents

    def machine_bits(self, data: bytes) -> int:
        """Bits of the file up to the end of its base unit."""
        return bitstream.machine_bits(data)


class MultiHeadCodec:
    """Codec multi_head: the picture -> one latents unit, of which features and picture are made."""

    name: ClassVar[str] = "multi_head"
    kind: ClassVar[str] = "heads"

    def __init__(self, head: FeatureHead):
        self.head, self.picture = head, head.picture
        self.parameters = head.parameters
        if head.config.latents != head.picture.config.latents:
            raise InputError(
                f"{head.path}: this transform reads {head.config.latents} of "
                f"{head.picture.config.latents} channels: use it with latent_scalable"
            )

    def to(self, device: str) -> MultiHeadCodec:
        """Return self with its networks on another device; the latents of a file stay the same."""
        self.head.to(device)
        return self

    def identity(self) -> dict:
        """What affects the result."""
        return self.head.identity()

    def check_rate_point(self, rate_point: str) -> None:
        """Raise InputError for a QP without training."""
        self.head.parse(rate_point)

    def encode(self, picture: np.ndarray, rate_point: str) -> bytes:
        """The .fcm file of an RGB picture, uint8 (H, W, 3).

        Raises InputError for what is no such picture, and for a QP without training.
        """
        qp = self.head.parse(rate_point)
        header = self.head.header(self.name, picture)
        return bitstream.write(header, [self.picture.coded(picture, qp)])

    def decode(self, data: bytes) -> tuple[FeaturePyramid, np.ndarray]:
        """Features, and the picture, uint8 (H, W, 3). Raises BitstreamError."""
        header, qp, latents = self.decode_latents(data)
        picture = self.picture.synthesis(latents, qp, header.source_size)
        return self.head.features(latents, qp, header), picture

    def decode_latents(self, data: bytes) -> tuple[Header, int, Latents]:
        """A file -> its header, QP and latents. Raises BitstreamError unless they match their
        checksum."""
        stream = bitstream.read(data)
        self.head.require_header(stream.header, self.name)
        payload = LatentsPayload.from_bytes(stream.units[0].payload)
        self.head.require_qp(payload.qp)
        return stream.header, payload.qp, self.picture.latents_of(payload, stream.header)

    def machine_bits(self, data: bytes) -> int:
        """All bits of the file: features need them all."""
        return 8 * len(data)


def _head_of(context, weights: str | None, key: str) -> FeatureHead:
    """The head of a condition, trained for its detector."""
    path = context.weights(key, "train_transform")
    codecs = context.codec("picture_learned"), context.codec("diff_fchm")
    head = FeatureHead(path, *codecs)
    context.require_detector(weights, head.detector_sha256)
    return head
