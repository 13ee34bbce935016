# SPDX-License-Identifier: BSD-3-Clause
"""How Detectron2 itself runs a detector, split into NN-Part1 and NN-Part2 and never patched.

Only the modules that Detectron2 built are called, one after the other. This is the one file that
imports Detectron2, and nothing imports it unless that runtime is asked for.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import warnings
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    FPN,
    GeneralizedRCNN,
    PanopticFPN,
    ResNet,
    build_model,
)
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.file_io import PathManager
from torch.nn import functional as F

from vcm_plugin.errors import InputError, one_line
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split.checkpoint import Checkpoint, fit_weights
from vcm_plugin.split.config import NUM_BLOCKS, DetectorConfig, from_tree, read_tree, to_tree
from vcm_plugin.split.detections import Detections
from vcm_plugin.split.geometry import (
    check_features,
    check_picture,
    check_split_point,
    network_input_size,
    to_input,
)

# Advice to Detectron2's authors, not to the user.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")


class Detectron2Detector:
    """A Detectron2 R-CNN on a ResNet FPN, cut at a split point.

    Raises InputError where the model is of another kind or the checkpoint does not fit it.
    """

    def __init__(
        self,
        config: CfgNode,
        checkpoint: Checkpoint,
        split_point: str = "fpn",
        device: str = "cpu",
    ):
        self.config = config.clone()
        self.config.MODEL.DEVICE = device
        self.split_point = check_split_point(split_point)
        self.runtime = f"detectron2 {detectron2.__version__}"
        self.num_classes = self.config.MODEL.ROI_HEADS.NUM_CLASSES
        self.weights_sha256 = checkpoint.sha256
        self.model = build_model(self.config)
        _require_resnet_fpn(self.model)
        own = {k: v for k, v in self.model.state_dict().items() if "num_batches_tracked" not in k}
        self.model.load_state_dict(fit_weights(own, checkpoint), strict=False)
        self.model.requires_grad_(False).eval()

    def identity(self) -> dict[str, str]:
        """What decides about features and detections."""
        return {
            "config_sha256": _config_sha256(self.config),
            "weights_sha256": self.weights_sha256,
            "split_point": self.split_point,
            "runtime": self.runtime,
        }

    @torch.no_grad()
    def nn_part1(self, picture: np.ndarray) -> FeaturePyramid:
        """An RGB picture, uint8 (H, W, 3) -> the features of the split point, on the CPU."""
        images = self.model.preprocess_image([{"image": self._network_input(picture)}])
        backbone = self.model.backbone
        if self.split_point == "fpn":
            layers = backbone(images.tensor)
            del layers["p6"]
        elif self.split_point == "c2":
            stages = backbone.bottom_up(images.tensor)
            laterals = zip(backbone.in_features, backbone.lateral_convs[::-1], strict=True)
            layers = {"c" + name[3:]: conv(stages[name]) for name, conv in laterals}
        else:
            layers = {"r2": backbone.bottom_up.res2(backbone.bottom_up.stem(images.tensor))}
        layers = {name: layer[0].cpu() for name, layer in layers.items()}
        return FeaturePyramid(layers, picture.shape[:2], tuple(images.image_sizes[0]))

    @torch.no_grad()
    def nn_part2(self, features: FeaturePyramid) -> Detections:
        """The features of the split point, decoded or not -> detections in the source picture."""
        layers = self._pyramid(features)
        layers["p6"] = self.model.backbone.top_block(layers["p5"])[0]
        images = ImageList(layers["p2"], [features.input_size])
        proposals, _ = self.model.proposal_generator(images, layers, None)
        (found,), _ = self.model.roi_heads(images, layers, proposals, None)
        found = detector_postprocess(found, *features.source_size)
        segments = None
        if isinstance(self.model, PanopticFPN):
            segments = self._segments(layers, found, features)
        found = found.to("cpu")
        return Detections(
            found.pred_boxes.tensor.numpy(),
            found.scores.numpy(),
            found.pred_classes.numpy(),
            found.pred_masks.numpy() if found.has("pred_masks") else None,
            segments,
        )

    @torch.no_grad()
    def classify(self, features: FeaturePyramid, boxes: np.ndarray) -> list[int]:
        """Boxes (n, 4), x0 y0 x1 y1 in the source, as proposals -> the class of each, which the box
        head finds the most likely; background is none."""
        if not len(boxes):
            return []
        layers, heads = self._pyramid(features), self.model.roi_heads
        given = torch.from_numpy(to_input(boxes, features)).to(self.model.device)
        pooled = heads.box_pooler([layers[name] for name in heads.box_in_features], [Boxes(given)])
        logits, _ = heads.box_predictor(heads.box_head(pooled))
        return logits[:, :-1].argmax(dim=1).tolist()  # background comes last

    def _pyramid(self, features: FeaturePyramid) -> dict[str, torch.Tensor]:
        """The features of the split point -> p2..p5 as a batch of one, on the device."""
        backbone = self.model.backbone
        channels = backbone.output_shape()["p2"].channels
        if self.split_point == "r2":
            channels = backbone.bottom_up.output_shape()["res2"].channels
        check_features(features, self.split_point, channels)
        layers = {n: layer[None].to(self.model.device) for n, layer in features.layers.items()}
        if self.split_point == "r2":
            layers = self._laterals_of_r2(layers["r2"])
        return layers if self.split_point == "fpn" else self._top_down(layers)

    def _segments(
        self, layers: dict[str, torch.Tensor], found: Instances, features: FeaturePyramid
    ) -> np.ndarray:
        """The panoptic segmentation, as PanopticFPN.inference makes it of both heads' results."""
        (scores,), _ = self.model.sem_seg_head(layers, None)
        scores = sem_seg_postprocess(scores, features.input_size, *features.source_size)
        ids, segments = combine_semantic_and_instance_outputs(
            found,
            scores.argmax(dim=0),
            self.model.combine_overlap_thresh,
            self.model.combine_stuff_area_thresh,
            self.model.combine_instances_score_thresh,
        )
        classes = np.full(len(segments) + 1, -1, dtype=np.int64)  # ids start at 1
        for segment in segments:
            stuff = 0 if segment["isthing"] else self.num_classes
            classes[segment["id"]] = stuff + segment["category_id"]
        return classes[ids.cpu().numpy()]

    def _network_input(self, picture: np.ndarray) -> torch.Tensor:
        """The picture as Detectron2's DefaultPredictor hands it to the model."""
        check_picture(picture)
        shortest, longest = self.config.INPUT.MIN_SIZE_TEST, self.config.INPUT.MAX_SIZE_TEST
        network_input_size(picture.shape[:2], shortest, longest)  # refuses what Pillow would
        if self.config.INPUT.FORMAT == "BGR":
            picture = picture[:, :, ::-1]
        resize = ResizeShortestEdge([shortest, shortest], longest).get_transform(picture)
        resized = resize.apply_image(picture).astype("float32").transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(resized))

    def _laterals_of_r2(self, r2: torch.Tensor) -> dict[str, torch.Tensor]:
        """r2 -> c2..c5."""
        backbone, layers, x = self.model.backbone, {}, r2
        for name, conv in zip(backbone.in_features, backbone.lateral_convs[::-1], strict=True):
            x = x if name == "res2" else getattr(backbone.bottom_up, name)(x)
            layers["c" + name[3:]] = conv(x)
        return layers

    def _top_down(self, laterals: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """c2..c5 -> p2..p5."""
        backbone, layers, merged = self.model.backbone, {}, None
        for number, conv in zip((5, 4, 3, 2), backbone.output_convs, strict=True):
            lateral = laterals[f"c{number}"]
            if merged is not None:
                coarser = F.interpolate(merged, scale_factor=2.0, mode="nearest")
                lateral = lateral + coarser
                if self.config.MODEL.FPN.FUSE_TYPE == "avg":
                    lateral = lateral / 2
            merged = lateral
            layers[f"p{number}"] = conv(merged)
        return dict(reversed(layers.items()))


def read_config(detector: DetectorConfig | str | Path) -> CfgNode:
    """Detectron2's configuration of a DetectorConfig, a YAML file or a model-zoo name."""
    config = get_cfg()
    if isinstance(detector, DetectorConfig):
        config.merge_from_other_cfg(CfgNode(to_tree(detector)))
        return config
    path = Path(detector).expanduser()
    path = path if path.is_file() else zoo_config(str(detector))
    read_tree(path, fetched=True)  # refuses a key that stands twice
    try:
        config.merge_from_file(str(path), allow_unsafe=False)
    except Exception as error:  # yacs raises KeyError, ValueError, AssertionError, yaml errors
        reason = one_line(error)
        raise InputError(f"{detector}: not a Detectron2 configuration: {reason}") from error
    return config


def zoo_config(name: str) -> Path:
    """The file of a model-zoo name such as COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml."""
    try:
        return Path(model_zoo.get_config_file(name))
    except RuntimeError as error:
        raise InputError(
            f"{name}: neither a file nor a configuration of Detectron2's model zoo"
        ) from error


def local_weights(weights: str | None, detector: str) -> Path:
    """A local copy of weights given as URL, or of the model zoo's own where none are given."""
    try:
        return Path(PathManager.get_local_path(weights or model_zoo.get_checkpoint_url(detector)))
    except Exception as error:  # network, file system and unknown names, each with its own type
        reason = one_line(error)
        raise InputError(f"{weights or detector}: no weights could be fetched: {reason}") from error


@BACKBONE_REGISTRY.register()
def build_vcm_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """build_resnet_fpn_backbone at any width: Detectron2's own wants 64 channels in a ResNet-18."""
    resnets, norm = cfg.MODEL.RESNETS, cfg.MODEL.RESNETS.NORM
    channels, width = resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS
    stem = BasicStem(input_shape.channels, channels, norm)
    stages = []
    for i, blocks in enumerate(NUM_BLOCKS[resnets.DEPTH]):
        options: dict[str, Any] = {"block_class": BasicBlock}
        if resnets.DEPTH >= 50:
            options = {
                "block_class": BottleneckBlock,
                "bottleneck_channels": resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * 2**i,
                "num_groups": resnets.NUM_GROUPS,
                "stride_in_1x1": resnets.STRIDE_IN_1X1,
            }
        stage = ResNet.make_stage(
            num_blocks=blocks,
            stride_per_block=[1 if i == 0 else 2] + [1] * (blocks - 1),
            in_channels=channels,
            out_channels=width * 2**i,
            norm=norm,
            **options,
        )
        stages.append(stage)
        channels = width * 2**i
    fpn = cfg.MODEL.FPN
    return FPN(
        ResNet(
            stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT
        ),
        fpn.IN_FEATURES,
        fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=fpn.FUSE_TYPE,
    )


def _require_resnet_fpn(model: torch.nn.Module) -> None:
    """Raise InputError where the split points do not exist in a model."""
    backbone = getattr(model, "backbone", None)
    if (
        isinstance(model, GeneralizedRCNN)
        and isinstance(backbone, FPN)
        and isinstance(backbone.bottom_up, ResNet)
        and isinstance(backbone.top_block, LastLevelMaxPool)
        and list(backbone.in_features) == ["res2", "res3", "res4", "res5"]
    ):
        return
    raise InputError(
        "expected an R-CNN on a ResNet FPN with levels p2..p6 (split points fpn, c2, r2), found "
        f"{type(model).__name__} on {type(backbone).__name__}; use a *_FPN_* R-CNN configuration"
    )


def _config_sha256(config: CfgNode) -> str:
    """Hash of the configuration's values: DetectorConfig's own where it can say what they say."""
    tree = _plain(config)
    try:
        return from_tree(tree, "configuration").sha256()
    except InputError:
        values = {name: tree[name] for name in ("MODEL", "INPUT", "TEST")}
        values["MODEL"] = {k: v for k, v in tree["MODEL"].items() if k not in ("WEIGHTS", "DEVICE")}
        return hashlib.sha256(CfgNode(copy.deepcopy(values)).dump().encode()).hexdigest()


def _plain(config: CfgNode) -> dict[str, Any]:
    """A configuration as nested dicts."""
    return {k: _plain(v) if isinstance(v, CfgNode) else v for k, v in config.items()}
