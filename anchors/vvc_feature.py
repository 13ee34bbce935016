# SPDX-License-Identifier: BSD-3-Clause
"""The feature anchor: what does it cost to send the packed features through a VVC encoder?

The layers become one 10-bit picture (packing.py) and that picture an intra-only VVC stream in an
.fcm file (profile vvc_feature), which holds all that its decoder needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar

import numpy as np

from anchors import packing
from vcm_plugin import bitstream, vvc
from vcm_plugin.bitstream import FrameReader, Header, Timing, Unit
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.rate_points import QP, Grammar, parse_qp
from vcm_plugin.vvc import stream as vvc_stream

if TYPE_CHECKING:
    from vcm_plugin.features import FeaturePyramid

# Deblocking would smooth each tile's edge with a neighbour that is another channel.
# Its encoder-side search goes with it.
FEATURE_PARAMETERS = (("LoopFilterDisable", 1), ("EncDbOpt", 0))


@dataclass(frozen=True)
class VvcFeatureSettings:
    """What a test condition says of vvc_feature."""

    name: ClassVar[str] = "vvc_feature"
    kind: ClassVar[str] = "feature"
    grammar: ClassVar[Grammar] = QP
    points_key: ClassVar[str] = "vvc_feature_qps"
    preset_key: ClassVar[str] = "vvc_feature_preset"
    batches: ClassVar[bool] = True

    vvc_feature_qps: tuple[int, ...] = ()
    vvc_feature_preset: str | None = None
    vvc_feature_range: str | tuple[float, ...] | None = None  # picture, or [low, high]
    vvc_random_access: bool = False  # of sequences; all-intra otherwise
    vvc_low_delay: bool = False  # of sequences; inter prediction in the order of display

    def make(self, context) -> VvcFeatureCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        context.require("vvc_feature_preset", "vvc_feature_range")
        return VvcFeatureCodec(
            preset=self.vvc_feature_preset,
            value_range=_range_of("vvc_feature_range", self.vvc_feature_range),
            threads=context.threads,
            random_access=self.vvc_random_access or self.vvc_low_delay,
            low_delay=self.vvc_low_delay,
        )


@dataclass(frozen=True)
class VtmFeatureSettings:
    """What a test condition says of vtm_feature: the same features, coded by VTM."""

    name: ClassVar[str] = "vtm_feature"
    kind: ClassVar[str] = "feature"
    grammar: ClassVar[Grammar] = QP
    points_key: ClassVar[str] = "vtm_feature_qps"

    vtm_feature_qps: tuple[int, ...] = ()
    vtm_feature_range: str | tuple[float, ...] | None = None
    vtm_version: str | None = None  # the only one that is taken
    vvc_random_access: bool = False
    vvc_low_delay: bool = False

    def make(self, context) -> VvcFeatureCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        context.require("vtm_feature_range")
        return VvcFeatureCodec(
            value_range=_range_of("vtm_feature_range", self.vtm_feature_range),
            backend="vtm",
            vtm_version=self.vtm_version,
            random_access=self.vvc_random_access or self.vvc_low_delay,
            low_delay=self.vvc_low_delay,
        )


@dataclass(frozen=True)
class CodedLayers:
    """The VVC stream of some layers; shapes: (C, h, w) of each. value_range: feature values of the
    samples 0 and 1023."""

    stream: bytes
    shapes: dict[str, tuple]
    value_range: tuple[float, float]


@dataclass(frozen=True)
class VvcFeatureCodec:
    """Feature codec on VVenC (`vvc_feature`) or VTM (`vtm_feature`); the rate point is a QP.

    preset, threads: of VVenC; VTM has neither.
    value_range: feature values of the samples 0 and 1023, as the test conditions give them for a
    data set; None: those of each picture.
    backend: "vvenc" or "vtm", whose paths come from the environment (vcm_plugin/vvc/vtm_setup.py).
    vtm_version: the only one of VTM that is taken; None: any.
    random_access: sequences are coded with inter prediction between intra pictures, of which there
    is one about every second, instead of all-intra. low_delay: the same in the order of display.
    """

    preset: str = "faster"
    value_range: tuple[float, float] | None = None
    threads: int = 1
    backend: str = "vvenc"
    vtm_version: str | None = None
    random_access: bool = False
    low_delay: bool = False

    kind: ClassVar[str] = "feature"

    def __post_init__(self):
        if self.backend not in ("vvenc", "vtm"):
            raise InputError(f"expected the backend vvenc or vtm, found {self.backend!r}")
        vvc.VVenC(self.preset, self.threads)  # refuses settings that it does not know
        if self.value_range is not None:
            low, high = (bitstream.round_float(float(v), 32) for v in self.value_range)
            if not low < high:
                raise InputError(f"expected a value range low < high, found {self.value_range}")
            object.__setattr__(self, "value_range", (low, high))

    @property
    def name(self) -> str:
        """The codec's name on the command line and in results."""
        return {"vvenc": "vvc_feature", "vtm": "vtm_feature"}[self.backend]

    @property
    def encoder(self) -> vvc.VVenC | vvc.Vtm:
        """The picture encoder and decoder."""
        if self.backend == "vtm":
            return vvc.Vtm.from_environment(self.low_delay, self.vtm_version)
        return vvc.VVenC(self.preset, self.threads, FEATURE_PARAMETERS, low_delay=self.low_delay)

    def identity(self) -> dict:
        """What determines the bitstreams."""
        return {
            "codec": self.name,
            "bitstream": f"fcm {bitstream.VERSION}",
            "value_range": (
                list(self.value_range) if self.value_range else "of each picture, 16-bit floats"
            ),
            "inner_codec": self.encoder.identity(True, self.random_access),
        }

    def encode(self, features: FeaturePyramid, rate_point: str) -> bytes:
        """The .fcm file of one picture's features."""
        return self.encode_batch([features], rate_point)[0]

    def encode_batch(self, features: Sequence[FeaturePyramid], rate_point: str) -> list[bytes]:
        """The .fcm file of each of some pictures of one size, the same bytes as by `encode`."""
        return self.encode_packed(map(self._packed, features), parse_qp(rate_point))

    def encode_packed(self, packed: Iterable[tuple[Header, vvc.Planes]], qp: int) -> list[bytes]:
        """The .fcm file of each of some packed pictures of one size, with its header."""
        headers, pictures = zip(*packed, strict=True)
        streams = self.encoder.encode_batch(pictures, qp)
        return [
            bitstream.write(header, [Unit("private", 0, stream)])
            for header, stream in zip(headers, streams, strict=True)
        ]

    def encode_frames(
        self, frames: Iterable[FeaturePyramid], rate_point: str, timing: Timing, file: BinaryIO
    ) -> list[int]:
        """Write the .fcm file of a sequence; the bytes of each frame, in decoding order.

        The header counts with the first frame. All-intra, no more than one frame is held at a time.
        """
        qp = parse_qp(rate_point)
        if self.value_range is None:
            raise InputError(
                f"{self.name} codes a sequence with one range for all of its frames: set "
                f"{self.name}_range to [low, high] of the data set in place of picture"
            )
        headers: list[Header] = []

        def packed() -> Iterator[vvc.Planes]:
            for features in frames:
                header, planes = self._packed(features)
                headers.append(replace(header, **vars(timing)))
                yield planes

        period = vvc.intra_period(timing.frame_rate, self.random_access)
        units = self.encoder.encode_frames(packed(), qp, period, timing.frame_rate)
        return bitstream.write_frames(file, ((headers.pop(0), unit) for unit in units))

    def decode(self, data: bytes) -> FeaturePyramid:
        """The features that an .fcm file holds."""
        return self.decode_batch([data])[0]

    def decode_batch(self, files: Sequence[bytes]) -> list[FeaturePyramid]:
        """The features that each of some .fcm files of pictures of one size holds."""
        headers, coded = [], []
        for data in files:
            stream = bitstream.read(data)
            header = stream.header
            _require_profile(header)
            header.require_picture()
            headers.append(header)
            coded.append(_coded_layers(stream.units[0].payload, header))
        return [
            _pyramid(layers, header)
            for layers, header in zip(self.decode_layers(coded), headers, strict=True)
        ]

    def decode_frames(self, path: Path) -> Iterator[FeaturePyramid]:
        """The features of each frame of a file, decoded as they are asked for."""
        reader = FrameReader.open(path)
        header = reader.header
        _require_profile(header)
        shapes = header.shapes()
        _require_format(reader[0], shapes)
        pictures = self.encoder.decode_frames(reader[n] for n in range(len(reader)))
        for (picture,) in vvc.counted(pictures, len(reader)):
            yield _pyramid(_unpacked(picture, shapes, header.value_range), header)

    def decode_frame(self, path: Path, frame: int) -> FeaturePyramid:
        """The features of one frame; in an all-intra file, no frame but it and the first is read.

        In a file with inter prediction, all frames up to it are decoded.
        """
        reader = FrameReader.open(path)
        _require_profile(reader.header)
        stream = vvc_stream.picture_of(reader.__getitem__, len(reader), frame)
        if stream is None:
            return next(itertools.islice(self.decode_frames(path), frame, None))
        (layers,) = self.decode_layers([_coded_layers(stream, reader.header)])
        return _pyramid(layers, reader.header)

    def decode_layers(self, coded: Sequence[CodedLayers]) -> list[dict[str, np.ndarray]]:
        """The layers of given shapes that each of some VVC streams of one size holds."""
        for one in coded:
            _require_format(one.stream, one.shapes)
        decoded = self.encoder.decode_batch([one.stream for one in coded])
        return [
            _unpacked(picture, one.shapes, one.value_range)
            for (picture,), one in zip(decoded, coded, strict=True)
        ]

    def _packed(self, features: FeaturePyramid) -> tuple[Header, vvc.Planes]:
        """The header of a file of one picture, and the picture that its layers are packed into."""
        layers = {n: t.cpu().numpy() for n, t in features.require_finite().layers.items()}
        value_range = self.value_range or picture_range(layers)
        shapes = {name: layer.shape for name, layer in layers.items()}
        grid, channels = bitstream.compact_shapes(shapes, features.input_size)
        header = Header(
            profile="vvc_feature",
            split_point=features.split_point,
            source_size=features.source_size,
            input_size=features.input_size,
            grid=grid,
            channels=channels,
            value_range=value_range,
            exact_range=self.value_range is not None,
        )
        return header, packed_picture(layers, value_range)


