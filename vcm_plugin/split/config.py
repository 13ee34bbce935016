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

import yaml

from vcm_plugin.errors import InputError
from vcm_plugin.split.keys import FIXED, FIXED_MASK, IGNORED, IGNORED_SECTIONS, KEYS, TRAINING

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


def read_tree(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The nested keys of a Detectron2 YAML file, laid over those of its `_BASE_`."""
    path = path.expanduser().resolve()
    if path in seen:
        raise InputError(f"{path}: its _BASE_ leads back to itself; remove one of the _BASE_ lines")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable detector configuration: {reason}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected Detectron2's YAML (MODEL: ...), found {tree!r:.80}")
    base = tree.pop("_BASE_", None)
    if base is None:
        return tree
    return _overlay(read_tree(path.parent / Path(str(base)).expanduser(), (*seen, path)), tree)


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
                f"{name}: {key} is {found!r}; the torchvision runtime does {wanted} only: "
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
                f"{name}: {key}: expected a value such as {_thawed(field.default)}, found {value!r}"
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
    for key, found, expected, good in checks:
        if not good:
            raise InputError(f"{name}: {key}: expected {expected}, found {found!r}")
    return config


def _refuse_unknown(flat: dict[str, Any], name: str) -> None:
    """Raise where a key of a section that this file reads is none of Detectron2's."""
    known = {*FIXED, *FIXED_MASK, *IGNORED, *(key for key, _ in KEYS.values())}
    for key in flat:
        if key in known or any(key == s or key.startswith(s + ".") for s in IGNORED_SECTIONS):
            continue
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
        raise InputError(f"{name}: unknown key {key}; did you mean {nearest}?")


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
            except (ValueError, SyntaxError):
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
