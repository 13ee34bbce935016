# SPDX-License-Identifier: BSD-3-Clause
"""What a test condition says: one flat YAML file -> TestCondition.

The keys of codecs are kept as they are written: ctc/codecs.py, which knows the codecs, checks them
against the Settings of each.
"""

from __future__ import annotations

import dataclasses
import math
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from vcm_plugin import settings
from vcm_plugin.environment import PACKAGE, cfg_folder
from vcm_plugin.errors import InputError, brief
from vcm_plugin.files import refuse_other_downloads, sha256_of_file
from vcm_plugin.split_points import SPLIT_POINTS

T = typing.TypeVar("T")


@dataclass(frozen=True)
class TestCondition:
    """One test condition, key by key as in its YAML file; accuracy in percent.

    Every number may be followed by a `<key>_source` that says where it comes from; these notes are
    not read. The data set is either `minictc` (a split of the built-in test set) or `images` and
    `annotations`, relative to the YAML file or to the data root.
    """

    __test__: typing.ClassVar[bool] = False  # the name is no test of pytest

    name: str
    model: str
    class_names: tuple[str, ...]
    tasks: tuple[str, ...]
    minictc: str | None = None
    drawn_sequences: bool = False  # of the built-in test set, the sequences and not the pictures
    images: str | None = None
    annotations: str | None = None
    classes_by_position: bool = False  # class i is the i-th category, whatever it is called there
    sequences: tuple[str, ...] = ()  # class/name of each, in the order of the tables
    sequence_folder: str | None = None  # of a sequence, {} stands for its name
    sequence_frames: tuple[int, ...] = ()  # of each sequence, where the test conditions say so
    qp_table: str | None = None  # of cfg/qp_tables.yaml, in place of a VVC codec's own QPs
    limit: int | None = None  # pictures, or frames of each sequence
    protocol: str = "coco"  # how accuracy is measured: coco, open_images, semantic or tracking
    tracking_rules: str | None = None  # what of the ground truth is judged: mot16 or confident
    max_unlabelled_seconds: float = 2.0  # of tracking: in a row, without an object in gt.txt
    semantic_of_class: tuple[int, ...] = ()  # class that is judged of each class of the detector
    semantic_of_label: tuple[int, ...] = ()  # and of each label of the ground truth
    semantic_judged: tuple[int, ...] = ()  # those that the mean is taken over
    label_hierarchy: str | None = None  # of Open Images, where it is not expanded yet
    weights: str | None = None
    runtime: str = "auto"
    split_point: str = "fpn"
    threads_per_job: int = 1
    expected_box_ap: float | None = None
    expected_mask_ap: float | None = None
    expected_mota: float | None = None
    expected_tolerance: float | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    min_overlap: float = 0.0  # accuracy points that two curves share, for a BD-rate
    near_lossless: float | None = None  # accuracy points below uncompressed
    human_vision: bool = False  # also measure the decoded pictures
    overrides: tuple[str, ...] = ()  # what a command has changed in it, in words
    codec_keys: Mapping[str, typing.Any] = dataclasses.field(
        default_factory=dict, metadata={"key": False}
    )
    folder: Path = dataclasses.field(default=Path("."), compare=False, metadata={"key": False})

    def value(self, key: str) -> typing.Any:
        """Of any key, of the condition itself or of a codec; None where it is not set."""
        return getattr(self, key) if key in KEYS else self.codec_keys.get(key)

    def require(self, key: str) -> typing.Any:
        """The value of a key that a command needs; raises InputError where it is not set."""
        value = self.value(key)
        if value is None or value in ((), []):
            raise InputError(
                f"test condition {self.name}: expected the key {key}, found none; add it"
            )
        return value

    def settings_of(self, cls: type[T]) -> T:
        """What the condition says of one codec: the keys that its Settings have."""
        known = settings.types_of(cls)
        values = {key: value for key, value in self.codec_keys.items() if key in known}
        return settings.build(cls, values, f"test condition {self.name}")

    def detector_sha256(self) -> str | None:
        """sha256 of the detector's weights, where they are a file that is here.

        Raises InputError for what a failed download leaves: that is not another detector.
        """
        weights = self.weights_path()
        if weights is None or not Path(weights).is_file():
            return None
        with open(weights, "rb") as file:
            refuse_other_downloads(file.read(512), Path(weights), "a checkpoint")
        return sha256_of_file(Path(weights))

    def model_path(self) -> str:
        """The Detectron2 YAML of the detector: a name of cfg/models, a path or a model-zoo name."""
        return model_path(self._relative(self.model))

    def weights_path(self) -> str | None:
        """The checkpoint of the detector: a file of vcm_plugin/weights, a path or a URL."""
        return None if self.weights is None else self.bundled_path(self.weights)

    def bundled_path(self, name: str) -> str:
        """A weights file: of vcm_plugin/weights, or a path."""
        bundled = bundled_weights(name)
        return bundled if bundled != name else self._relative(name)

    def dataset_name(self) -> str:
        """What the test set is called in results; no path."""
        if self.minictc is not None:
            kind = "mini-CTC sequences" if self.drawn_sequences else "mini-CTC"
            kind = "mini-CTC tracking" if self.protocol == "tracking" else kind
            return f"{kind} {self.minictc}"
        if not self.tasks and self.annotations is None:
            return "/".join(Path(self.require("images")).parts[-2:])
        if self.sequences:
            return Path(self.require("sequence_folder")).parts[0]
        return "/".join(Path(self.require("annotations")).parts[-2:])

    def expected(self) -> dict[str, float]:
        """The uncompressed accuracy that the condition states for its tasks, in percent."""
        stated = {"box": self.expected_box_ap, "mask": self.expected_mask_ap}
        known = {task: value for task, value in stated.items() if value is not None}
        expected = {f"{task}_ap": value for task, value in known.items() if task in self.tasks}
        if self.expected_mota is not None:
            expected["mota"] = self.expected_mota
        return expected

    def _relative(self, name: str) -> str:
        beside = self.folder / Path(name).expanduser()
        return str(beside) if beside.exists() else name


