# SPDX-License-Identifier: BSD-3-Clause
"""Which codecs there are by name, and how a test condition makes them.

A codec is one class with its Settings beside it: the keys that it reads from a condition, its
name, its kind, the grammar of its rate points, and `make`. Nothing about it stands elsewhere but
its line in CODECS and its name in the help (cli/options.py). Settings are read without torch, and
so without the networks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from anchors.auxiliary_learned import LearnedAuxiliarySettings
from anchors.fctm_like import FctmLikeSettings
from anchors.msfc import MsfcSettings
from anchors.picture_heads import LatentScalableSettings, MultiHeadSettings
from anchors.picture_learned import PictureLearnedSettings
from anchors.simulcast import SimulcastLearnedSettings, SimulcastSettings, is_fcm, is_simulcast
from anchors.simulcast import split as split_simulcast
from anchors.vvc_feature import VtmFeatureSettings, VvcFeatureSettings
from anchors.vvc_remote import VtmRemoteSettings, VvcRemoteSettings, source_size
from vcm_plugin import bitstream, rate_points, settings
from vcm_plugin.conditions import KEYS, TestCondition, read_condition
from vcm_plugin.conditions import override as override_unchecked
from vcm_plugin.ctc.qp_tables import index_of, is_label, load_qp_table
from vcm_plugin.diff_fchm.human.config import HumanSettings, PictureSettings
from vcm_plugin.diff_fchm.machine.config import MachineSettings
from vcm_plugin.environment import cfg_folder, require_device
from vcm_plugin.errors import BitstreamError, InputError, brief
from vcm_plugin.metrics.rate import bpp
from vcm_plugin.rate_points import Grammar
from vcm_plugin.split_points import SPLIT_POINTS
from vcm_plugin.vvc import PRESETS
from vcm_plugin.vvc.stream import START_CODES, access_units, read_format

if TYPE_CHECKING:
    from vcm_plugin.diff_fchm.human.restoration import Restoration


class Codec(Protocol):
    """Features (kind "feature") or a picture ("picture", "learned_picture") -> bytes -> the same.

    Codecs of kind "human" take both, and two rate points: encode(picture, features, rate_point,
    human_rate_point), decode(bytes) -> (features, picture); those of kind "heads" take the picture
    and give both. ctc/coding.py calls all kinds.

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


class Settings(Protocol):
    """A frozen dataclass whose fields are the keys that a codec reads from a test condition.

    points_key: the key of its rate points; sizes_key, preset_key: of sizes in percent and of the
    encoder's preset; weights_keys: of weights, with the part of crosscheck.package.weights_of that
    identifies them. batches: whether its codec has encode_batch and decode_batch, which take the
    pictures of one size through fewer processes. The last four are left out where a codec has none.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    grammar: ClassVar[Grammar]
    points_key: ClassVar[str]

    def make(self, context: Context) -> Codec:
        """The codec. Raises InputError where the condition does not say what it needs."""


CODECS: dict[str, type[Settings]] = {
    "diff_fchm": MachineSettings,
    "vvc_feature": VvcFeatureSettings,
    "vvc_remote": VvcRemoteSettings,
    "diff_fchm_picture": PictureSettings,
    "diff_fchm_learned": LearnedAuxiliarySettings,
    "diff_fchm_human": HumanSettings,
    "simulcast": SimulcastSettings,
    "msfc": MsfcSettings,
    "fctm_like": FctmLikeSettings,
    "picture_learned": PictureLearnedSettings,
    "latent_scalable": LatentScalableSettings,
    "multi_head": MultiHeadSettings,
    "simulcast_learned": SimulcastLearnedSettings,
    "vtm_feature": VtmFeatureSettings,
    "vtm_remote": VtmRemoteSettings,
}


# Unit of a layer for a person -> the codec that writes it.
LAYERS = {
    "human": "diff_fchm_human",
    "auxiliary_picture": "diff_fchm_picture",
    "learned_picture": "diff_fchm_learned",
}


@dataclass(frozen=True)
class Context:
    """What Settings.make may ask of the condition that makes a codec."""

    condition: TestCondition
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Of the condition."""
        return self.condition.name

    @property
    def threads(self) -> int:
        """Of torch and of an encoder, in one process."""
        return self.condition.threads_per_job

    def codec(self, name: str) -> Codec:
        """Another codec of the same condition."""
        return make_codec(name, self.condition, self.device)

    def restoration(self, weights: Path) -> Restoration:
        """The machine layer of the condition with a restorer of decoded pictures."""
        from vcm_plugin.diff_fchm.human.restoration import Restoration  # torch

        return Restoration(self.codec("diff_fchm"), weights, self.device)

    def path(self, name: str) -> Path:
        """A weights file or folder: bundled, beside the condition's file, or as it is."""
        return Path(self.condition.bundled_path(name))

    def weights(self, key: str, script: str, option: str = "") -> Path:
        """The path of the weights that a key of the condition names, which a script makes.

        option: of the command line, that names them too. Raises InputError where it names none.
        """
        name = self.condition.value(key)
        if name is None:
            also = option and f", or with {option}"
            raise InputError(
                f"test condition {self.name}: {key}: expected weights, found none; train them with "
                f"scripts/{script}.py and name them in the key {key}{also}"
            )
        return self.path(name)

    def require(self, *keys: str) -> None:
        """Raise InputError where the condition does not have these keys."""
        for key in keys:
            self.condition.require(key)

    @property
    def layers(self) -> list[str]:
        """Those of the condition's split point; none where it names no detector."""
        return list(SPLIT_POINTS[self.condition.split_point]) if self.condition.model else []

    def require_fpn(self, codec: str) -> None:
        """Raise InputError where a codec of p2..p5 would be given other layers."""
        if self.layers not in ([], list(SPLIT_POINTS["fpn"])):
            raise InputError(
                f"test condition {self.name}: {codec} codes the split point fpn, found "
                f"{self.condition.split_point} ({', '.join(self.layers)}); use the codec "
                "vvc_feature, or diff_fchm with weights for these layers"
            )

    def require_detector(self, weights: str, trained_for: str, way_out: str = "") -> None:
        """Raise InputError where the condition's detector is not the one of a codec's training.

        weights: of the codec. trained_for: sha256 of the detector's weights.
        """
        sha256 = self.condition.detector_sha256()
        if sha256 not in (None, trained_for):
            raise InputError(
                f"{weights} was trained for a detector with the SHA-256 {trained_for[:12]}, "
                f"{Path(self.condition.weights_path()).name} has {sha256[:12]}; name the weights "
                f"of this detector{way_out}"
            )


