# SPDX-License-Identifier: BSD-3-Clause
"""Which codecs there are by name; the only module that imports anchors/."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from anchors.vvc import read_format
from anchors.vvc_feature import VvcFeatureCodec
from anchors.vvc_remote import VvcRemoteCodec, source_size
from vcm_plugin import bitstream
from vcm_plugin.conditions import TestCondition
from vcm_plugin.errors import InputError
from vcm_plugin.machine_codec import MachineCodec
from vcm_plugin.metrics import bpp


class Codec(Protocol):
    """Features (kind "feature") or a picture (kind "picture") -> bytes -> the same kind again."""

    name: str
    kind: str

    def identity(self) -> dict[str, Any]:
        """What affects the result: encoder version, preset, ranges; no paths."""

    def encode(self, source: Any, rate_point: str) -> bytes:
        """Code features or a picture at a rate point."""

    def decode(self, data: bytes) -> Any:
        """Features or a picture from the bytes alone."""


@dataclass(frozen=True)
class CodecEntry:
    """How a test condition makes a codec, and under which keys it lists QPs (or s) and sizes."""

    make: Callable[[TestCondition], Codec]
    qps: str
    sizes: str | None = None  # in percent of height and width

    def rate_points(self, condition: TestCondition) -> list[str]:
        """ "32" is QP 32 at full size, "32@50" the same at half the height and width."""
        sizes = condition.require(self.sizes) if self.sizes else (100,)
        qps = condition.require(self.qps)
        if len(set(sizes)) < len(sizes) or len(set(qps)) < len(qps):
            raise InputError(f"test condition {condition.name}: {self.qps}: name each value once")
        return [f"{qp:g}" if size == 100 else f"{qp:g}@{size}" for size in sizes for qp in qps]


def codec_entry(name: str) -> CodecEntry:
    """The entry of CODECS of this name; raises InputError where there is none."""
    if name not in CODECS:
        raise InputError(f"codec {name}: expected one of {', '.join(CODECS)}")
    return CODECS[name]


def codec_of(data: bytes) -> str:
    """The name of the codec that decodes a bitstream: as its .fcm header says, or a raw stream."""
    return bitstream.read(data).header.profile if _is_fcm(data) else "vvc_remote"


def describe_bitstream(data: bytes) -> dict[str, str]:
    """What the header of a bitstream says, in words; reads every unit, so damage is found."""
    if not _is_fcm(data):
        return _describe_raw(data)
    stream = bitstream.read(data)
    header = stream.header
    units = Counter(unit.type for unit in stream.units)
    described = {
        "format": f".fcm version {bitstream.VERSION}, profile {header.profile}",
        "source picture": _size(header.source_size),
        "network input": f"{_size(header.input_size)} before padding",
        "split point": header.split_point,
    }
    if header.channels:
        for name, shape in header.shapes().items():
            described[f"layer {name}"] = f"{shape[0]} channels of {_size(shape[1:])}"
    if header.value_range:
        low, high = header.value_range
        described["value range"] = f"{low:g} .. {high:g} (samples 0 .. 1023)"
    for what in ("weights_id", "detector_id"):
        if getattr(header, what) is not None:
            described[what.replace("_", " ")] = f"{getattr(header, what):08x}"
    if header.profile == "diff_fchm":
        described |= _describe_machine(stream.units[0].payload)
    described["frames"] = str(header.frames)
    described["units"] = ", ".join(f"{count} {kind}" for kind, count in units.items())
    described["file"] = _length(data, header.source_size)
    return described


def _is_fcm(data: bytes) -> bool:
    """Whether a file is .fcm or a VVC byte stream; raises BitstreamError where it is neither."""
    if not data.startswith((b"FCM", b"\0\0\1", b"\0\0\0\1")):
        found = repr(data[:4]) if data else "an empty file"
        raise bitstream.BitstreamError(
            f"expected an .fcm file or a VVC byte stream, found {found} at its start"
        )
    return data.startswith(b"FCM")


def _describe_machine(payload: bytes) -> dict[str, str]:
    machine = bitstream.MachinePayload.from_bytes(payload)
    low, high = machine.value_range
    return {
        "rate point": f"s = {machine.rate_point:g}",
        "normalised range": f"{low:g} .. {high:g} (after its scaling by s)",
        "latents": f"{len(machine.data)} bytes, checksum {machine.checksum:08x}",
    }


def _describe_raw(data: bytes) -> dict[str, str]:
    coded, (source, _) = read_format(data), source_size(data)
    return {
        "format": "VVC byte stream of one picture (remote inference)",
        "source picture": _size(source),
        "coded picture": f"{_size((coded.height, coded.width))}, 10 bits",
        "file": _length(data, source),
    }


def _size(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"


def _length(data: bytes, source: tuple[int, int]) -> str:
    bits = 8 * len(data)
    return f"{len(data)} bytes, {bpp(bits, source[0] * source[1]):.4f} bits per pixel of the source"


def _vvc_feature(condition: TestCondition) -> VvcFeatureCodec:
    return VvcFeatureCodec(
        preset=condition.require("vvc_feature_preset"),
        value_range=_value_range(condition, "vvc_feature_range"),
        threads=condition.threads_per_job,
    )


def _vvc_remote(condition: TestCondition) -> VvcRemoteCodec:
    return VvcRemoteCodec(
        preset=condition.require("vvc_remote_preset"), threads=condition.threads_per_job
    )


def _vtm_feature(condition: TestCondition) -> VvcFeatureCodec:
    return VvcFeatureCodec(value_range=_value_range(condition, "vtm_feature_range"), backend="vtm")


def _vtm_remote(_: TestCondition) -> VvcRemoteCodec:
    return VvcRemoteCodec(backend="vtm")


def _diff_fchm(condition: TestCondition) -> MachineCodec:
    codec = MachineCodec(Path(condition.bundled_path(condition.require("diff_fchm_weights"))))
    trained_for = codec.metadata["detector_sha256"]
    weights = condition.weights_path()
    if weights is None or condition.diff_fchm_other_detector or not Path(weights).is_file():
        return codec
    found = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    if found != trained_for:
        raise InputError(
            f"{condition.diff_fchm_weights} was trained for a detector with the SHA-256 "
            f"{trained_for[:12]}, {Path(weights).name} has {found[:12]}; name the weights of this "
            "detector, or set diff_fchm_other_detector: true to test it on another"
        )
    return codec


def _value_range(condition: TestCondition, key: str) -> tuple[float, float] | None:
    """Feature values of the samples 0 and 1023; None where each picture has its own."""
    value = condition.require(key)
    if value == "picture":
        return None
    if isinstance(value, str) or len(value) != 2:
        raise InputError(f"{key}: expected picture or [low, high], found {value!r}")
    return value


CODECS = {
    "diff_fchm": CodecEntry(_diff_fchm, "diff_fchm_scales"),
    "vvc_feature": CodecEntry(_vvc_feature, "vvc_feature_qps"),
    "vvc_remote": CodecEntry(_vvc_remote, "vvc_remote_qps", "vvc_remote_sizes"),
    "vtm_feature": CodecEntry(_vtm_feature, "vtm_feature_qps"),
    "vtm_remote": CodecEntry(_vtm_remote, "vtm_remote_qps", "vtm_remote_sizes"),
}