CHANGED = "-changed"  # ends the name of a condition that a command made another test of
KEYS = tuple(settings.types_of(TestCondition))
# Lowest and highest value of each number, both allowed.
RANGES = {
    "limit": (1, math.inf),
    "threads_per_job": (1, 1024),
    "max_unlabelled_seconds": (0, math.inf),
    "score_threshold": (0, 1),
    "iou_threshold": (0.01, 1),
    "expected_box_ap": (0, 100),
    "expected_mask_ap": (0, 100),
    "expected_mota": (-math.inf, 100),
    "expected_tolerance": (0, 100),
    "min_overlap": (0, 100),
    "near_lossless": (0, 100),
}
# What each way to measure accuracy can judge.
TASKS = {"coco": ("box", "mask"), "open_images": ("box", "mask"), "semantic": ("semantic",),
         "tracking": ("track",)}  # fmt: skip


def model_path(name: str) -> str:
    """The path itself where it is a file, else the Detectron2 YAML of that name in cfg/models."""
    bundled = cfg_folder() / "models" / f"{name.removesuffix('.yaml')}.yaml"
    return str(bundled) if bundled.is_file() and not Path(name).is_file() else name


def bundled_weights(name: str) -> str:
    """The path of a file or folder of vcm_plugin/weights of this name, with or without its suffix,
    else the name itself."""
    for suffix in ("", ".safetensors", ".pth"):
        bundled = PACKAGE / "weights" / f"{name}{suffix}"
        if name and bundled.exists():
            return str(bundled)
    return name


def read_condition(name: str | Path) -> TestCondition:
    """A test condition whose codec keys nobody has checked; ctc.codecs.load_condition does."""
    path = _find(name)
    return build(settings.without_sources(settings.read_yaml(path, "test condition")), path)