def settings_class(name: str) -> type[Settings]:
    """The Settings of a codec; raises InputError where there is none of this name."""
    if name not in CODECS:
        raise InputError(f"codec {name}: expected one of {', '.join(CODECS)}")
    return CODECS[name]


def make_codec(name: str, condition: TestCondition, device: str = "cpu") -> Codec:
    """A codec as a condition sets it up; raises InputError where it does not say what is needed, or
    torch does not have the device here."""
    if device != "cpu":
        require_device(device)
    known = settings_class(name)
    try:
        return condition.settings_of(known).make(Context(condition, device))
    except InputError as error:
        elsewhere = _with_weights_of(known, condition)
        if elsewhere is None:
            raise
        raise InputError(f"{error}; the condition {elsewhere} names bundled ones") from error


def _with_weights_of(known: type[Settings], condition: TestCondition) -> str | None:
    """A bundled condition of the same detector that names weights of a codec, where this condition
    lacks some."""
    keys = getattr(known, "weights_keys", {})
    if all(condition.value(key) is not None for key in keys):
        return None
    for path in sorted((cfg_folder() / "ctc").glob("*.yaml")):
        other = read_condition(path.stem)
        same = condition.weights in (None, other.weights)
        if same and all(other.value(key) is not None for key in keys):
            return path.stem
    return None


def load_codec(
    name: str,
    condition: TestCondition | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
) -> Codec:
    """A codec of a condition, or of weights alone: a file, or a bundled name.

    Raises InputError where the codec needs what neither says.

    >>> load_codec("diff_fchm", weights="minictc_vfcn").rate_points[:2]
    ['0.35', '0.7']
    """
    keys = list(getattr(settings_class(name), "weights_keys", {}))
    if condition is None and (weights is None or len(keys) != 1):
        needs = " or weights" if len(keys) == 1 else ""
        raise InputError(f"codec {name}: expected a condition{needs}, found none; pass one")
    if weights is not None and len(keys) != 1:
        raise InputError(f"codec {name}: expected its weights in the condition; leave out weights")
    condition = condition or TestCondition(
        name="of weights alone", model="", class_names=(), tasks=()
    )
    if weights is not None:
        condition = override_unchecked(condition, {keys[0]: str(weights)})
    return make_codec(name, condition, device)


def codec_rate_points(name: str, condition: TestCondition) -> list[str]:
    """The rate points of a codec that a condition lists, at every size.

    "32" is QP 32 at full size, "32@50" the same at half the height and width; "2.8+37" of a codec
    of two layers is the scale 2.8 for the machine and 37 for the person.
    """
    known = settings_class(name)
    if condition.qp_table and known.grammar in (rate_points.QP, rate_points.SIZED_QP):
        return load_qp_table(condition.qp_table).rate_points
    sizes_key = getattr(known, "sizes_key", "")
    sizes = condition.require(sizes_key) if sizes_key else (100,)
    where = f"test condition {condition.name}: {known.points_key}"
    return rate_points.checked(known.grammar, condition.require(known.points_key), where, sizes)


