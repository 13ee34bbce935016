# SPDX-License-Identifier: BSD-3-Clause
"""Which keys of Detectron2's configuration define a detector, with which defaults and limits."""

from __future__ import annotations

from typing import Any

# Fields that only training reads; batch normalisation is frozen at inference in any case.
TRAINING = (
    "norm rpn_pre_nms_topk_train rpn_post_nms_topk_train rpn_iou_thresholds rpn_batch_size "
    "rpn_positive_fraction roi_iou_thresholds roi_batch_size roi_positive_fraction"
).split()

# Field of DetectorConfig -> key of Detectron2, and Detectron2's default of that key.
KEYS: dict[str, tuple[str, Any]] = {
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
    "rpn_pre_nms_topk_train": ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 12000),
    "rpn_pre_nms_topk_test": ("MODEL.RPN.PRE_NMS_TOPK_TEST", 6000),
    "rpn_post_nms_topk_train": ("MODEL.RPN.POST_NMS_TOPK_TRAIN", 2000),
    "rpn_post_nms_topk_test": ("MODEL.RPN.POST_NMS_TOPK_TEST", 1000),
    "rpn_nms_thresh": ("MODEL.RPN.NMS_THRESH", 0.7),
    "rpn_min_size": ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 0),
    "rpn_iou_thresholds": ("MODEL.RPN.IOU_THRESHOLDS", [0.3, 0.7]),
    "rpn_batch_size": ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 256),
    "rpn_positive_fraction": ("MODEL.RPN.POSITIVE_FRACTION", 0.5),
    "box_fc_dim": ("MODEL.ROI_BOX_HEAD.FC_DIM", 1024),
    "box_pool_resolution": ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14),
    "box_pool_sampling": ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 0),
    "box_weights": ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [10.0, 10.0, 5.0, 5.0]),
    "roi_iou_thresholds": ("MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.5]),
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
FIXED: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "VERSION": (2, (2,)),
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN", ("GeneralizedRCNN",)),
    "MODEL.KEYPOINT_ON": (False, (False,)),
    "MODEL.LOAD_PROPOSALS": (False, (False,)),
    "MODEL.BACKBONE.NAME": (
        "build_resnet_backbone",
        ("build_resnet_fpn_backbone", "build_vcm_resnet_fpn_backbone"),
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
FIXED_MASK: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead", ("MaskRCNNConvUpsampleHead",)),
    "MODEL.ROI_MASK_HEAD.NORM": ("", ("",)),
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": (False, (False,)),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIAlignV2", ("ROIAlignV2",)),
}

# Keys of MODEL and INPUT that change nothing at inference, or only heads that FIXED refuses.
IGNORED = (
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
IGNORED_SECTIONS = (
    "INPUT.CROP MODEL.ROI_BOX_CASCADE_HEAD MODEL.ROI_KEYPOINT_HEAD MODEL.SEM_SEG_HEAD "
    "MODEL.PANOPTIC_FPN MODEL.RETINANET SOLVER DATASETS DATALOADER GLOBAL TEST SEED "
    "OUTPUT_DIR CUDNN_BENCHMARK VIS_PERIOD FLOAT32_PRECISION"
).split()
