# SPDX-License-Identifier: BSD-3-Clause
"""What a test condition says: one flat YAML file -> TestCondition."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path

import yaml

from vcm_plugin.environment import PACKAGE, cfg_folder
from vcm_plugin.errors import InputError


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
    images: str | None = None
    annotations: str | None = None
    classes_by_position: bool = False  # class i is the i-th category, whatever it is called there
    sequences: tuple[str, ...] = ()  # class/name of each, in the order of the tables
    sequence_folder: str | None = None  # of a sequence, {} stands for its name
    limit: int | None = None  # pictures, or frames of each sequence
    protocol: str = "coco"  # how accuracy is measured: coco, open_images or semantic
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
    expected_tolerance: float | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    min_overlap: float = 0.0  # accuracy points that two curves share, for a BD-rate
    near_lossless: float | None = None  # accuracy points below uncompressed
    human_vision: bool = False  # also measure the decoded pictures
    diff_fchm_weights: str | None = None
    diff_fchm_scales: tuple[float, ...] = ()
    diff_fchm_other_detector: bool = False
    diff_fchm_human_weights: str | None = None  # a folder that scripts/train_hvcn.py wrote
    diff_fchm_human_prior: str | None = None  # folder or hub id, where it is not in that folder
    diff_fchm_human_points: tuple[str, ...] = ()  # "S+Q": scale s and the step of the human layer
    simulcast_points: tuple[str, ...] = ()  # "S+QP" or "S+QP@percent"
    vvc_random_access: bool = False  # of sequences; all-intra otherwise
    vvc_feature_qps: tuple[int, ...] = ()
    vvc_feature_preset: str | None = None
    vvc_feature_range: str | tuple[float, ...] | None = None
    msfc_weights: str | None = None
    msfc_qps: tuple[int, ...] = ()
    msfc_preset: str | None = None
    vvc_remote_qps: tuple[int, ...] = ()
    vvc_remote_sizes: tuple[int, ...] = ()
    vvc_remote_preset: str | None = None
    vtm_feature_qps: tuple[int, ...] = ()
    vtm_feature_range: str | tuple[float, ...] | None = None
    vtm_remote_qps: tuple[int, ...] = ()
    vtm_remote_sizes: tuple[int, ...] = ()
    folder: Path = dataclasses.field(default=Path("."), compare=False)

    def require(self, key: str) -> typing.Any:
        """The value of a key that a command needs; raises InputError where it is not set."""
        value = getattr(self, key)
        if value is None or value == ():
            raise InputError(
                f"test condition {self.name}: expected the key {key}, found none; add it"
            )
        return value

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
            return f"mini-CTC {self.minictc}"
        if not self.tasks and self.annotations is None:
            return "/".join(Path(self.require("images")).parts[-2:])
        if self.sequences:
            return Path(self.require("sequence_folder")).parts[0]
        return "/".join(Path(self.require("annotations")).parts[-2:])

    def expected(self) -> dict[str, float]:
        """The uncompressed accuracy that the condition states for its tasks, in percent."""
        stated = {"box": self.expected_box_ap, "mask": self.expected_mask_ap}
        known = {task: value for task, value in stated.items() if value is not None}
        return {f"{task}_ap": value for task, value in known.items() if task in self.tasks}

    def _relative(self, name: str) -> str:
        beside = self.folder / Path(name).expanduser()
        return str(beside) if beside.exists() else name


_TYPES = typing.get_type_hints(TestCondition)
KEYS = tuple(field.name for field in dataclasses.fields(TestCondition) if field.name != "folder")


def model_path(name: str) -> str:
    """The path itself where it is a file, else the Detectron2 YAML of that name in cfg/models."""
    bundled = cfg_folder() / "models" / f"{name.removesuffix('.yaml')}.yaml"
    return str(bundled) if bundled.is_file() and not Path(name).is_file() else name


def bundled_weights(name: str) -> str:
    """The path of a file or folder of vcm_plugin/weights of this name, else the name itself."""
    bundled = PACKAGE / "weights" / name
    return str(bundled) if bundled.exists() else name


def load_condition(name: str | Path) -> TestCondition:
    """Read a test condition: a name of cfg/ctc (such as `minictc`) or a path to a YAML file."""
    path = _find(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable test condition: {reason}") from error
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: expected a YAML of keys such as name and model, found {values!r}"
        )
    values = {key: value for key, value in values.items() if not str(key).endswith("_source")}
    return build(values, path)


def write_condition(condition: TestCondition, folder: Path) -> None:
    """Write folder/condition.yaml, which `load_condition` reads, without any absolute path.

    A detector's own configuration file is copied beside it; weights keep their file names, since
    they are known by their sha256, and the paths of pictures and annotations start at the folder
    that holds them both.
    """
    values = {key: getattr(condition, key) for key in KEYS}
    defaults = {field.name: field.default for field in dataclasses.fields(TestCondition)}
    values = {key: value for key, value in values.items() if value != defaults[key]}
    model = Path(condition.model_path())
    if model.is_file() and model.parent != cfg_folder() / "models":
        values["model"] = "model.yaml"
        (folder / "model.yaml").write_bytes(model.read_bytes())
    for key in ("weights", "diff_fchm_weights", "diff_fchm_human_weights", "msfc_weights"):
        if key in values and "://" not in values[key]:
            values[key] = Path(values[key]).name
    if Path(values.get("diff_fchm_human_prior", "")).is_absolute():  # else a name, or a hub id
        values["diff_fchm_human_prior"] = Path(values["diff_fchm_human_prior"]).name
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
    """The condition with other values, None aside.

    Where that makes it another test, its name says so and its expected accuracy goes.
    """
    changes = {key: value for key, value in changes.items() if value is not None}
    if {"images", "annotations", "minictc", "limit", "model", "weights"} & set(changes):
        changes |= {"expected_box_ap": None, "expected_mask_ap": None}
        changes |= {"name": condition.name.removesuffix("-changed") + "-changed"}
    if {"images", "annotations"} & set(changes):
        changes |= {"minictc": None}
    return dataclasses.replace(condition, **changes)


def _find(name: str | Path) -> Path:
    path = Path(name).expanduser()
    bundled = cfg_folder() / "ctc" / f"{name}.yaml"
    if path.suffix not in (".yaml", ".yml") and bundled.is_file():
        return bundled
    if path.is_file():
        return path
    known = ", ".join(sorted(p.stem for p in (cfg_folder() / "ctc").glob("*.yaml")))
    raise InputError(f"test condition {name}: expected one of {known}, or a path to a YAML file")


def build(values: dict[str, typing.Any], path: Path) -> TestCondition:
    """The condition of these keys; raises InputError, naming `path`, where one is none of KEYS."""
    for key in values:
        if key not in KEYS:
            nearest = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.0)[0]
            raise InputError(f"{path}: unknown key {key}; did you mean {nearest}?")
    for field in dataclasses.fields(TestCondition):
        required = field.default is dataclasses.MISSING
        if required and field.name not in values:
            raise InputError(f"{path}: expected the key {field.name}, found none; add it")
    checked = {key: _checked(key, value, _TYPES[key], path) for key, value in values.items()}
    return TestCondition(**checked, folder=path.parent)


def _checked(key: str, value: typing.Any, kind: typing.Any, path: Path) -> typing.Any:
    """The value as the type of its field; a list becomes a tuple, a float may be an integer."""
    for option in typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        if typing.get_origin(option) is tuple:
            item = typing.get_args(option)[0]
            if isinstance(value, list) and all(is_of_kind(v, item) for v in value):
                return tuple(item(v) for v in value)
        elif is_of_kind(value, option):
            return option(value) if option is not types.NoneType else None
    wanted = kind.__name__ if isinstance(kind, type) else str(kind)
    wanted = wanted.replace("tuple[", "list[").replace(", ...", "").replace("None", "null")
    raise InputError(f"{path}: {key}: expected {wanted}, found {value!r}")


def is_of_kind(value: typing.Any, kind: type) -> bool:
    """Whether a value of a YAML file can stand for a field of this type."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