def _range_of(key: str, value: str | tuple[float, ...]) -> tuple[float, float] | None:
    """Feature values of the samples 0 and 1023; None where each picture has its own."""
    if value == "picture":
        return None
    if isinstance(value, str) or len(value) != 2:
        raise InputError(f"{key}: expected picture or [low, high], found {value!r}")
    return value


def picture_range(layers: dict[str, np.ndarray]) -> tuple[float, float]:
    """Smallest and largest value of all layers, rounded outwards to 16-bit floats."""
    low = bitstream.round_float(min(float(x.min()) for x in layers.values()), towards="down")
    top = max(float(x.max()) for x in layers.values())
    high = bitstream.round_float(top, towards="up")
    if high <= low:  # every feature has one value: widen the range by one step
        high = bitstream.round_float(low + max(abs(low), 1e-3) * 1e-3, towards="up")
    return low, high


def packed_picture(layers: dict[str, np.ndarray], value_range: tuple[float, float]) -> vvc.Planes:
    """The luma plane that carries some layers, padded to a size that can be coded."""
    picture = packing.pack(layers, value_range)
    height, width = vvc.coded_size(*picture.shape)
    margins = ((0, height - picture.shape[0]), (0, width - picture.shape[1]))
    return (np.pad(picture, margins, constant_values=packing.zero_level(value_range)),)


