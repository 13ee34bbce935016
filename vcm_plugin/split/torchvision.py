# SPDX-License-Identifier: BSD-3-Clause
"""How a Detectron2 detector runs on torchvision, split into NN-Part1 and NN-Part2."""

from __future__ import annotations

from vcm_plugin.split.names import to_detectron2_state_dict
from vcm_plugin.split.rcnn import build_rcnn

__all__ = ["build_rcnn", "to_detectron2_state_dict"]
