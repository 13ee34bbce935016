# SPDX-License-Identifier: BSD-3-Clause
"""The learned auxiliary picture: what if a network, not VVC, codes the picture of Diff-FCHM (MBHD)?

    picture --> picture_learned --> latents in the file --> decoded --+--> + --> picture
                                                               |           ^
    machine latents --> p2, p3 -----------------------------> restorer --> x strength

The machine unit is that of diff_fchm, byte for byte, and the file may be cut behind it. Restorer
and strength are those of diff_fchm_picture, whose pictures VVC codes; strength 0 is the picture of
picture_learned, sample for sample. Rate points are "S+QP".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from anchors.picture_config import require_trained_qp, step_of
from anchors.picture_learned import ERROR_WEIGHT, PictureLearnedCodec
from vcm_plugin import bitstream
from vcm_plugin.bitstream import LearnedPicturePayload, Unit
from vcm_plugin.errors import BitstreamError
from vcm_plugin.rate_points import QP, SCALE, Grammar, layered, split_layers

if TYPE_CHECKING:
    from vcm_plugin.entropy.latent_coder import Latents
    from vcm_plugin.features import FeaturePyramid

# The restorer is told so much less than the QP, also in its training: at QP Q picture_learned is
# about as close to the source as VVC at Q - 5, and a restorer begins as one of VVC's pictures, to
# which that is worth 1.3 (s = 1.4) and 1.7 points (s = 4) of the total bits at equal PSNR on eight
# pictures of val; 8 does as well as 5.
TOLD_LESS = 5


@dataclass(frozen=True)
class LearnedAuxiliarySettings:
    """What a test condition says of diff_fchm_learned; the machine layer has its own keys."""

    name: ClassVar[str] = "diff_fchm_learned"
    kind: ClassVar[str] = "human"
    grammar: ClassVar[Grammar] = layered(SCALE, QP)
    points_key: ClassVar[str] = "diff_fchm_learned_points"
    weights_keys: ClassVar[dict[str, str]] = {
        "diff_fchm_weights": "codec_sha256",
        "diff_fchm_learned_restorer": "restorer_sha256",
        "diff_fchm_learned_weights": "picture_sha256",
    }

    diff_fchm_learned_weights: str | None = None  # of picture_learned, trained for people alone
    diff_fchm_learned_restorer: str | None = None  # a file that scripts/train_restorer.py wrote
    diff_fchm_learned_points: tuple[str, ...] = ()  # "S+QP"

    def make(self, context) -> LearnedAuxiliaryCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        weights = context.weights("diff_fchm_learned_weights", "train_picture")
        restorer = context.weights("diff_fchm_learned_restorer", "train_restorer", "--restorer")
        picture = PictureLearnedCodec(weights, context.device)
        return LearnedAuxiliaryCodec(context.restoration(restorer), picture)


class LearnedAuxiliaryCodec:
    """Human codec diff_fchm_learned: a machine codec, a learned picture codec, a restorer on both.

    restoration: machine codec and restorer (diff_fchm.human.restoration.Restoration).
    """

    name: ClassVar[str] = "diff_fchm_learned"
    kind: ClassVar[str] = "human"

    def __init__(self, restoration, picture: PictureLearnedCodec):
        self.restoration, self.picture = restoration, picture
        self.machine, self.restorer = restoration.machine, restoration.restorer
        self.picture_id = picture.weights_id >> 16
        self.parameters = restoration.parameters + picture.parameters

    def identity(self) -> dict:
        """What affects the result."""
        return self.restoration.identity() | {"picture": self.picture.identity()}

    def check_rate_point(self, rate_point: str) -> None:
        """Raise InputError for a QP without training."""
        self.picture.check_rate_point(split_layers(rate_point)[1])

    def encode(
        self,
        picture: np.ndarray,
        features: FeaturePyramid,
        rate_point: str,
        human_rate_point: str,
    ) -> bytes:
        """A picture and its features -> an .fcm file with a machine and a learned_picture unit.

        The bytes up to the end of the machine unit are those that the machine codec writes alone.
        Raises InputError for a QP without training, and for a picture that is not that of the
        features.
        """
        qp = self.picture.config.parse(human_rate_point)
        data, guide = self.restoration.code(picture, features, rate_point)
        coded, latents = self.picture.code(picture, qp)
        shown = self._shown(latents, qp, picture.shape[:2])
        price = step_of(qp) ** 2 / ERROR_WEIGHT  # what a bit is worth to the picture's encoder
        strength = self.restoration.choose(picture, shown, guide, price).strength
        payload = LearnedPicturePayload(
            self.restorer.weights_id, self.picture_id, qp, strength.value, strength.map_bytes(),
            coded.checksum, coded.data,
        )  # fmt: skip
        return data + bitstream.write_unit(Unit("learned_picture", 0, payload.to_bytes()))

    def decode(self, data: bytes) -> tuple[FeaturePyramid, np.ndarray]:
        """An .fcm file -> features, and the picture as uint8 RGB (H, W, 3)."""
        machine, payload, strength, latents = self.decode_latents(data)
        guide = self.restoration.guide(machine)
        shown = self._shown(latents, payload.qp, guide.features.source_size)
        return guide.features, self.restoration.restored(shown, guide, strength)

    def machine_bits(self, data: bytes) -> int:
        """Bits of the file up to the end of its machine layer."""
        return bitstream.machine_bits(data)

    def decode_latents(self, data: bytes):
        """A file -> its machine layer, the payload of its picture, the strength, and the latents
        of the picture.

        Raises BitstreamError unless both match their checksums and the weights are these; with
        strength 0 those of the restorer may be any.
        """
        stream = bitstream.read(data)
        payload = LearnedPicturePayload.from_bytes(stream.payload_of("learned_picture"))
        if payload.picture_id != self.picture_id:
            raise BitstreamError(
                f"the picture was made with the weights {payload.picture_id:04x}, these are "
                f"{self.picture_id:04x}; decode it with the weights that it names"
            )
        require_trained_qp(payload.qp, self.picture.config.qps)
        machine, strength = self.restoration.read(data, payload)
        return machine, payload, strength, self.picture.latents_of(payload, machine.header)

    def _shown(self, latents: Latents, qp: int, size: tuple[int, int]):
        """The decoded picture, as the restorer takes it."""
        return self.restoration.shown(self.picture.synthesis(latents, qp, size), qp - TOLD_LESS)