def write_condition(condition: TestCondition, folder: Path) -> None:
    """Write folder/condition.yaml, which `load_condition` reads, without any absolute path.

    A detector's own configuration file is copied beside it; weights keep their file names, since
    they are known by their sha256, and the paths of pictures and annotations start at the folder
    that holds them both.
    """
    values = {key: getattr(condition, key) for key in KEYS}
    defaults = {field.name: field.default for field in dataclasses.fields(TestCondition)}
    values = {key: value for key, value in values.items() if value != defaults[key]}
    values |= condition.codec_keys
    model = Path(condition.model_path())
    if model.is_file() and model.parent != cfg_folder() / "models":
        values["model"] = "model.yaml"
        (folder / "model.yaml").write_bytes(model.read_bytes())
    for key, value in values.items():
        if key.endswith("weights") and "://" not in value:
            values[key] = Path(value).name
        elif key.endswith("_prior") and Path(value).is_absolute():  # else a name, or a hub id
            values[key] = Path(value).name
    values |= _relative_paths({k: values[k] for k in ("images", "annotations") if k in values})
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    (folder / "condition.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def _relative_paths(paths: dict[str, str]) -> dict[str, str]:
    """Paths of a data set from the folder above all of it on; two parts of each where it has none.

    The last two parts stay, since `dataset_name` is made of them.
    """
    found = {key: Path(path) for key, path in paths.items()}
    if not any(path.is_absolute() for path in found.values()):
        return paths
    common = Path(os.path.commonpath([path.absolute() for path in found.values()]))
    if len(found) == 1 or len(common.parts) < 3:  # above it is nothing that is the data set's own
        return {key: Path(*path.parts[-2:]).as_posix() for key, path in found.items()}
    start = common.parent
    return {key: path.absolute().relative_to(start).as_posix() for key, path in found.items()}


def override(condition: TestCondition, changes: dict[str, typing.Any]) -> TestCondition:
    """The condition with other values, None aside, and `overrides` that say what was changed.

    Where that makes it another test, its name says so and its expected accuracy goes.
    """
    changes = {key: value for key, value in changes.items() if value is not None}
    words = tuple(
        f"{key}: {_in_words(value)} in place of {_in_words(condition.value(key))}"
        for key, value in changes.items()
        if value != condition.value(key)
    )
    if {"images", "annotations", "minictc", "limit", "model", "weights"} & set(changes):
        changes |= {"expected_box_ap": None, "expected_mask_ap": None, "expected_mota": None}
        changes |= {"name": condition.name.removesuffix(CHANGED) + CHANGED}
    if {"images", "annotations"} & set(changes):
        changes |= {"minictc": None}
    return with_values(condition, changes | {"overrides": condition.overrides + words})


def with_values(condition: TestCondition, values: Mapping[str, typing.Any]) -> TestCondition:
    """The condition with other values of its own keys and of those of codecs; still the same test
    by its name."""
    own = {key: value for key, value in values.items() if key in KEYS}
    codec_keys = {key: value for key, value in values.items() if key not in KEYS}
    changed = dataclasses.replace(condition, **own, codec_keys=condition.codec_keys | codec_keys)
    check_values(changed, f"test condition {condition.name}")
    return changed


def _in_words(value: typing.Any) -> str:
    """A value of a key for a reader; of a path its last part, which names no machine."""
    if value is None or value == ():
        return "none"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_in_words, value))
    if isinstance(value, str) and "/" in value and "://" not in value:
        return Path(value).name
    return f"{value:g}" if isinstance(value, float) else str(value)


def _find(name: str | Path) -> Path:
    path = Path(name).expanduser()
    bundled = cfg_folder() / "ctc" / f"{name}.yaml"
    if path.suffix not in (".yaml", ".yml") and bundled.is_file():
        return bundled
    if path.is_file():
        return path
    known = ", ".join(sorted(p.stem for p in (cfg_folder() / "ctc").glob("*.yaml")))
    raise InputError(f"test condition {name}: expected one of {known}, or a path to a YAML file")