def default_rate_point(name: str, codec: Codec, condition: TestCondition) -> str:
    """The middle one of the presets in a codec's weights, else of those that a condition lists."""
    presets = getattr(codec, "rate_points", None)
    if not presets and condition.value(settings_class(name).points_key) is None:
        raise InputError(
            f"codec {name}: expected a rate point, found none, and none in the test condition "
            f"{condition.name}; give one with --rate-point"
        )
    presets = presets or codec_rate_points(name, condition)
    return presets[(len(presets) - 1) // 2]


def integer_qp(name: str, rate_point: str) -> int:
    """The integer QP that stands for a rate point of a codec, where rate points are QPs; of a table
    whose QPs differ from sequence to sequence, the number of the rate point from 0.

    >>> integer_qp("diff_fchm", "2"), integer_qp("vvc_remote", "32@50")
    (38, 32)
    """
    if is_label(rate_point):
        return index_of(rate_point)
    return settings_class(name).grammar.integer(rate_point)


def load_condition(name: str | Path) -> TestCondition:
    """Read a test condition: a name of cfg/ctc (such as `minictc`) or a path to a YAML file.

    Raises InputError for a key that neither the condition nor any codec has, naming the nearest.
    """
    return check_keys(read_condition(name), str(name))


def override(condition: TestCondition, changes: dict[str, Any]) -> TestCondition:
    """The condition with other values (conditions.override), its keys checked."""
    return check_keys(override_unchecked(condition, changes), f"test condition {condition.name}")


def check_keys(condition: TestCondition, where: str) -> TestCondition:
    """The condition with the values of its codec keys in the types of the codecs' Settings."""
    kinds = {key: kind for known in CODECS.values() for key, kind in _types(known)}
    settings.refuse_unknown(condition.codec_keys, {**dict.fromkeys(KEYS), **kinds}, where)
    checked = {
        key: settings.typed(key, value, kinds[key], where)
        for key, value in condition.codec_keys.items()
    }
    condition = replace(condition, codec_keys=checked)
    for known in CODECS.values():
        _check_codec(known, condition, where)
    return condition


def _check_codec(known: type[Settings], condition: TestCondition, where: str) -> None:
    """Raise InputError for rate points, sizes and presets that a codec does not know."""
    preset = condition.value(known.preset_key) if _has(known, "preset_key") else None
    if preset is not None and preset not in PRESETS:
        raise InputError(
            f"{where}: {known.preset_key}: expected one of {', '.join(PRESETS)}, "
            f"found {brief(preset)}"
        )
    if condition.value(known.points_key):
        sizes = condition.value(known.sizes_key) if _has(known, "sizes_key") else (100,)
        key = f"{where}: {known.points_key}"
        rate_points.checked(known.grammar, condition.value(known.points_key), key, sizes or (100,))


def _has(known: type[Settings], key: str) -> bool:
    return bool(getattr(known, key, ""))


def codec_keys() -> set[str]:
    """Every key of a test condition that some codec has."""
    return {key for known in CODECS.values() for key, _ in _types(known)}


def _types(known: type) -> Iterable[tuple[str, Any]]:
    return settings.types_of(known).items()


def codec_of(data: bytes) -> str:
    """The name of the codec that decodes a bitstream: as its .fcm header says, or a raw stream."""
    if not _is_fcm(data):
        return "vvc_remote"
    if not is_simulcast(data):
        return bitstream.read(data).header.profile
    return "simulcast_learned" if is_fcm(split_simulcast(data)[1]) else "simulcast"


def human_codec_of(data: bytes, condition: TestCondition) -> str:
    """The name of the codec that decodes what an .fcm file of profile diff_fchm has for a person;
    where it has nothing, of one that says so."""
    found = [codec for kind, codec in LAYERS.items() if kind in _unit_types(data)]
    return found[0] if found else default_human_codec(condition)


def shows_picture(data: bytes) -> bool:
    """Whether an .fcm file of profile diff_fchm has a layer for a person."""
    return bool(_unit_types(data) & LAYERS.keys())


def _unit_types(data: bytes) -> set[str]:
    return {unit.type for unit in bitstream.read(data).units}


def default_human_codec(condition: TestCondition) -> str:
    """The codec of a layer for a person: the auxiliary picture, where there is a restorer."""
    restorer = condition.value("diff_fchm_restorer_weights")
    return "diff_fchm_human" if restorer is None else "diff_fchm_picture"


def describe_bitstream(data: bytes) -> list[str]:
    """What a bitstream holds, in words, a line for each fact; reads every unit of an .fcm file."""
    if not _is_fcm(data):
        return _describe_raw(data)
    header = bitstream.read_header(data)[0]
    length = _length(data, header.source_size, header.frames)
    if header.frames == 1 and is_simulcast(data):
        machine, picture = split_simulcast(data)
        of_picture = bitstream.describe(picture) if is_fcm(picture) else _describe_raw(picture)[:2]
        layers = [*bitstream.describe(machine), *of_picture]
        return [f"two streams, one after the other ({codec_of(data)})", *layers, *length]
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