def _unpacked(
    picture: np.ndarray, shapes: dict[str, tuple], value_range: tuple[float, float]
) -> dict[str, np.ndarray]:
    frame = packing.layout(shapes)
    return packing.unpack(picture[: frame.height, : frame.width], shapes, value_range)


def _coded_layers(stream: bytes, header: Header) -> CodedLayers:
    return CodedLayers(stream, header.shapes(), header.value_range)


def _pyramid(layers: dict[str, np.ndarray], header: Header) -> FeaturePyramid:
    import torch  # late, as in every codec: settings and rate points are read without it

    from vcm_plugin.features import FeaturePyramid

    tensors = {name: torch.from_numpy(layer) for name, layer in layers.items()}
    return FeaturePyramid(tensors, header.source_size, header.input_size)


def _require_profile(header: Header) -> None:
    if header.profile != "vvc_feature":
        raise BitstreamError(
            f"expected a file of profile vvc_feature, found profile {header.profile}: decode it "
            "with the codec that wrote it"
        )


def _require_format(stream: bytes, shapes: dict[str, tuple]) -> None:
    """Raise BitstreamError, before anything is decoded, where a stream is not of these layers."""
    frame = packing.layout(shapes)
    expected = vvc.coded_size(frame.height, frame.width)
    found = vvc_stream.read_format(stream)
    if (found.height, found.width, found.planes) != (*expected, 1):
        raise BitstreamError(
            f"expected a VVC picture of {expected[0]} x {expected[1]} in 4:0:0 for the layers "
            f"of the header, found {found.height} x {found.width} in {found.planes} planes"
        )