def build(values: Mapping[str, typing.Any], where: Path) -> TestCondition:
    """The condition of these keys; those that are none of KEYS are kept as those of codecs."""
    own = {key: value for key, value in values.items() if key in KEYS}
    condition = settings.build(TestCondition, own, where)
    check_values(condition, str(where))
    codec_keys = {key: value for key, value in values.items() if key not in KEYS}
    return dataclasses.replace(condition, codec_keys=codec_keys, folder=where.parent)


def check_values(condition: TestCondition, where: str) -> None:
    """Raise InputError, naming file and key, for a value of the right type that makes no sense."""
    for key, (low, high) in RANGES.items():
        value = getattr(condition, key)
        if value is not None and not low <= value <= high:
            most = f" to {high:g}" if math.isfinite(high) else " on"
            raise InputError(
                f"{where}: {key}: expected a number from {low:g}{most}, found {value!r}"
            )
    tasks = TASKS.get(condition.protocol, ())
    choices = {
        "protocol": ((condition.protocol,), tuple(TASKS)),
        "runtime": ((condition.runtime,), ("auto", "detectron2", "torchvision")),
        "split_point": ((condition.split_point,), tuple(SPLIT_POINTS)),
        "minictc": (filter(None, (condition.minictc,)), ("train", "val", "test")),
        "tasks": (condition.tasks, tasks),
    }
    for key, (found, allowed) in choices.items():
        for value in found:
            if value not in allowed:
                wanted = ", ".join(allowed)
                raise InputError(f"{where}: {key}: expected one of {wanted}, found {brief(value)}")
    if condition.protocol == "semantic" and not condition.sequences:
        raise InputError(f"{where}: sequences: expected some for protocol semantic, found none")
    if condition.protocol == "tracking":
        _check_tracking(condition, where)
    for key in ("tasks", "sequences", "class_names"):
        _check_names(key, getattr(condition, key), where)
    for name in (condition.name, *condition.sequences, *filter(None, [condition.sequence_folder])):
        _check_stays_inside(name, where)
    if "/" in condition.name or "\\" in condition.name:
        raise InputError(f"{where}: name: expected no folder, found {brief(condition.name)}")


def _check_tracking(condition: TestCondition, where: str) -> None:
    """What a condition of tracking needs beside what all of them do."""
    if not condition.sequences and condition.minictc is None:
        raise InputError(f"{where}: sequences: expected some for protocol tracking, found none")
    if condition.tracking_rules not in ("mot16", "confident"):
        raise InputError(
            f"{where}: tracking_rules: expected mot16 or confident, found "
            f"{brief(condition.tracking_rules)}"
        )
    frames = condition.sequence_frames
    if frames and len(frames) != len(condition.sequences):
        raise InputError(
            f"{where}: sequence_frames: expected one count for each of {len(condition.sequences)} "
            f"sequences, found {len(frames)}"
        )


def _check_names(key: str, names: typing.Sequence[str], where: str) -> None:
    """Names are text of one line, and no two are alike, as categories are compared."""
    for name in names:
        if not name.strip() or not name.isprintable():
            raise InputError(f"{where}: {key}: expected names of one line, found {brief(name)}")
    alike = [name.strip().lower() for name in names]
    twice = next((name for name in alike if alike.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{where}: {key}: expected each name once, found {brief(twice)} twice")


def _check_stays_inside(name: str, where: str) -> None:
    """Names that become folders do not lead out of the one that they belong to."""
    parts = name.replace("\\", "/").split("/")
    good = name.strip() and name.isprintable() and len(name) < 200
    if not good or name.startswith("/") or {"..", "."} & set(parts) or ":" in parts[0]:
        raise InputError(f"{where}: expected a name inside its folder, found {brief(name)}")
