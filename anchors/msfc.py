# SPDX-License-Identifier: BSD-3-Clause
"""The reduction anchor: what does it cost to send one small fused layer through a VVC encoder?

    p2..p5 --> pooled to the grid of p5 --> squeeze-excite --> 3x3 --> 1x1 --> b: 64 channels
    b --> min-max, 10 bits, 8 x 8 tiles --> VVC intra --> b_hat
    b_hat --> 1x1, 3x3 --> p5 | x2 --> p4 | x2 --> p3 | x2 --> p2, a residual block at every grid

After MSFC (Zhang et al., "MSFC: deep feature compression in multi-task network", ICME 2021), which
the first test models of MPEG FCM followed; its pooling is trained here, since means over the cells
of p5 lose what a detector finds in p2 and p3. Packing and encoder are those of vvc_feature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from anchors.reduction import LAYERS, fpn_grid
from anchors.vvc_feature import CodedLayers, VvcFeatureCodec, packed_picture, picture_range
from vcm_plugin import bitstream
from vcm_plugin.bitstream import Header
from vcm_plugin.rate_points import QP, Grammar, parse_qp
from vcm_plugin.vvc import Planes

if TYPE_CHECKING:
    import numpy as np

    from vcm_plugin.features import FeaturePyramid


@dataclass(frozen=True)
class MsfcSettings:
    """What a test condition says of msfc."""

    name: ClassVar[str] = "msfc"
    kind: ClassVar[str] = "feature"
    grammar: ClassVar[Grammar] = QP
    points_key: ClassVar[str] = "msfc_qps"
    weights_keys: ClassVar[dict[str, str]] = {"msfc_weights": "codec_sha256"}
    preset_key: ClassVar[str] = "msfc_preset"
    batches: ClassVar[bool] = True

    msfc_weights: str | None = None
    msfc_qps: tuple[int, ...] = ()
    msfc_preset: str | None = None

    def make(self, context) -> MsfcCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        weights = context.weights("msfc_weights", "train_msfc")
        context.require_fpn(self.name)
        context.require("msfc_preset")
        codec = MsfcCodec(weights, preset=self.msfc_preset, threads=context.threads)
        context.require_detector(self.msfc_weights, codec.metadata["detector_sha256"])
        return codec


class MsfcCodec:
    """Feature codec msfc with one weights file; the rate point is a QP of VVenC."""

    name: ClassVar[str] = "msfc"
    kind: ClassVar[str] = "feature"

    def __init__(self, weights: Path, preset: str = "faster", threads: int = 1):
        from anchors.msfc_networks import Msfc, MsfcConfig  # torch, which settings do without
        from vcm_plugin.weights_file import fitting, read_weights

        data, tensors, self.metadata = read_weights(weights, "msfc")
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.weights_id = int(self.sha256[:8], 16)
        self.parameters = sum(x.numel() for x in tensors.values())
        self.inner = VvcFeatureCodec(preset, threads=threads)
        with fitting(weights, tensors):
            self.config = MsfcConfig(**self.metadata["config"])
            model = Msfc(self.config)
            model.load_state_dict({name: x.float() for name, x in tensors.items()})
        self.model = model.requires_grad_(False).eval()

    def identity(self) -> dict:
        """What affects the result."""
        return {
            "weights_sha256": self.sha256,
            "detector_sha256": self.metadata["detector_sha256"],
            "inner": self.inner.identity(),
        }

    def encode(self, features: FeaturePyramid, rate_point: str) -> bytes:
        """The .fcm file of one picture's features at split point fpn."""
        return self.encode_batch([features], rate_point)[0]

    def encode_batch(self, features: Sequence[FeaturePyramid], rate_point: str) -> list[bytes]:
        """The .fcm file of each of some pictures of one size, the same bytes as by `encode`."""
        return self.inner.encode_packed(map(self._reduced, features), parse_qp(rate_point))

    def _reduced(self, features: FeaturePyramid) -> tuple[Header, Planes]:
        """The header of a file, and the picture that the small fused layer is packed into."""
        import torch

        grid = fpn_grid(features, self.name, "MSFC", self.config.channels)
        layers = {name: x[None].cpu() for name, x in features.layers.items()}
        with torch.inference_mode():
            reduced = {"b": self.model.reduction(layers)[0].numpy()}
        value_range = picture_range(reduced)
        sizes = (features.source_size, features.input_size)
        header = Header(
            self.name, "fpn", *sizes, grid, weights_id=self.weights_id, value_range=value_range
        )
        header.require_weights(self.name, self.weights_id, self.config.channels)
        return header, packed_picture(reduced, value_range)

    def decode(self, data: bytes) -> FeaturePyramid:
        """The features that an .fcm file holds; raises BitstreamError where they are others'."""
        return self.decode_batch([data])[0]

    def decode_batch(self, files: Sequence[bytes]) -> list[FeaturePyramid]:
        """The features that each of some .fcm files of pictures of one size holds."""
        headers, coded = [], []
        for data in files:
            stream = bitstream.read(data)
            header = stream.header
            header.require_picture()
            header.require_weights(self.name, self.weights_id, self.config.channels)
            reduced = {"b": (self.config.reduced, *self._grids(header)[LAYERS[-1]])}
            headers.append(header)
            coded.append(CodedLayers(stream.units[0].payload, reduced, header.value_range))
        decoded = self.inner.decode_layers(coded)
        return list(map(self._restored, decoded, headers))

    def _grids(self, header: Header) -> dict[str, tuple[int, int]]:
        shapes = header.shapes(self.config.channels)
        return {name: shape[1:] for name, shape in shapes.items()}

    def _restored(self, found: dict[str, np.ndarray], header: Header) -> FeaturePyramid:
        import torch

        from vcm_plugin.features import FeaturePyramid

        grids = self._grids(header)
        with torch.inference_mode():
            layers = self.model.restoration(torch.from_numpy(found["b"])[None], grids)
        layers = {name: layers[name][0].contiguous() for name in LAYERS}
        return FeaturePyramid(layers, header.source_size, header.input_size)
