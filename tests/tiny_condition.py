# SPDX-License-Identifier: BSD-3-Clause
"""The smallest real test condition: drawn pictures, the built-in detector, random weights."""

from dataclasses import replace
from pathlib import Path

import torch
from vfcn_tiny import CONFIG, tiny_weights

from vcm_plugin.environment import cfg_folder
from vcm_plugin.split.checkpoint import read_checkpoint
from vcm_plugin.split.config import load_config
from vcm_plugin.split.torchvision import build_rcnn, to_detectron2_state_dict

CONDITION = """\
name: tiny
minictc: test
limit: {pictures}
class_names: [ball, ring, crate, star, gear, leaf, cross, crescent]
model: minictc_mask_rcnn
weights: random.pth
runtime: torchvision
tasks: [box, mask]
score_threshold: 0.5
iou_threshold: 0.5
diff_fchm_weights: tiny.safetensors
diff_fchm_scales: [1, 2]
vvc_feature_qps: [37, 42]
vvc_feature_preset: faster
vvc_feature_range: picture
vvc_remote_qps: [37]
vvc_remote_sizes: [100, 50]
vvc_remote_preset: faster
diff_fchm_picture_preset: faster
vtm_remote_qps: [37]
vtm_remote_sizes: [100]
"""


def write_tiny_condition(folder: Path, pictures: int = 2) -> Path:
    """tiny.yaml with its weights beside it."""
    torch.manual_seed(0)
    model = build_rcnn(load_config(cfg_folder() / "models" / "minictc_mask_rcnn.yaml"))
    torch.save({"model": to_detectron2_state_dict(model)}, folder / "random.pth")
    detector = read_checkpoint(folder / "random.pth").sha256
    tiny_weights(folder, replace(CONFIG, channels=64), detector=detector)
    path = folder / "tiny.yaml"
    path.write_text(CONDITION.format(pictures=pictures))
    return path
