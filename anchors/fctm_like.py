# SPDX-License-Identifier: BSD-3-Clause
"""An anchor like the feature test model of MPEG (FCTM), which itself is not public.

    p2..p5 --> Z-scores --> reduction --> b, on the grid of p4
    b --> by importance, the least removed, smooth ones halved --> 10 bits --> VVC, 4:0:0
    VVC --> b_hat --> restoration --> p2..p5, with the mean and spread of each layer as they were

The steps are those that public descriptions of FCTM name (configuration history of its versions;
arXiv 2512.10209): Z-score normalisation, learned reduction and restoration, ordering and removal
of channels, resized packing, an inner codec of VVC. Networks, syntax and every decision are ours,
VVenC stands for VTM, and nothing here was compared with FCTM. Each step can be switched off.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from anchors.reduction import LAYERS, fpn_grid, relative_step
from anchors.vvc_feature import FEATURE_PARAMETERS
from vcm_plugin import bitstream, vvc
from vcm_plugin.bitstream import FctmLikePayload, FrameReader, Header, Timing, Unit
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.rate_points import QP, Grammar, parse_qp
from vcm_plugin.vvc import stream as vvc_stream

if TYPE_CHECKING:
    import torch

    from vcm_plugin.features import FeaturePyramid

GRID = "p4"  # of the channels that are sent
STATISTIC_STEPS = 16  # of a mean or of the logarithm of a spread, in one unit


@dataclass(frozen=True)
class Tools:
    """Which steps of the codec are on; zscore: mean and spread of each layer are sent and restored.

    most: channels that are sent at most, None: as many as there are.
    """

    zscore: bool = False
    removal: bool = True
    ordering: bool = True
    resampling: bool = True
    most: int | None = None


@dataclass(frozen=True)
class FctmLikeSettings:
    """What a test condition says of fctm_like."""

    name: ClassVar[str] = "fctm_like"
    kind: ClassVar[str] = "feature"
    grammar: ClassVar[Grammar] = QP
    points_key: ClassVar[str] = "fctm_like_qps"
    weights_keys: ClassVar[dict[str, str]] = {"fctm_like_weights": "codec_sha256"}
    preset_key: ClassVar[str] = "fctm_like_preset"

    fctm_like_weights: str | None = None
    fctm_like_qps: tuple[int, ...] = ()
    fctm_like_preset: str | None = None
    fctm_like_zscore: bool = False  # mean and spread of each layer are sent and restored
    fctm_like_removal: bool = True  # channels of which nothing would be left are not sent
    fctm_like_ordering: bool = True  # channels by importance; as the network has them otherwise
    fctm_like_resampling: bool = True  # smooth channels are packed at half size
    fctm_like_channels: int | None = None  # sent at most; all where it is left out
    vvc_random_access: bool = False
    vvc_low_delay: bool = False  # of sequences; all-intra otherwise

    def make(self, context) -> FctmLikeCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        weights = context.weights("fctm_like_weights", "train_fctm_like")
        if self.vvc_random_access:
            raise InputError(
                "fctm_like codes sequences all-intra or with low delay, as FCTM does; set "
                "vvc_low_delay (--low-delay) in place of vvc_random_access"
            )
        context.require_fpn(self.name)
        context.require("fctm_like_preset")
        tools = Tools(
            self.fctm_like_zscore, self.fctm_like_removal, self.fctm_like_ordering,
            self.fctm_like_resampling, self.fctm_like_channels,
        )  # fmt: skip
        codec = FctmLikeCodec(
            weights, self.fctm_like_preset, tools, context.threads, self.vvc_low_delay
        )
        context.require_detector(self.fctm_like_weights, codec.metadata["detector_sha256"])
        return codec


class FctmLikeCodec:
    """Feature codec fctm_like with one weights file; the rate point is a QP of VVenC.

    low_delay: of sequences, a picture may be predicted from earlier ones; all-intra otherwise. How
    many channels a sequence has is decided on its first frame.
    """

    name: ClassVar[str] = "fctm_like"
    kind: ClassVar[str] = "feature"

    def __init__(
        self,
        weights: Path,
        preset: str = "faster",
        tools: Tools = Tools(),
        threads: int = 1,
        low_delay: bool = False,
    ):
        from anchors.fctm_networks import Fctm, FctmConfig  # torch, which settings do without
        from vcm_plugin.weights_file import fitting, read_weights

        data, tensors, self.metadata = read_weights(weights, "fctm_like")
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.weights_id = int(self.sha256[:8], 16)
        self.parameters = sum(x.numel() for x in tensors.values())
        self.encoder = vvc.VVenC(preset, threads, FEATURE_PARAMETERS, low_delay=low_delay)
        self.tools, self.low_delay = tools, low_delay
        with fitting(weights, tensors):
            self.config = FctmConfig(**self.metadata["config"])
            model = Fctm(self.config)
            tensors = {n: x if n == "order" else x.float() for n, x in tensors.items()}
            model.load_state_dict(tensors)
            self.value_range = _range_of(model)
        if tools.most is not None and not 1 <= tools.most <= self.config.reduced:
            raise InputError(
                f"fctm_like_channels: expected 1 to {self.config.reduced}, which these weights "
                f"have, found {tools.most}"
            )
        self.model = model.requires_grad_(False).eval()

    def identity(self) -> dict:
        """What affects the result."""
        return {
            "weights_sha256": self.sha256,
            "detector_sha256": self.metadata["detector_sha256"],
            "tools": vars(self.tools),
            "inner_codec": self.encoder.identity(True, self.low_delay),
        }

    def encode(self, features: FeaturePyramid, rate_point: str) -> bytes:
        """The .fcm file of one picture's features at split point fpn."""
        qp = parse_qp(rate_point)
        header, b, statistics = self._reduced(features)
        about = self._about(b, qp)
        stream = self.encoder.encode(self._planes(b, about), qp)
        payload = replace(about, statistics=statistics, data=stream)
        return bitstream.write(header, [Unit("private", 0, payload.to_bytes())])

    def encode_frames(
        self, frames: Iterable[FeaturePyramid], rate_point: str, timing: Timing, file: BinaryIO
    ) -> list[int]:
        """Write the .fcm file of a sequence; the bytes of each frame.

        The header counts with the first frame. Frames are coded in the order of display.
        """
        qp = parse_qp(rate_point)
        waiting: list[tuple[Header, FctmLikePayload]] = []

        def packed() -> Iterator[vvc.Planes]:
            about = None
            for features in frames:
                header, b, statistics = self._reduced(features)
                about = about or self._about(b, qp)
                waiting.append(
                    (replace(header, **vars(timing)), replace(about, statistics=statistics))
                )
                yield self._planes(b, about)

        period = vvc.intra_period(timing.frame_rate, self.low_delay)
        units = self.encoder.encode_frames(packed(), qp, period, timing.frame_rate)

        def written():
            for unit in units:
                header, about = waiting.pop(0)
                yield header, replace(about, data=unit).to_bytes()

        return bitstream.write_frames(file, written())

    def decode(self, data: bytes) -> FeaturePyramid:
        """The features that an .fcm file holds; raises BitstreamError where they are others'."""
        stream = bitstream.read(data)
        stream.header.require_picture()
        self._require_ours(stream.header)
        payload = FctmLikePayload.from_bytes(stream.units[0].payload)
        self._require_format(payload, stream.header)
        (picture,) = self.encoder.decode(payload.data)
        return self._restored(picture, payload, stream.header)

    def decode_frames(self, path: Path) -> Iterator[FeaturePyramid]:
        """The features of each frame of a file, decoded as they are asked for."""
        reader = FrameReader.open(path)
        self._require_ours(reader.header)
        first = FctmLikePayload.from_bytes(reader[0])
        self._require_format(first, reader.header)
        streams = (FctmLikePayload.from_bytes(reader[n]).data for n in range(len(reader)))
        pictures = vvc.counted(self.encoder.decode_frames(streams), len(reader))
        for number, (picture,) in enumerate(pictures):
            payload = FctmLikePayload.from_bytes(reader[min(number, len(reader) - 1)])
            if payload.packing != first.packing:
                raise BitstreamError(
                    f"frame {number}: expected the channels of frame 0, {first.packing}, found "
                    f"{payload.packing}"
                )
            yield self._restored(picture, payload, reader.header)

    def decode_frame(self, path: Path, frame: int) -> FeaturePyramid:
        """The features of one frame; in an all-intra file, no frame but it and the first is read.

        In a file with inter prediction, all frames up to it are decoded.
        """
        reader = FrameReader.open(path)
        self._require_ours(reader.header)
        stream = vvc_stream.picture_of(
            lambda n: FctmLikePayload.from_bytes(reader[n]).data, len(reader), frame
        )
        if stream is None:
            return next(itertools.islice(self.decode_frames(path), frame, None))
        payload = replace(FctmLikePayload.from_bytes(reader[frame]), data=stream)
        self._require_format(payload, reader.header)
        (picture,) = self.encoder.decode(payload.data)
        return self._restored(picture, payload, reader.header)

    def _reduced(self, features: FeaturePyramid) -> tuple[Header, torch.Tensor, tuple | None]:
        """Header, b of one picture (R, h, w) by importance, and the statistics that are sent."""
        import torch

        grid = fpn_grid(features, self.name, "fctm_like", self.config.channels)
        header = Header(
            self.name, "fpn", features.source_size, features.input_size, grid,
            weights_id=self.weights_id, value_range=self.value_range,
        )  # fmt: skip
        header.require_weights(self.name, self.weights_id, self.config.channels)
        with torch.inference_mode():
            layers = {name: x[None].cpu() for name, x in features.layers.items()}
            standard = self.model.standard(layers)
            b = self.model.reduce(standard)[0]
            statistics = _statistics(standard) if self.tools.zscore else None
        return header, b[self.model.order] if self.tools.ordering else b, statistics

    def _about(self, b: torch.Tensor, qp: int) -> FctmLikePayload:
        """How many channels are sent, and how many of them at full size, at a QP.

        A channel is left out where the encoder would round each of its cosine coefficients to
        zero, and halved where it would do so with all but the low quarter.
        """
        import torch

        from anchors.fctm_networks import DEAD_ZONE, transform
        from anchors.fctm_packing import half

        low, high = self.value_range
        threshold = DEAD_ZONE * (high - low) * relative_step(torch.tensor(float(qp)))
        seen = transform(b).abs() >= threshold
        rows, columns = half(tuple(b.shape[1:]))
        fine = seen.clone()
        fine[:, :rows, :columns] = False
        count = _last(seen) if self.tools.removal else len(b)
        count = max(1, min(count, self.tools.most or len(b)))
        whole = min(count, _last(fine)) if self.tools.resampling else count
        return FctmLikePayload(count, whole, self.tools.ordering, None, b"")

    def _planes(self, b: torch.Tensor, about: FctmLikePayload) -> vvc.Planes:
        from anchors.fctm_packing import pack

        return (pack(b[: about.channels], about.whole, self.value_range),)

    def _restored(self, picture, payload: FctmLikePayload, header: Header) -> FeaturePyramid:
        import torch

        from anchors.fctm_packing import unpack
        from vcm_plugin.features import FeaturePyramid

        grids = {name: shape[1:] for name, shape in header.shapes(self.config.channels).items()}
        grid = grids[GRID]
        found = unpack(picture, payload.channels, payload.whole, grid, header.value_range)
        b = torch.zeros(1, self.config.reduced, *grid)
        order = self.model.order if payload.ordered else torch.arange(self.config.reduced)
        b[0, order[: payload.channels]] = found
        with torch.inference_mode():
            standard = self.model.restore(b, grids)
            if payload.statistics is not None:
                standard = _with_statistics(standard, payload.statistics)
            layers = self.model.features(standard)
        layers = {name: layers[name][0].contiguous() for name in LAYERS}
        return FeaturePyramid(layers, header.source_size, header.input_size)

    def _require_ours(self, header: Header) -> None:
        header.require_weights(self.name, self.weights_id, self.config.channels)

    def _require_format(self, payload: FctmLikePayload, header: Header) -> None:
        """Raise BitstreamError, before anything is decoded, for a picture of another size."""
        from anchors.fctm_packing import layout

        if payload.channels > self.config.reduced:
            raise BitstreamError(
                f"expected at most {self.config.reduced} channels, which the weights have, found "
                f"{payload.channels}"
            )
        grid = header.shapes(self.config.channels)[GRID][1:]
        expected = layout(payload.channels, payload.whole, grid)[0]
        found = vvc_stream.read_format(payload.data)
        if (found.height, found.width, found.planes) != (*expected, 1):
            raise BitstreamError(
                f"expected a VVC picture of {expected[0]} x {expected[1]} in 4:0:0 for "
                f"{payload.channels} channels, found {found.height} x {found.width} in "
                f"{found.planes} planes"
            )


