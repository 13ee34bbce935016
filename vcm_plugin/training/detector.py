# SPDX-License-Identifier: BSD-3-Clause
"""Train a small R-CNN on a COCO-layout data set, from scratch or from a checkpoint, and export it.

Batch normalisation trains and is frozen at export. The export is a Detectron2-format checkpoint, so
that both runtimes of vcm_plugin.split load it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList

from vcm_plugin.files import sha256_of_file
from vcm_plugin.split.checkpoint import read_checkpoint
from vcm_plugin.split.config import DetectorConfig
from vcm_plugin.split.names import detectron2_name, from_detectron2_weight
from vcm_plugin.split.torchvision import build_rcnn, to_detectron2_state_dict
from vcm_plugin.testsets.coco import CocoDataset
from vcm_plugin.training import loop
from vcm_plugin.training.crops import MadeAhead, TrainingCrops
from vcm_plugin.training.feature_store import digest_of_pictures
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.schedules import DetectorTraining


def train(
    config: DetectorConfig,
    dataset: CocoDataset,
    schedule: DetectorTraining,
    folder: Path,
    init_weights: Path | None = None,
    report=lambda line: None,
) -> dict:
    """Train and return the exported checkpoint (`export`).

    A checkpoint in `folder` is resumed: killing the training and starting it again continues at
    the last multiple of schedule.checkpoint_every and ends in the same weights. Started by
    `accelerate launch`, every process takes other batches, and the first one writes.
    """
    accelerator = loop.start(schedule, folder, report)
    torch.manual_seed(schedule.seed)
    model = Losses(replace(config, norm="BN"))
    made_from = {"pictures": digest_of_pictures(dataset.pictures), "init": None}
    if init_weights is not None:
        _start_from(model.rcnn, init_weights)
        made_from["init"] = sha256_of_file(init_weights)
    crops = TrainingCrops(dataset, config, schedule)
    batches = MadeAhead(crops, schedule.iterations, accelerator.num_processes)
    path = folder / "detector_state.pth"
    trained = loop.fit(accelerator, model, batches, schedule, path, loss_terms, report, made_from)
    return export(trained.rcnn)


class Losses(nn.Module):
    """A torchvision R-CNN whose forward pass is its losses in training."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.config = config
        # 1.2 times as fast on a CPU as the default layout
        self.rcnn = build_rcnn(config).to(memory_format=torch.channels_last).train()

    def forward(self, images: torch.Tensor, targets: list[dict]) -> Terms:
        """Preprocessed pictures (N, 3, h, w) and torchvision's targets -> losses by name."""
        sizes = [tuple(images.shape[-2:])] * len(images)
        features = self.rcnn.backbone(images)
        proposals, rpn_losses = self.rcnn.rpn(ImageList(images, sizes), features, targets)
        _, head_losses = self.rcnn.roi_heads(features, proposals, sizes, targets)
        losses = {**rpn_losses, **head_losses}
        return {name.removeprefix("loss_"): value for name, value in losses.items()}


def loss_terms(model, batches: MadeAhead, schedule: DetectorTraining, draw: int, _: bool) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    images, targets = batches[draw]
    torch.manual_seed(1_000_003 * schedule.seed + draw)  # torchvision samples proposals
    device = next(model.parameters()).device
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    return model(images, [{k: v.to(device) for k, v in target.items()} for target in targets])


def export(rcnn: nn.Module) -> dict:
    """Detectron2-format checkpoint of a trained model; weights rounded to 16 bits."""
    state = to_detectron2_state_dict(rcnn.cpu())
    return {
        "model": {name: tensor.detach().to(torch.float16) for name, tensor in state.items()},
        "__author__": "vcm-plugin",
        "matching_heuristics": False,
    }


def _start_from(model, path: Path) -> None:
    """Take over every weight of a checkpoint whose shape fits; other classes leave new heads."""
    given = read_checkpoint(path).weights
    own = model.state_dict()
    for name, value in own.items():
        source = None if "num_batches" in name else given.get(detectron2_name(name))
        if source is None:
            continue
        source = from_detectron2_weight(name, source)
        if source.shape == value.shape:
            value.copy_(source)
    model.load_state_dict(own)
