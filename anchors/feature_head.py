# SPDX-License-Identifier: BSD-3-Clause
"""How do decoded latents of a picture become p2..p5? By a transform, and diff_fchm's synthesis."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anchors.picture_config import TransformConfig, octaves_of, require_trained_qp, trained_qp
from vcm_plugin.bitstream import Header
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.vvc.planes import rgb_size

if TYPE_CHECKING:
    from anchors.picture_learned import PictureLearnedCodec
    from vcm_plugin.entropy.latent_coder import Latents
    from vcm_plugin.features import FeaturePyramid


class FeatureHead:
    """A trained transform between a picture codec and the synthesis of a machine layer.

    picture: PictureLearnedCodec. machine: codec diff_fchm. Raises InputError unless the transform
    was trained between these two, for this codec's part of the latents.
    """

    def __init__(self, weights: Path, picture: PictureLearnedCodec, machine: Any):
        from anchors.latent_transform import LatentTransform  # torch, which settings do without
        from vcm_plugin.weights_file import fitting, read_weights

        data, tensors, metadata = read_weights(weights, "transform")
        self.path, self.picture, self.machine = weights, picture, machine
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.weights_id = int(self.sha256[:8], 16)
        with fitting(weights, tensors):
            sizes, self.detector_sha256 = metadata["config"], metadata["detector_sha256"]
            bound = metadata["picture_sha256"], metadata["machine_sha256"]
            self.config = TransformConfig(**sizes | {"qps": tuple(sizes["qps"])})
            model = LatentTransform(self.config)
            model.load_state_dict({name: x.float() for name, x in tensors.items()})
        self._require_bound(*bound)
        self.model = model.requires_grad_(False).eval().to(picture.device)

    @property
    def parameters(self) -> int:
        """Of the picture codec, the transform and the synthesis."""
        synthesis = self.machine.networks.g_s.parameters()
        own = (*self.model.parameters(), *self.model.buffers(), *synthesis)
        return self.picture.parameters + sum(x.numel() for x in own)

    def to(self, device: str) -> None:
        """Move all networks to another device."""
        self.picture.to(device)
        self.machine.to(device)
        self.model.to(device)

    def identity(self) -> dict:
        """What affects the result."""
        return {
            "weights_sha256": self.sha256,
            "detector_sha256": self.detector_sha256,
            "picture": self.picture.identity(),
            "synthesis": {"weights_sha256": self.machine.sha256},
        }

    def header(self, profile: str, picture: np.ndarray) -> Header:
        """Of the file of a picture; raises InputError for what is none."""
        size = rgb_size(picture)
        header = Header(profile, "fpn", size, size, weights_id=self.weights_id)
        self.require_header(header, profile)
        return header

    def require_header(self, header: Header, profile: str) -> None:
        """Raise BitstreamError unless this head can decode the file."""
        header.require_weights(profile, self.weights_id, self.machine.config.each_channels)
        header.require_picture()
        if header.grid is not None or header.input_size != header.source_size:
            raise BitstreamError(
                f"profile {profile}: expected a network input of the source's size "
                f"{header.source_size}, found {header.input_size}; the file is damaged"
            )

    def parse(self, rate_point: str) -> int:
        """The QP of a rate point; raises InputError where transform or picture networks do not
        know it."""
        trained_qp(rate_point, self.config.qps)
        return self.picture.config.parse(rate_point)

    def require_qp(self, qp: int) -> None:
        """Raise BitstreamError for a QP that no encoder with these weights writes."""
        require_trained_qp(qp, self.config.qps)

    def features(self, latents: Latents, qp: int, header: Header) -> FeaturePyramid:
        """p2..p5 of decoded latents."""
        import torch
        from torch.nn import functional as F

        stride = self.picture.stride
        y_hat = self.picture.decoded_y(latents, qp)
        octaves = torch.full((1, 1, 1, 1), octaves_of(qp) / 256, device=self.picture.device)
        with torch.inference_mode():
            y = self.model(y_hat, octaves)
            name, (_, height, width) = next(iter(header.shapes(1).items()))
            cells = stride // header.strides[name]
            missing = [-(-n // cells) - m for n, m in zip((width, height), y.shape[:1:-1])]
            y = F.pad(y, (0, missing[0], 0, missing[1]), mode="replicate")
        return self.machine.restore(y, header)

    def _require_bound(self, picture_sha256: str, machine_sha256: str) -> None:
        if picture_sha256 != self.picture.sha256:
            raise InputError(
                f"{self.path}: this transform reads the latents of the picture weights "
                f"{picture_sha256[:12]}, found {self.picture.sha256[:12]}; name those in the key "
                "picture_learned_weights"
            )
        if not self.machine.carries(machine_sha256):
            raise InputError(
                f"{self.path}: this transform was trained on the machine layer "
                f"{machine_sha256[:12]}, found {self.machine.latents_sha256[:12]}; name those VFCN "
                "weights in the key diff_fchm_weights"
            )
        ends = np.cumsum(self.picture.config.slices).tolist()
        if self.config.latents not in ends:
            raise InputError(
                f"{self.path}: expected a transform of {' or '.join(map(str, ends))} channels, "
                f"which end a slice of these latents, found {self.config.latents}"
            )