def _range_of(model) -> tuple[float, float]:
    """Values of the samples 0 and 1023, as 16-bit floats."""
    low, high = (bitstream.round_float(float(v)) for v in model.value_range)
    if not low < high:
        raise InputError(f"expected a value range low < high, found {low:g} .. {high:g}")
    return low, high


def _last(seen: torch.Tensor) -> int:
    """How many channels there are up to the last one of which something is seen."""
    places = seen.flatten(1).any(dim=1).nonzero()
    return int(places[-1]) + 1 if len(places) else 0


def _statistics(standard: dict[str, torch.Tensor]) -> tuple[int, ...]:
    """Mean and spread of the Z-scores of each layer as integers of 8 bits."""
    found = []
    for name in LAYERS:
        mean, spread = standard[name].mean(), standard[name].std(correction=0)
        for value in (mean, spread.clamp(min=1e-6).log2()):
            found.append(int((value * STATISTIC_STEPS).round().clamp(-128, 127)) + 128)
    return tuple(found)


def _with_statistics(standard: dict, statistics: tuple[int, ...]) -> dict:
    """Z-scores whose layers have the mean and spread that were sent."""
    found = {}
    for name, mean, spread in zip(LAYERS, statistics[::2], statistics[1::2]):
        x = standard[name]
        wanted = 2.0 ** ((spread - 128) / STATISTIC_STEPS)
        gain = wanted / x.std(correction=0).clamp(min=1e-6)
        found[name] = (x - x.mean()) * gain + (mean - 128) / STATISTIC_STEPS
    return found
