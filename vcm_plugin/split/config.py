# SPDX-License-Identifier: BSD-3-Clause
"""Which values of a Detectron2 configuration define a detector: YAML file -> DetectorConfig.

The file format is Detectron2's own, so one file serves both runtimes. Keys that a file does not
name take Detectron2's defaults. Values that only Detectron2 itself can honour (deformable
convolutions, cascades, group normalisation, ...) are refused here with the key that asks for them.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vcm_plugin.errors import InputError, brief
from vcm_plugin.settings import read_yaml
from vcm_plugin.split.keys import FIXED, FIXED_MASK, IGNORED, IGNORED_SECTIONS, KEYS, TRAINING

MOST_BASES = 30  # files that one configuration is laid over
NUM_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


@dataclass(frozen=True)
class DetectorConfig:
    """A Faster or Mask R-CNN on a ResNet FPN, value by value; sizes are pixels of the input."""

    num_classes: int = 80
    mask_on: bool = False
    # Picture -> network input.
    input_format: str = "BGR"
    pixel_mean: tuple[float, ...] = (103.53, 116.28, 123.675)
    pixel_std: tuple[float, ...] = (1.0, 1.0, 1.0)
    min_size_test: int = 800
    max_size_test: int = 1333
    # ResNet and FPN.
    depth: int = 50
    stem_out_channels: int = 64
    res2_out_channels: int = 256
    num_groups: int = 1
    width_per_group: int = 64
    stride_in_1x1: bool = True
    norm: str = "FrozenBN"
    fpn_channels: int = 256
    # Anchors, one entry per level p2..p6, and the region proposal network.
    anchor_sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    anchor_ratios: tuple[tuple[float, ...], ...] = ((0.5, 1.0, 2.0),) * 5
    anchor_offset: float = 0.0
    rpn_box_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    rpn_pre_nms_topk_train: int = 12000  # per level
    rpn_pre_nms_topk_test: int = 6000
    rpn_post_nms_topk_train: int = 2000  # per picture
    rpn_post_nms_topk_test: int = 1000
    rpn_nms_thresh: float = 0.7
    rpn_min_size: int = 0
    rpn_iou_thresholds: tuple[float, float] = (0.3, 0.7)
    rpn_batch_size: int = 256
    rpn_positive_fraction: float = 0.5
    # Box head.
    box_fc_dim: int = 1024
    box_pool_resolution: int = 7
    box_pool_sampling: int = 0
    box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    roi_iou_thresholds: tuple[float] = (0.5,)
    roi_batch_size: int = 512
    roi_positive_fraction: float = 0.25
    score_thresh: float = 0.05
    nms_thresh: float = 0.5
    detections_per_image: int = 100
    # Mask head.
    mask_num_conv: int = 4
    mask_conv_dim: int = 256
    mask_pool_resolution: int = 14
    mask_pool_sampling: int = 0

    @property
    def num_blocks(self) -> tuple[int, int, int, int]:
        """Residual blocks in res2..res5."""
        return NUM_BLOCKS[self.depth]

    def sha256(self) -> str:
        """Hash of the values that affect inference, wherever they were read from."""
        values = {name: v for name, v in asdict(self).items() if name not in TRAINING}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_config(path: str | Path) -> DetectorConfig:
    """Read a Detectron2 YAML file, `_BASE_` files included.

    Raises InputError where it is unreadable, holds an unknown key, or asks for an architecture
    that only Detectron2 itself does.
    """
    return from_tree(read_tree(Path(path)), str(path))


def read_tree(path: Path, fetched: bool = False) -> dict[str, Any]:
    """The nested keys of a Detectron2 YAML file, laid over those of its `_BASE_`.

    fetched: a `_BASE_` that is an address is left to Detectron2, which fetches it; otherwise it is
    refused. Raises InputError too where a key stands twice.
    """
    return _read_tree(path, fetched, (), [])


def _read_tree(
    path: Path, fetched: bool, above: tuple[Path, ...], read: list[Path]
) -> dict[str, Any]:
    """above: the files that name this one as their base; read: all that were read so far."""
    path = path.expanduser().resolve()
    read.append(path)
    if path in above or len(read) > MOST_BASES:
        raise InputError(f"{path}: its _BASE_ leads back to itself, or to more than "
                         f"{MOST_BASES} files; remove one of the _BASE_ lines")  # fmt: skip
    tree = read_yaml(path, "detector configuration")
    bases = tree.pop("_BASE_", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:  # each over those before it
        if not isinstance(base, str) or not base:
            raise InputError(f"{path}: _BASE_: expected a file or a list of files, "
                             f"found {brief(bases)}")  # fmt: skip
        if "://" not in base:
            below = _read_tree(path.parent / Path(base).expanduser(), fetched, (*above, path), read)
            merged = _overlay(merged, below)
        elif not fetched:
            raise InputError(
                f"{path}: _BASE_: expected a file, found the address {brief(base)}; download it "
                "and name the file, or use runtime: detectron2"
            )
    return _overlay(merged, tree)


def from_tree(tree: dict[str, Any], name: str) -> DetectorConfig:
    """The values of a nested Detectron2 configuration; `name` stands in the error messages."""
    flat = dict(_flatten(tree))
    _refuse_unknown(flat, name)
    fixed = {**FIXED, **(FIXED_MASK if flat.get("MODEL.MASK_ON") else {})}
    for key, (default, allowed) in fixed.items():
        found = flat.get(key, default)
        if found not in allowed:
            wanted = " or ".join(repr(value) for value in allowed)
            raise InputError(
                f"{name}: {key} is {brief(found)}; the torchvision runtime does {wanted} only: "
                "use runtime: detectron2"
            )
    values = {}
    for field in fields(DetectorConfig):
        key, default = KEYS[field.name]
        value = flat.get(key, default)
        if field.name.startswith("anchor_") and isinstance(value, list):
            value = _per_level(value)
        try:
            values[field.name] = _typed(value, field.default)
        except TypeError as error:
            raise InputError(
                f"{name}: {key}: expected a value such as {_thawed(field.default)}, found "
                f"{brief(value)}"
            ) from error
    return _checked(DetectorConfig(**values), name)


def to_tree(config: DetectorConfig) -> dict[str, Any]:
    """The nested Detectron2 configuration that says what `config` says."""
    flat = {key: _thawed(getattr(config, field)) for field, (key, _) in KEYS.items()}
    flat.update({key: allowed[-1] for key, (_, allowed) in {**FIXED, **FIXED_MASK}.items()})
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return tree


def _checked(config: DetectorConfig, name: str) -> DetectorConfig:
    """Refuse values of the right type that name no architecture."""
    levels = list(zip(config.anchor_sizes, config.anchor_ratios, strict=False))
    checks = [
        ("MODEL.RESNETS.DEPTH", config.depth, sorted(NUM_BLOCKS), config.depth in NUM_BLOCKS),
        (
            "MODEL.RESNETS.NORM",
            config.norm,
            "BN or FrozenBN, or runtime: detectron2",
            config.norm in ("FrozenBN", "BN", "SyncBN"),
        ),
        ("INPUT.FORMAT", config.input_format, "BGR or RGB", config.input_format in ("BGR", "RGB")),
        (
            "MODEL.ANCHOR_GENERATOR.SIZES",
            _thawed(config.anchor_sizes),
            "1 or 5 lists (p2..p6), all with as many anchors",
            len(config.anchor_sizes) == len(config.anchor_ratios) == 5
            and len({len(sizes) * len(ratios) for sizes, ratios in levels}) == 1,
        ),
        ("MODEL.PIXEL_MEAN", config.pixel_mean, "3 channels", len(config.pixel_mean) == 3),
        (
            "MODEL.PIXEL_STD",
            config.pixel_std,
            "3 channels, none of them 0",
            len(config.pixel_std) == 3 and all(config.pixel_std),
        ),
    ]
    checks += _number_checks(config)
    for key, found, expected, good in checks:
        if not good:
            raise InputError(f"{name}: {key}: expected {expected}, found {brief(found)}")
    return config


def _number_checks(config: DetectorConfig) -> list[tuple[str, Any, str, bool]]:
    """Key, value, what is expected, and whether the value is that."""
    shares = {
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": config.score_thresh,
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": config.nms_thresh,
        "MODEL.RPN.NMS_THRESH": config.rpn_nms_thresh,
    }
    counts = {
        "INPUT.MIN_SIZE_TEST": config.min_size_test or 1,  # 0: no resize
        "INPUT.MAX_SIZE_TEST": config.max_size_test,
        "MODEL.ROI_HEADS.NUM_CLASSES": config.num_classes,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": config.rpn_pre_nms_topk_test,
        "MODEL.RPN.POST_NMS_TOPK_TEST": config.rpn_post_nms_topk_test,
    }
    return [
        *((key, value, "a number from 0 to 1", 0 <= value <= 1) for key, value in shares.items()),
        *((key, value, "a whole number from 1 on", value >= 1) for key, value in counts.items()),
    ]


def _refuse_unknown(flat: dict[str, Any], name: str) -> None:
    """Raise where a key of a section that this file reads is none of Detectron2's."""
    known = {*FIXED, *FIXED_MASK, *IGNORED, *(key for key, _ in KEYS.values())}
    for key in flat:
        if key in known or any(key == s or key.startswith(s + ".") for s in IGNORED_SECTIONS):
            continue
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
        raise InputError(f"{name}: unknown key {key[:99]}; did you mean {nearest}?")


def _per_level(value: list[Any]) -> list[Any]:
    """One entry per level p2..p6, as Detectron2 broadcasts them."""
    if value and not isinstance(value[0], (list, tuple)):
        value = [value]
    return value * 5 if len(value) == 1 else value


def _typed(value: Any, like: Any) -> Any:
    """`value` as the type of `like`: lists become tuples, whole numbers floats where floats are."""
    if isinstance(like, tuple):
        if not isinstance(value, (list, tuple)):
            raise TypeError
        return tuple(_typed(v, like[0]) for v in value)
    if type(like) is float and type(value) is int:
        if abs(value) >= 1 << 53:
            raise TypeError
        return float(value)
    if type(value) is not type(like):
        raise TypeError
    return value


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; strings such as "(0.5, 1.0)" are read as Detectron2 reads them."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
            continue
        if isinstance(value, str):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                pass
        yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`top` laid over `base`, section by section."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def _thawed(value: Any) -> Any:
    return [_thawed(v) for v in value] if isinstance(value, tuple) else value
