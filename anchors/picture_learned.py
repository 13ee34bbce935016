# SPDX-License-Identifier: BSD-3-Clause
"""The learned picture codec: what does a network send in the place of a VVC picture (SBAR)?

    picture -> padded to multiples of 16 -> g_a -> / step -> entropy coding -> latents unit
    latents unit -> latents, checked -> * step -> g_s -> cropped -> picture, then the detector

A rate point is a QP: the step of the quantiser is VVC's at that QP, one model serves all. Class
SBAR (analysis after reconstruction) in remote inference; the picture of others' human side.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from anchors.picture_config import PictureConfig, octaves_of, require_trained_qp, step_of
from vcm_plugin import bitstream
from vcm_plugin.bitstream import NO_SPLIT, Header, LatentsPayload, LearnedPicturePayload, Unit
from vcm_plugin.rate_points import QP, Grammar
from vcm_plugin.vvc.planes import rgb_size

if TYPE_CHECKING:
    import torch

    from vcm_plugin.entropy.latent_coder import Latents

# Bits that a squared error of one step is worth to the encoder. The training's objective says 8.3;
# chosen on 8 pictures of the val split, where 16 takes 16 % fewer bits at equal PSNR than rounding.
ERROR_WEIGHT = 16.0


@dataclass(frozen=True)
class PictureLearnedSettings:
    """What a test condition says of picture_learned."""

    name: ClassVar[str] = "picture_learned"
    kind: ClassVar[str] = "learned_picture"
    grammar: ClassVar[Grammar] = QP
    points_key: ClassVar[str] = "picture_learned_qps"
    weights_keys: ClassVar[dict[str, str]] = {"picture_learned_weights": "codec_sha256"}

    picture_learned_weights: str | None = None
    picture_learned_qps: tuple[int, ...] = ()

    def make(self, context) -> PictureLearnedCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        weights = context.weights("picture_learned_weights", "train_picture")
        codec = PictureLearnedCodec(weights, context.device)
        if codec.detector_sha256 is not None:
            context.require_detector(self.picture_learned_weights, codec.detector_sha256)
        return codec


class PictureLearnedCodec:
    """Picture codec picture_learned with one weights file; a rate point is a QP.

    detector_sha256: of the detector whose features its training looked at, None where it did not.
    """

    name: ClassVar[str] = "picture_learned"
    kind: ClassVar[str] = "learned_picture"

    def __init__(self, weights: Path, device: str = "cpu"):
        import torch  # which settings do without

        from anchors.picture_networks import PictureNetworks
        from vcm_plugin.entropy.latent_coder import load_stored
        from vcm_plugin.weights_file import fitting, read_weights

        data, tensors, metadata = read_weights(weights, "picture")
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.weights_id = int(self.sha256[:8], 16)
        self.parameters = sum(x.numel() for name, x in tensors.items() if name != "tables")
        self.device = torch.device(device)
        with fitting(weights, tensors):
            sizes, self.detector_sha256 = metadata["config"], metadata["detector_sha256"]
            lists = {name: tuple(sizes[name]) for name in ("slices", "qps")}
            self.config = PictureConfig(**sizes | lists)
            model = PictureNetworks(self.config)
            self.coder, _ = load_stored(model, tensors)
        model = model.requires_grad_(False).eval()
        self.model = model.to(memory_format=torch.channels_last)
        self.to(device)

    def to(self, device: str) -> PictureLearnedCodec:
        """Return self with its networks on another device; the latents of a file stay the same."""
        import torch

        self.device = torch.device(device)
        self.model.to(self.device)
        self.coder.to(self.device)
        return self

    def identity(self) -> dict:
        """What affects the result."""
        return {"weights_sha256": self.sha256, "loss_detector_sha256": self.detector_sha256}

    def check_rate_point(self, rate_point: str) -> None:
        """Raise InputError for a QP without training."""
        self.config.parse(rate_point)

    def encode(self, picture: np.ndarray, rate_point: str) -> bytes:
        """The .fcm file of an RGB picture, uint8 (H, W, 3).

        Raises InputError for what is no such picture, and for a QP without training.
        """
        qp = self.config.parse(rate_point)
        header = self._header(picture)
        return bitstream.write(header, [self.coded(picture, qp)])

    def coded(self, picture: np.ndarray, qp: int) -> Unit:
        """The latents unit of a picture."""
        return Unit("latents", 0, self.code(picture, qp)[0].to_bytes())

    def code(self, picture: np.ndarray, qp: int) -> tuple[LatentsPayload, Latents]:
        """The payload of a picture, and the latents that it decodes to."""
        z, y = self.analysis(picture, qp)
        data, latents = self.coder.encode(z, y, octaves_of(qp), ERROR_WEIGHT)
        return LatentsPayload(qp, latents.checksum(), data), latents

    def decode(self, data: bytes) -> np.ndarray:
        """The RGB picture of a file, uint8 (H, W, 3). Raises BitstreamError."""
        header, payload, latents = self.decode_latents(data)
        return self.synthesis(latents, payload.qp, header.source_size)

    def decode_latents(self, data: bytes) -> tuple[Header, LatentsPayload, Latents]:
        """A file -> its latents. Raises BitstreamError unless they match their checksum."""
        stream = bitstream.read(data)
        header = stream.header
        header.require_picture_weights(self.name, self.weights_id, self.stride)
        payload = LatentsPayload.from_bytes(stream.units[0].payload)
        require_trained_qp(payload.qp, self.config.qps)
        return header, payload, self.latents_of(payload, header)

    def latents_of(
        self, payload: LatentsPayload | LearnedPicturePayload, header: Header
    ) -> Latents:
        """The latents of a unit; raises BitstreamError unless they match their checksum."""
        grid = self.grid_of(header.source_size)
        latents = self.coder.decode(payload.data, grid, octaves_of(payload.qp))
        latents.require(payload.checksum, "latents")
        return latents

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of y of a picture of this size."""
        height, width = (-(-n // self.stride) for n in size)
        return height, width

    @property
    def stride(self) -> int:
        """Of the latents, in pixels."""
        from anchors.picture_networks import STRIDE

        return STRIDE

    def _header(self, picture: np.ndarray) -> Header:
        size = rgb_size(picture)
        header = Header(self.name, NO_SPLIT, size, size, weights_id=self.weights_id)
        header.require_picture_weights(self.name, self.weights_id, self.stride)
        return header

    def analysis(self, picture: np.ndarray, qp: int) -> tuple[torch.Tensor, torch.Tensor]:
        """z and y (C, h, w) in steps of the quantiser."""
        import torch

        from anchors.picture_networks import LEVELS

        margins = [(0, -n % self.stride) for n in picture.shape[:2]]
        padded = np.pad(picture, [*margins, (0, 0)], mode="edge").transpose(2, 0, 1)
        x = torch.from_numpy(padded[None].astype(np.float32)).to(self.device)
        x = (x / LEVELS - 1.0).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            y = self.model.g_a(x) / (step_of(qp) / LEVELS)
            return self.model.h_a(y)[0], y[0]

    def decoded_y(self, latents: Latents, qp: int) -> torch.Tensor:
        """y_hat (1, C, h, w), multiplied by its step."""
        import torch

        from anchors.picture_networks import LEVELS
        from vcm_plugin.entropy.latent_coder import LATENT_STEPS

        y_hat = torch.from_numpy(latents.y)[None].to(self.device, torch.float32)
        return y_hat * (step_of(qp) / LEVELS / LATENT_STEPS)

    def synthesis(self, latents: Latents, qp: int, size: tuple[int, int]) -> np.ndarray:
        """The picture of a size, uint8 (H, W, 3), that latents stand for."""
        import torch

        from anchors.picture_networks import LEVELS

        octaves = torch.full((1, 1, 1, 1), octaves_of(qp) / 256, device=self.device)
        with torch.inference_mode():
            x_hat = self.model.g_s(self.decoded_y(latents, qp), octaves)[0]
        levels = ((x_hat + 1.0) * LEVELS).round().clamp(0, 255).to(torch.uint8)
        return levels[:, : size[0], : size[1]].permute(1, 2, 0).contiguous().cpu().numpy()
