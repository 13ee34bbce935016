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
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from vcm_plugin.errors import InputError

NUM_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


@dataclass(frozen=True)
class DetectorConfig:
    """A Faster or Mask R-CNN on a ResNet FPN, value by value; sizes in pixels of the network input.

    Pairs (train, test) hold what differs between training and inference.
    """

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
    rpn_pre_nms_topk: tuple[int, int] = (12000, 6000)  # (train, test), per level
    rpn_post_nms_topk: tuple[int, int] = (2000, 1000)  # (train, test), per picture
    rpn_nms_thresh: float = 0.7
    rpn_min_size: float = 0.0
    rpn_iou_thresholds: tuple[float, float] = (0.3, 0.7)
    rpn_batch_size: int = 256
    rpn_positive_fraction: float = 0.5
    # Box head.
    box_fc_dim: int = 1024
    box_pool_resolution: int = 7
    box_pool_sampling: int = 0
    box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    roi_iou_threshold: float = 0.5
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
        """Hash of the values, wherever they were read from."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


# Field of DetectorConfig -> key of Detectron2 (a pair of keys for train and test), and
# Detectron2's default of that key.
_KEYS: dict[str, tuple[Any, Any]] = {
    "num_classes": ("MODEL.ROI_HEADS.NUM_CLASSES", 80),
    "mask_on": ("MODEL.MASK_ON", False),
    "input_format": ("INPUT.FORMAT", "BGR"),
    "pixel_mean": ("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675]),
    "pixel_std": ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]),
    "min_size_test": ("INPUT.MIN_SIZE_TEST", 800),
    "max_size_test": ("INPUT.MAX_SIZE_TEST", 1333),
    "depth": ("MODEL.RESNETS.DEPTH", 50),
    "stem_out_channels": ("MODEL.RESNETS.STEM_OUT_CHANNELS", 64),
    "res2_out_channels": ("MODEL.RESNETS.RES2_OUT_CHANNELS", 256),
    "num_groups": ("MODEL.RESNETS.NUM_GROUPS", 1),
    "width_per_group": ("MODEL.RESNETS.WIDTH_PER_GROUP", 64),
    "stride_in_1x1": ("MODEL.RESNETS.STRIDE_IN_1X1", True),
    "norm": ("MODEL.RESNETS.NORM", "FrozenBN"),
    "fpn_channels": ("MODEL.FPN.OUT_CHANNELS", 256),
    "anchor_sizes": ("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64, 128, 256, 512]]),
    "anchor_ratios": ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 2.0]]),
    "anchor_offset": ("MODEL.ANCHOR_GENERATOR.OFFSET", 0.0),
    "rpn_box_weights": ("MODEL.RPN.BBOX_REG_WEIGHTS", [1.0, 1.0, 1.0, 1.0]),
    "rpn_pre_nms_topk": (
        ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "MODEL.RPN.PRE_NMS_TOPK_TEST"), (12000, 6000)
    ),
    "rpn_post_nms_topk": (
        ("MODEL.RPN.POST_NMS_TOPK_TRAIN", "MODEL.RPN.POST_NMS_TOPK_TEST"), (2000, 1000)
    ),
    "rpn_nms_thresh": ("MODEL.RPN.NMS_THRESH", 0.7),
    "rpn_min_size": ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 0),
    "rpn_iou_thresholds": ("MODEL.RPN.IOU_THRESHOLDS", [0.3, 0.7]),
    "rpn_batch_size": ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 256),
    "rpn_positive_fraction": ("MODEL.RPN.POSITIVE_FRACTION", 0.5),
    "box_fc_dim": ("MODEL.ROI_BOX_HEAD.FC_DIM", 1024),
    "box_pool_resolution": ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14),
    "box_pool_sampling": ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 0),
    "box_weights": ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [10.0, 10.0, 5.0, 5.0]),
    "roi_iou_threshold": ("MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.5]),
    "roi_batch_size": ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 512),
    "roi_positive_fraction": ("MODEL.ROI_HEADS.POSITIVE_FRACTION", 0.25),
    "score_thresh": ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05),
    "nms_thresh": ("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.5),
    "detections_per_image": ("TEST.DETECTIONS_PER_IMAGE", 100),
    "mask_num_conv": ("MODEL.ROI_MASK_HEAD.NUM_CONV", 0),
    "mask_conv_dim": ("MODEL.ROI_MASK_HEAD.CONV_DIM", 256),
    "mask_pool_resolution": ("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14),
    "mask_pool_sampling": ("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 0),
}

# Key -> (Detectron2's default, the values that mean what the torchvision runtime does).
_RES = ["res2", "res3", "res4", "res5"]
_FPN = ["p2", "p3", "p4", "p5"]
_FIXED: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN", ("GeneralizedRCNN",)),
    "MODEL.KEYPOINT_ON": (False, (False,)),
    "MODEL.LOAD_PROPOSALS": (False, (False,)),
    "MODEL.BACKBONE.NAME": (
        "build_resnet_backbone", ("build_resnet_fpn_backbone", "build_vcm_resnet_fpn_backbone")
    ),
    "MODEL.RESNETS.OUT_FEATURES": (["res4"], (_RES,)),
    "MODEL.RESNETS.RES5_DILATION": (1, (1,)),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ([False] * 4, ([False] * 4,)),
    "MODEL.FPN.IN_FEATURES": ([], (_RES,)),
    "MODEL.FPN.NORM": ("", ("",)),
    "MODEL.FPN.FUSE_TYPE": ("sum", ("sum",)),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN", ("RPN",)),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator", ("DefaultAnchorGenerator",)),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead", ("StandardRPNHead",)),
    "MODEL.RPN.IN_FEATURES": (["res4"], (_FPN + ["p6"],)),
    "MODEL.RPN.CONV_DIMS": ([-1], ([-1],)),
    "MODEL.ROI_HEADS.NAME": ("Res5ROIHeads", ("StandardROIHeads",)),
    "MODEL.ROI_HEADS.IN_FEATURES": (["res4"], (_FPN,)),
    "MODEL.ROI_BOX_HEAD.NAME": ("", ("FastRCNNConvFCHead",)),
    "MODEL.ROI_BOX_HEAD.NUM_FC": (0, (2,)),
    "MODEL.ROI_BOX_HEAD.NUM_CONV": (0, (0,)),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", ("ROIAlignV2",)),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": (False, (False,)),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False, (False,)),
}
_FIXED_MASK: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead", ("MaskRCNNConvUpsampleHead",)),
    "MODEL.ROI_MASK_HEAD.NORM": ("", ("",)),
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": (False, (False,)),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIAlignV2", ("ROIAlignV2",)),
}

# Keys of MODEL and INPUT that change nothing at inference, or only heads that _FIXED refuses.
_IGNORED = (
    "MODEL.WEIGHTS MODEL.DEVICE MODEL.BACKBONE.FREEZE_AT MODEL.RESNETS.DEFORM_MODULATED "
    "MODEL.RESNETS.DEFORM_NUM_GROUPS MODEL.ANCHOR_GENERATOR.ANGLES MODEL.RPN.BOUNDARY_THRESH "
    "MODEL.RPN.IOU_LABELS MODEL.RPN.BBOX_REG_LOSS_TYPE MODEL.RPN.BBOX_REG_LOSS_WEIGHT "
    "MODEL.RPN.SMOOTH_L1_BETA MODEL.RPN.LOSS_WEIGHT MODEL.ROI_HEADS.IOU_LABELS "
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE "
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA "
    "MODEL.ROI_BOX_HEAD.CONV_DIM MODEL.ROI_BOX_HEAD.NORM MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES "
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER "
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES INPUT.MIN_SIZE_TRAIN INPUT.MAX_SIZE_TRAIN "
    "INPUT.MIN_SIZE_TRAIN_SAMPLING INPUT.RANDOM_FLIP INPUT.MASK_FORMAT"
).split()
_IGNORED_SECTIONS = (
    "INPUT.CROP MODEL.ROI_BOX_CASCADE_HEAD MODEL.ROI_KEYPOINT_HEAD MODEL.SEM_SEG_HEAD "
    "MODEL.PANOPTIC_FPN MODEL.RETINANET SOLVER DATASETS DATALOADER GLOBAL TEST VERSION SEED "
    "OUTPUT_DIR CUDNN_BENCHMARK VIS_PERIOD FLOAT32_PRECISION"
).split()


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
        raise InputError(f"{path}: expected a Detectron2 YAML of keys such as MODEL, found {tree!r}")
    base = tree.pop("_BASE_", None)
    if base is None:
        return tree
    return _overlay(read_tree(path.parent / Path(str(base)).expanduser(), (*seen, path)), tree)


def from_tree(tree: dict[str, Any], name: str) -> DetectorConfig:
    """The values of a nested Detectron2 configuration; `name` stands in the error messages."""
    flat = dict(_flatten(tree))
    _refuse_unknown(flat, name)
    mask_on = flat.get("MODEL.MASK_ON", False)
    for key, (default, allowed) in {**_FIXED, **(_FIXED_MASK if mask_on else {})}.items():
        found = flat.get(key, default)
        if found not in allowed:
            wanted = " or ".join(repr(value) for value in allowed)
            raise InputError(
                f"{name}: {key} is {found!r}; the torchvision runtime does {wanted} only: "
                "use runtime: detectron2"
            )
    values = {}
    for field, (key, default) in _KEYS.items():
        if isinstance(key, tuple):
            values[field] = tuple(flat.get(k, d) for k, d in zip(key, default))
        else:
            values[field] = _frozen(flat.get(key, default))
    values["roi_iou_threshold"] = values["roi_iou_threshold"][0]
    for field in ("anchor_sizes", "anchor_ratios"):
        values[field] = _per_level(values[field], field, name)
    return _checked(DetectorConfig(**values), name)


def to_tree(config: DetectorConfig) -> dict[str, Any]:
    """The nested Detectron2 configuration that says what `config` says."""
    flat: dict[str, Any] = {}
    for field, (key, _) in _KEYS.items():
        value = getattr(config, field)
        if isinstance(key, tuple):
            flat.update(zip(key, value))
        else:
            flat[key] = _thawed(value)
    flat["MODEL.ROI_HEADS.IOU_THRESHOLDS"] = [config.roi_iou_threshold]
    flat.update({key: allowed[-1] for key, (_, allowed) in {**_FIXED, **_FIXED_MASK}.items()})
    tree: dict[str, Any] = {"VERSION": 2}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return tree


def _checked(config: DetectorConfig, name: str) -> DetectorConfig:
    """Refuse values that are of the wrong type or name no known architecture."""
    for field in fields(DetectorConfig):
        value, default = getattr(config, field.name), field.default
        number = isinstance(default, (int, float)) and not isinstance(default, bool)
        if isinstance(value, (int, float)) != number if number else type(value) is not type(default):
            key = _KEYS[field.name][0]
            raise InputError(f"{name}: {key}: expected a value such as {default!r}, found {value!r}")
    if config.depth not in NUM_BLOCKS:
        raise InputError(
            f"{name}: MODEL.RESNETS.DEPTH: expected {sorted(NUM_BLOCKS)}, found {config.depth}"
        )
    if config.norm not in ("FrozenBN", "BN", "SyncBN"):
        raise InputError(
            f"{name}: MODEL.RESNETS.NORM is {config.norm!r}; the torchvision runtime does 'BN' or "
            "'FrozenBN' only: use runtime: detectron2"
        )
    if config.input_format not in ("BGR", "RGB"):
        raise InputError(f"{name}: INPUT.FORMAT: expected BGR or RGB, found {config.input_format!r}")
    if len({len(s) * len(r) for s, r in zip(config.anchor_sizes, config.anchor_ratios)}) != 1:
        raise InputError(f"{name}: MODEL.ANCHOR_GENERATOR: every level needs as many anchors")
    return config


def _refuse_unknown(flat: dict[str, Any], name: str) -> None:
    """Raise where a key of a section that this file reads is none of Detectron2's."""
    known = {*_FIXED, *_FIXED_MASK, *_IGNORED}
    for key, _ in _KEYS.values():
        known.update(key if isinstance(key, tuple) else (key,))
    for key in flat:
        if key in known or any(key == s or key.startswith(s + ".") for s in _IGNORED_SECTIONS):
            continue
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
        raise InputError(f"{name}: unknown key {key}; did you mean {nearest}?")


def _per_level(value: Any, field: str, name: str) -> tuple[tuple[float, ...], ...]:
    """One entry per level p2..p6, as Detectron2 broadcasts them."""
    if value and not isinstance(value[0], tuple):
        value = (value,)
    value = value * 5 if len(value) == 1 else value
    if len(value) != 5:
        key = _KEYS[field][0]
        raise InputError(f"{name}: {key}: expected 1 or 5 lists (p2..p6), found {len(value)}")
    return tuple(tuple(float(v) for v in level) for level in value)


def _flatten(tree: dict[str, Any], prefix: str = ""):
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


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value


def _thawed(value: Any) -> Any:
    return [_thawed(v) for v in value] if isinstance(value, tuple) else value
