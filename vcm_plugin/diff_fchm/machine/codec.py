# SPDX-License-Identifier: BSD-3-Clause
"""How a feature pyramid becomes the machine layer of an .fcm file and comes back: Diff-FCHM.

encode: g_a, range and IVN -> y -> h_a -> z -> entropy coding -> machine unit
decode: machine unit -> latents, checked -> inverse IVN -> g_s -> features

g_a is homogeneous, so that IVN may follow it: a sweep over rate points analyses a picture once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import BinaryIO

import torch

from vcm_plugin import bitstream, vvc
from vcm_plugin.bitstream import FrameReader, Header, MachinePayload, Timing, Unit
from vcm_plugin.diff_fchm.machine import ivn
from vcm_plugin.diff_fchm.machine.config import VfcnConfig
from vcm_plugin.diff_fchm.machine.folded import FoldedVfcn
from vcm_plugin.diff_fchm.machine.importance import Importance
from vcm_plugin.diff_fchm.machine.inter import InterNetworks
from vcm_plugin.diff_fchm.machine.layer import Analysed, Lost, MachineLayer
from vcm_plugin.diff_fchm.machine.sequence import InterDecoder, InterEncoder, last_of
from vcm_plugin.diff_fchm.machine.vfcn import Vfcn
from vcm_plugin.entropy.latent_coder import LATENT_STEPS, load_stored, stored_tensors
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.rate_points import parse_scale
from vcm_plugin.stages import stage
from vcm_plugin.weights_file import fitting, read_weights, write_weights


class MachineCodec:
    """Feature codec diff_fchm with one weights file; a rate point is the scale s of IVN."""

    name = "diff_fchm"
    kind = "feature"

    def __init__(
        self,
        weights: Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        inter: Path | None = None,
        intra_period: int | None = None,
        importance: Path | None = None,
    ):
        """dtype: of g_a and g_s; whatever it is, files decode to the same latents.

        inter: weights of the inter networks; without them every frame is intra. intra_period:
        frames from one intra frame to the next; None: as vvc.intra_period says. importance: weights
        that tell the encoder of inter frames which cells matter.
        Raises InputError for weights that do not fit, and for a period below 1.
        """
        if intra_period is not None and intra_period < 1:
            raise InputError(
                f"intra_period: expected 1 (every frame is intra) or more frames, found "
                f"{intra_period}"
            )
        data, tensors, self.metadata = read_weights(weights, "vfcn")
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.weights_id = int(self.sha256[:8], 16)
        self.device, self.dtype = torch.device(device), dtype
        self.parameters = sum(x.numel() for k, x in tensors.items() if k != "tables")
        with fitting(weights, tensors):
            self.config = _config(self.metadata)
            self.latents_sha256 = _latents_sha256(self.config, tensors)
            model = Vfcn(self.config)
            coder, self.integers = load_stored(model, tensors)
            self.typical = ivn.log2_code((0.0, model.typical_width.item()))
        self.coder = coder.to(self.device)
        self.model = model.requires_grad_(False).eval().to(self.device)
        self.networks = FoldedVfcn(self.model, dtype)
        self.intra_period = intra_period
        self.inter = None
        if inter is not None:
            self.inter = InterNetworks(inter, self.sha256, self.coder.tables).to(self.device)
        self.importance = None
        if importance is not None:
            self.importance = Importance(importance, self.latents_sha256).to(self.device)

    def to(self, device: str) -> MachineCodec:
        """Return self with its networks on another device; the latents of a file stay the same."""
        self.device = torch.device(device)
        self.model.to(self.device)
        self.networks.to(self.device)
        self.coder.to(self.device)
        for other in (self.inter, self.importance):
            if other is not None:
                other.to(self.device)
        return self

    @property
    def rate_points(self) -> list[str]:
        """The presets chosen on the validation set, falling rate."""
        return list(self.metadata["rate_points"])

    def identity(self) -> dict:
        """What affects the result."""
        identity = {
            "weights_sha256": self.sha256,
            "variant": self.config.variant,
            "detector_sha256": self.metadata["detector_sha256"],
        }
        if self.inter is not None:
            identity |= {
                "inter_weights_sha256": self.inter.sha256,
                "intra_period": self.intra_period or "32, from 48 frames per second on 64",
                "structural_delay_frames": 0,
            }
        if self.importance is not None:
            identity["importance_weights_sha256"] = self.importance.sha256
        return identity

    def carries(self, sha256: str) -> bool:
        """Whether networks built on the machine layer of this identity work with this one.

        sha256: a latents_sha256; or that of the whole weights file, which older networks name.
        """
        return sha256 in (self.latents_sha256, self.sha256)

    def require_layers(self, layers: list[str]) -> None:
        """Raise InputError unless these weights are for these layers, before any is made."""
        wanted = list(self.config.levels.values())
        if layers != wanted:
            raise InputError(
                f"{self.name}: these weights code the layers {', '.join(wanted)} (split point "
                f"{self.config.split_point}), found {', '.join(layers)}; set split_point: "
                f"{self.config.split_point}, give weights that were trained for those layers, or "
                "use the codec vvc_feature"
            )

    def encode(self, features: FeaturePyramid, rate_point: str) -> bytes:
        """Features of the split point of the weights -> an .fcm file with one machine unit."""
        return self.code(features, rate_point)[0]

    def code(self, features: FeaturePyramid, rate_point: str) -> tuple[bytes, MachineLayer]:
        """Features -> the file of `encode`, and what it decodes to."""
        return self.code_analysed(self.analyse(features), rate_point)

    def encode_sweep(self, features: FeaturePyramid, rate_points: Iterable[str]) -> Iterator[bytes]:
        """The file of `encode` for each rate point, analysing the features once."""
        analysed = self.analyse(features)
        return (self.code_analysed(analysed, rate_point)[0] for rate_point in rate_points)

    @stage("feature_reduction")
    @torch.inference_mode()
    def analyse(self, features: FeaturePyramid) -> Analysed:
        """Features -> what all rate points share; `code_analysed` goes on."""
        header = self._header(features)
        value_range = ivn.feature_range(features.layers, features.input_size)
        layers = {
            level: features.layers[name].to(self.device)
            for level, name in self.config.levels.items()
        }
        return Analysed(header, value_range, self.networks.analysis(layers))

    def code_analysed(self, analysed: Analysed, rate_point: str) -> tuple[bytes, MachineLayer]:
        """What `analyse` made -> the file of one rate point, and what it decodes to."""
        layer = self.code_intra(analysed, parse_scale(rate_point))
        unit = Unit("machine", 0, layer.payload.to_bytes())
        return bitstream.write(layer.header, [unit]), layer

    def encode_frames(
        self, frames: Iterable[FeaturePyramid], rate_point: str, timing: Timing, file: BinaryIO
    ) -> list[int]:
        """Write the .fcm file of a sequence; the bytes of each frame.

        Without inter networks, each frame is coded on its own. The header counts with the first
        frame. No more than one frame, and the latents of two, are held at a time.
        """
        s = parse_scale(rate_point)
        analysed = (self.analyse(features) for features in frames)
        period = self.intra_period or vvc.intra_period(timing.frame_rate, True)
        if self.inter is None or period == 1:
            units = ((x.header, self.code_intra(x, s).payload.to_bytes()) for x in analysed)
        else:
            units = InterEncoder(self, s, period).units(analysed)
        timed = ((replace(header, **vars(timing)), unit) for header, unit in units)
        return bitstream.write_frames(file, timed)

    def decode_frames(self, path: Path) -> Iterator[FeaturePyramid]:
        """The features of each frame of a file, decoded as they are asked for."""
        return map(self.synthesise, self.read_layers(path))

    def decode_frame(self, path: Path, frame: int) -> FeaturePyramid:
        """The features of one frame of a file; read from the nearest intra frame on."""
        reader = FrameReader.open(path)
        reader.unit(frame)  # refuses a frame that is not there
        first = reader.intra_before(frame)
        return self.synthesise(last_of(self._layers(reader, range(first, frame + 1))))

    def read_layers(self, path: Path) -> Iterator[MachineLayer]:
        """The latents of each frame of a file, as they are asked for; `synthesise` goes on."""
        reader = FrameReader.open(path)
        return self._layers(reader, range(len(reader)))

    def read_sound_layers(self, path: Path) -> Iterator[MachineLayer | Lost]:
        """As read_layers, but where a frame is damaged or cut off it goes on at the next intra
        frame: of the frames between it says what is wrong."""
        reader = FrameReader.open(path, whole=False)
        frame = 0
        while frame < len(reader):
            try:
                for layer in self._layers(reader, range(frame, len(reader))):
                    yield layer
                    frame += 1
            except BitstreamError as error:
                following = reader.intra_after(frame)
                for _ in range(frame, following):
                    yield Lost(str(error))
                frame = following

    def _layers(self, reader: FrameReader, frames: range) -> Iterator[MachineLayer]:
        """The latents of some frames, the first of them intra, each from those before it."""
        decoder = InterDecoder(self)
        for frame in frames:
            try:
                yield decoder.layer(reader.header, reader.unit(frame))
            except BitstreamError as error:
                gone = reader.intra_after(frame) - 1
                also = f" (with it, frames up to {gone} are gone)" if gone > frame else ""
                raise BitstreamError(f"frame {frame}: {error}{also}") from error

    @torch.inference_mode()
    def latents_at(
        self, analysed: Analysed, value_range: tuple[float, float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """z and y (C, h, w) of a frame that is coded with this range, scaled by s already."""
        with stage("feature_reduction"):
            y = analysed.y * self.model.done(self._ranges(value_range))
            return self.networks.h_a(y.to(self.dtype))[0], y[0]

    def code_intra(self, analysed: Analysed, s: float) -> MachineLayer:
        """A frame on its own at the scale s, as a picture."""
        value_range = ivn.scaled_range(analysed.value_range, s)
        z, y = self.latents_at(analysed, value_range)
        data, latents = self.coder.encode(z, y, self.octaves(value_range))
        payload = MachinePayload(value_range, bitstream.round_float(s), latents.checksum(), data)
        return MachineLayer(analysed.header, payload, latents)

    def decode(self, data: bytes) -> FeaturePyramid:
        """An .fcm file -> features; a human layer, where there is one, is not looked at."""
        return self.synthesise(self.decode_latents(data))

    def decode_latents(self, data: bytes) -> MachineLayer:
        """An .fcm file -> its latents. Raises BitstreamError unless they match their checksum."""
        stream = bitstream.read(data)
        stream.header.require_picture()
        return self.read_intra(stream.header, stream.units[0].payload)

    def read_intra(self, header: Header, unit: bytes) -> MachineLayer:
        """The latents of one machine unit."""
        self._require_header(header)
        payload = MachinePayload.from_bytes(unit)
        octaves = self.octaves(payload.value_range)
        latents = self.coder.decode(payload.data, self._grid(header), octaves)
        latents.require(payload.checksum, "latents")
        return MachineLayer(header, payload, latents)

    @stage("feature_restoration")
    @torch.inference_mode()
    def synthesise(self, layer: MachineLayer) -> FeaturePyramid:
        """Latents -> features; from here on float arithmetic differs between machines."""
        undone = self.model.undone(self._ranges(layer.payload.value_range)) / LATENT_STEPS
        y_hat = torch.from_numpy(layer.latents.y)[None].to(self.device, torch.float32) * undone
        return self._restored(y_hat, layer.header)

    @stage("feature_restoration")
    @torch.inference_mode()
    def restore(self, y: torch.Tensor, header: Header) -> FeaturePyramid:
        """Latents (1, C, h, w) as `analyse` makes them, however they came here -> features of the
        sizes of a header."""
        return self._restored(y.to(self.device, torch.float32), header)

    def _restored(self, y_hat: torch.Tensor, header: Header) -> FeaturePyramid:
        decoded = self.networks.synthesis(y_hat.to(self.dtype))
        shapes = header.shapes(self.config.each_channels)
        layers = {
            name: decoded[level][:, : shapes[name][1], : shapes[name][2]].cpu().contiguous()
            for level, name in self.config.levels.items()
        }
        return FeaturePyramid(layers, header.source_size, header.input_size)

    def _header(self, features: FeaturePyramid) -> Header:
        self.require_layers(list(features.layers))
        for (name, layer), count in zip(features.layers.items(), self.config.each_channels):
            if layer.shape[0] != count:
                raise InputError(
                    f"layer {name}: these VFCN weights are for {count} channels, "
                    f"found {layer.shape[0]}; use the weights trained for this detector"
                )
        features.require_finite()
        shapes = {name: tuple(layer.shape) for name, layer in features.layers.items()}
        grid, _ = bitstream.compact_shapes(shapes, features.input_size)
        sizes = (features.source_size, features.input_size)
        split_point = self.config.split_point
        header = Header(self.name, split_point, *sizes, grid=grid, weights_id=self.weights_id)
        self._require_header(header)
        return header

    def _require_header(self, header: Header) -> None:
        counts, split_point = self.config.each_channels, self.config.split_point
        header.require_weights(self.name, self.weights_id, counts, split_point)

    def _grid(self, header: Header) -> tuple[int, int]:
        """(height, width) of the latents: a quarter of the finest layer, rounded up."""
        _, height, width = next(iter(header.shapes(self.config.each_channels).values()))
        return (height + 3) // 4, (width + 3) // 4

    def _ranges(self, value_range: tuple[float, float]) -> torch.Tensor:
        return torch.tensor([value_range], device=self.device)

    def octaves(self, value_range: tuple[float, float]) -> int:
        """What the integer networks are told of the range, in 1/256 octaves."""
        return ivn.log2_code(value_range) - self.typical


def export(
    model: Vfcn, detector_sha256: str, rate_points: list[str], trained: dict, path: Path
) -> Path:
    """Write the weights file of a trained model: 16-bit floats, integer networks, tables."""
    metadata = {
        "config": asdict(model.config),
        "detector_sha256": detector_sha256,
        "rate_points": rate_points,
        "trained": trained,
    }
    tensors = stored_tensors(model, whole=("mean", "std", "shrink"))
    return write_weights(path, "vfcn", tensors, metadata)


def _config(metadata: dict) -> VfcnConfig:
    metadata["detector_sha256"], metadata["rate_points"]  # both must be there
    sizes = metadata["config"]
    lists = ("slices", "layer_channels")
    return VfcnConfig(**sizes | {key: tuple(sizes[key]) for key in lists if key in sizes})


def _latents_sha256(config: VfcnConfig, tensors: dict[str, torch.Tensor]) -> str:
    """sha256 of all that says what latents mean: g_a, g_s, statistics and how a range acts on them.

    Not of what codes them: h_a, the entropy networks and their tables.
    """
    coding = ("slices", "hyper_width", "hyper_latents", "context_width")
    meaning = {name: value for name, value in asdict(config).items() if name not in coding}
    if config.split_point == "fpn":  # as before other pyramids were coded
        del meaning["split_point"], meaning["layer_channels"]
    digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode())
    for name, x in sorted(tensors.items()):
        if not name.startswith(("h_a.", "integer.", "tables")):
            digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
            digest.update(x.double().numpy().tobytes())
    return digest.hexdigest()
