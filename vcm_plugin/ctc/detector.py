# SPDX-License-Identifier: BSD-3-Clause
"""Which detector does a test condition name? NN-Part1 and NN-Part2, in either runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vcm_plugin import environment
from vcm_plugin.conditions import TestCondition
from vcm_plugin.errors import InputError
from vcm_plugin.split import load_split_model

if TYPE_CHECKING:
    from vcm_plugin.split.detectron2 import Detectron2Detector
    from vcm_plugin.split.jde import JdeDetector
    from vcm_plugin.split.torchvision import TorchvisionDetector

    SplitModel = TorchvisionDetector | Detectron2Detector | JdeDetector


def load_detector(condition: TestCondition, device: str = "cpu") -> SplitModel:
    """The split detector of a test condition, for one device of torch.

    nn_part1(picture, uint8 RGB (H, W, 3)) -> FeaturePyramid; nn_part2(FeaturePyramid) ->
    detections. Raises InputError where its configuration, weights or device are not here, or where
    it has another number of classes than the condition names.
    """
    environment.require_device(device)
    model = load_split_model(
        condition.model_path(),
        condition.weights_path(),
        condition.split_point,
        condition.runtime,
        device,
    )
    if model.num_classes != len(condition.class_names):
        raise InputError(
            f"class_names: expected {model.num_classes}, those of the detector of "
            f"{condition.name}, found {len(condition.class_names)}; name them all in its order "
            "(class_names, --classes)"
        )
    return model
