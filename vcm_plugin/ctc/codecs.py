# SPDX-License-Identifier: BSD-3-Clause
"""Which codecs there are by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from anchors.msfc import MsfcCodec
from anchors.simulcast import SimulcastCodec, is_simulcast
from anchors.simulcast import split as split_simulcast
from anchors.vvc_feature import VvcFeatureCodec
from anchors.vvc_remote import VvcRemoteCodec, source_size
from vcm_plugin import bitstream
from vcm_plugin.conditions import TestCondition
from vcm_plugin.diff_fchm.machine.ivn import parse_rate_point
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.metrics.rate import bpp
from vcm_plugin.vvc.choice import codings as picture_codings
from vcm_plugin.vvc.stream import START_CODES, access_units, read_format

if TYPE_CHECKING:
    from vcm_plugin.diff_fchm.human.codec import HumanCodec
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec


class Codec(Protocol):
    """Features (kind "feature") or a picture (kind "picture") -> bytes -> the same kind again.

    Codecs of kind "human" take both, and two rate points: encode(picture, features, rate_point,
    human_rate_point), decode(bytes) -> (features, picture).

    A codec of sequences also has encode_frames(frames, rate_point, timing, file) -> bytes of each
    frame, and decode_frames(path), which decodes one frame after the other.
    """

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
    """How a test condition makes a codec, and under which keys a condition lists its settings."""

    make: Callable[[TestCondition], Codec]
    qps: str  # or scales s
    sizes: str | None = None  # in percent of height and width
    preset: str | None = None  # of the encoder
    check: Callable[[str], Any] = str  # raises InputError for a rate point out of range

    def rate_points(self, condition: TestCondition) -> list[str]:
        """ "32" is QP 32 at full size, "32@50" the same at half the height and width; "2.8+37" of
        a human codec is the scale 2.8 for the machine and 37 for the person."""
        sizes = condition.require(self.sizes) if self.sizes else (100,)
        values = condition.require(self.qps)
        qps = [value if isinstance(value, str) else f"{value:g}" for value in values]
        points = [qp if size == 100 else f"{qp}@{size}" for size in sizes for qp in qps]
        if len(set(points)) < len(points):
            raise InputError(f"test condition {condition.name}: {self.qps}: name each value once")
        for point in points:
            self.check(point)
        return points


def codec_entry(name: str) -> CodecEntry:
    """The entry of CODECS of this name; raises InputError where there is none."""
    if name not in CODECS:
        raise InputError(f"codec {name}: expected one of {', '.join(CODECS)}")
    return CODECS[name]


def split_rate_point(text: str) -> tuple[str, str]:
    """The machine's and the person's part of a human codec's rate point; raises InputError.

    >>> split_rate_point("2.8+37@50")
    ('2.8', '37@50')
    """
    machine, plus, human = text.partition("+")
    if not plus:
        raise InputError(
            f"expected a rate point MACHINE+HUMAN such as 2.8+1 (diff_fchm_human) or 2.8+37 "
            f"(simulcast), found {text!r}"
        )
    parse_rate_point(machine)
    return machine, human


def human_codec(condition: TestCondition, device: str = "cpu") -> HumanCodec:
    """The human codec of a condition; raises InputError where it names no weights for it."""
    from vcm_plugin.diff_fchm.human.codec import (
        HumanCodec,  # diffusers, which other codecs do without
    )

    if condition.diff_fchm_human_weights is None:
        raise InputError(
            f"test condition {condition.name}: the human layer needs weights, and it names none; "
            "train them with scripts/train_hvcn.py and name their folder with --human-weights or "
            "in the key diff_fchm_human_weights"
        )
    folder = Path(condition.bundled_path(condition.diff_fchm_human_weights))
    prior = condition.diff_fchm_human_prior
    prior = prior and condition.bundled_path(prior)
    return HumanCodec(_diff_fchm(condition), folder, prior, device)


def codec_of(data: bytes) -> str:
    """The name of the codec that decodes a bitstream: as its .fcm header says, or a raw stream."""
    if not _is_fcm(data):
        return "vvc_remote"
    return "simulcast" if is_simulcast(data) else bitstream.read(data).header.profile


def describe_bitstream(data: bytes) -> list[str]:
    """What a bitstream holds, in words, a line for each fact; reads every unit of an .fcm file."""
    if not _is_fcm(data):
        return _describe_raw(data)
    header = bitstream.read_header(data)[0]
    length = _length(data, header.source_size, header.frames)
    if header.frames == 1 and is_simulcast(data):
        machine, picture = split_simulcast(data)
        layers = [*bitstream.describe(machine), *_describe_raw(picture)[:2]]
        return ["two streams, one after the other (simulcast)", *layers, *length]
    return [*bitstream.describe(data), *length]


def _is_fcm(data: bytes) -> bool:
    """Whether a file is .fcm or a VVC byte stream; raises BitstreamError where it is neither."""
    if not data.startswith((b"FCM", *START_CODES)):
        found = repr(data[:4]) if data else "an empty file"
        raise BitstreamError(
            f"expected an .fcm file or a VVC byte stream, found {found} at its start"
        )
    return data.startswith(b"FCM")


def _describe_raw(data: bytes) -> list[str]:
    coded, (source, _) = read_format(data), source_size(data)
    frames = sum(1 for _ in access_units(data))
    what = "one picture" if frames == 1 else f"a sequence of {frames} frames"
    return [
        f"VVC byte stream of {what} (remote inference)",
        f"source {source[0]} x {source[1]}, coded as {coded.height} x {coded.width} (height x "
        "width), 10 bits",
        *_length(data, source, frames),
    ]


def _length(data: bytes, source: tuple[int, int], frames: int) -> list[str]:
    rate = bpp(8 * len(data), frames * source[0] * source[1])
    return [f"{len(data)} bytes, {rate:.4f} bits per pixel of the source"]


def _vvc_feature(condition: TestCondition) -> VvcFeatureCodec:
    return VvcFeatureCodec(
        preset=condition.require("vvc_feature_preset"),
        value_range=_value_range(condition, "vvc_feature_range"),
        threads=condition.threads_per_job,
        random_access=condition.vvc_random_access,
    )


def _vvc_remote(condition: TestCondition) -> VvcRemoteCodec:
    return VvcRemoteCodec(
        preset=condition.require("vvc_remote_preset"),
        threads=condition.threads_per_job,
        random_access=condition.vvc_random_access,
    )


def _vtm_feature(condition: TestCondition) -> VvcFeatureCodec:
    return VvcFeatureCodec(value_range=_value_range(condition, "vtm_feature_range"), backend="vtm")


def _vtm_remote(_: TestCondition) -> VvcRemoteCodec:
    return VvcRemoteCodec(backend="vtm")


def _diff_fchm(condition: TestCondition) -> MachineCodec:
    if condition.diff_fchm_weights is None:
        raise InputError(
            f"test condition {condition.name}: diff_fchm needs weights for its detector, and it "
            "names none; train them with scripts/train_vfcn.py and name them in the key "
            "diff_fchm_weights"
        )
    from vcm_plugin.diff_fchm.machine.codec import (
        MachineCodec,  # compressai, which the anchors do without
    )

    codec = MachineCodec(Path(condition.bundled_path(condition.diff_fchm_weights)))
    if not condition.diff_fchm_other_detector:
        _check_detector(
            condition, condition.diff_fchm_weights, codec.metadata["detector_sha256"],
            ", or set diff_fchm_other_detector: true to test it on another",
        )  # fmt: skip
    return codec


def _msfc(condition: TestCondition) -> MsfcCodec:
    if condition.msfc_weights is None:
        raise InputError(
            f"test condition {condition.name}: msfc needs weights, and none are bundled; train "
            "them with scripts/train_msfc.py and name them in the key msfc_weights"
        )
    codec = MsfcCodec(
        Path(condition.bundled_path(condition.msfc_weights)),
        preset=condition.require("msfc_preset"),
        threads=condition.threads_per_job,
    )
    _check_detector(condition, condition.msfc_weights, codec.metadata["detector_sha256"])
    return codec


def _simulcast(condition: TestCondition) -> SimulcastCodec:
    return SimulcastCodec(_diff_fchm(condition), _vvc_remote(condition))


def _check_both(check_human: Callable[[str], Any]) -> Callable[[str], None]:
    def check(text: str) -> None:
        check_human(split_rate_point(text)[1])

    return check


def _check_detector(
    condition: TestCondition, codec_weights: str, trained_for: str, way_out: str = ""
) -> None:
    """Raise InputError where the condition's detector is not the one of a codec's training."""
    weights = condition.weights_path()
    if weights is None or not Path(weights).is_file():
        return
    found = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    if found != trained_for:
        raise InputError(
            f"{codec_weights} was trained for a detector with the SHA-256 {trained_for[:12]}, "
            f"{Path(weights).name} has {found[:12]}; name the weights of this detector{way_out}"
        )


def _value_range(condition: TestCondition, key: str) -> tuple[float, float] | None:
    """Feature values of the samples 0 and 1023; None where each picture has its own."""
    value = condition.require(key)
    if value == "picture":
        return None
    if isinstance(value, str) or len(value) != 2:
        raise InputError(f"{key}: expected picture or [low, high], found {value!r}")
    return value


CODECS = {
    "diff_fchm": CodecEntry(_diff_fchm, "diff_fchm_scales", check=parse_rate_point),
    "vvc_feature": CodecEntry(_vvc_feature, "vvc_feature_qps", None, "vvc_feature_preset"),
    "vvc_remote": CodecEntry(
        _vvc_remote, "vvc_remote_qps", "vvc_remote_sizes", "vvc_remote_preset"
    ),
    "diff_fchm_human": CodecEntry(
        human_codec, "diff_fchm_human_points", check=_check_both(parse_rate_point)
    ),
    "simulcast": CodecEntry(
        _simulcast,
        "simulcast_points",
        None,
        "vvc_remote_preset",
        _check_both(picture_codings),
    ),  # fmt: skip
    "msfc": CodecEntry(_msfc, "msfc_qps", None, "msfc_preset"),
    "vtm_feature": CodecEntry(_vtm_feature, "vtm_feature_qps"),
    "vtm_remote": CodecEntry(_vtm_remote, "vtm_remote_qps", "vtm_remote_sizes"),
}
