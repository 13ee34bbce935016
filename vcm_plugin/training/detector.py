# SPDX-License-Identifier: BSD-3-Clause
"""Train a small R-CNN on a COCO-layout data set, from scratch or from a checkpoint, and export it.

The recipe is the plain one for small detectors: AdamW, one warm-up and a cosine, an exponential
moving average of the weights, batch normalisation that is frozen at export. The export is a
Detectron2-format checkpoint, so that both runtimes of vcm_plugin.split load it.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection.image_list import ImageList

from vcm_plugin.split.checkpoint import read_checkpoint
from vcm_plugin.split.config import DetectorConfig
from vcm_plugin.split.names import detectron2_name, from_detectron2_weight
from vcm_plugin.split.torchvision import build_rcnn, to_detectron2_state_dict
from vcm_plugin.testsets.coco import CocoDataset
from vcm_plugin.testsets.pictures import read_picture

MIN_REMAINING_SHARE = 0.3  # objects of which a crop leaves less are dropped
MIN_REMAINING_PIXELS = 32


@dataclass(frozen=True)
class DetectorTraining:
    """Schedule of one training; the seed fixes the order of pictures and every augmentation."""

    iterations: int = 4000
    batch_size: int = 8
    crop: tuple[int, int] = (256, 320)  # (height, width) of the training crops
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 200
    ema_decay: float = 0.998
    seed: int = 1
    checkpoint_every: int = 250


def train(
    config: DetectorConfig,
    dataset: CocoDataset,
    schedule: DetectorTraining,
    folder: Path,
    init_weights: Path | None = None,
    report=lambda line: None,
) -> Path:
    """Train and return the path of the exported checkpoint, folder/model.pth.

    A checkpoint in `folder` is resumed: killing the training and starting it again continues at
    the last multiple of schedule.checkpoint_every and ends in the same weights. Under torchrun
    every process takes its share of each batch and the gradients are averaged.
    """
    torch.manual_seed(schedule.seed)
    model = build_rcnn(replace(config, norm="BN")).to(memory_format=torch.channels_last)
    if init_weights is not None:
        _start_from(model, init_weights)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(schedule.ema_decay)
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    folder.mkdir(parents=True, exist_ok=True)
    state_path = folder / "state.pth"
    start = _resume(state_path, model, average, optimizer) if state_path.exists() else 0
    processes = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    samples = TrainingCrops(dataset, config, schedule, start, rank, processes)
    loader = DataLoader(samples, batch_size=None, num_workers=1, prefetch_factor=4)
    began = time.monotonic()
    for iteration, (images, targets) in enumerate(loader, start=start):
        torch.manual_seed(1_000_003 * schedule.seed + iteration)  # torchvision samples proposals
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * _lr_factor(iteration, schedule)
        images = images.contiguous(memory_format=torch.channels_last)  # 1.2 times as fast on a CPU
        losses = rcnn_losses(model, images, targets)
        loss = sum(losses.values())
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"iteration {iteration}: the loss is {loss.item()}")
        optimizer.zero_grad()
        loss.backward()
        if processes > 1:
            _average_gradients(model, processes)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        average.update_parameters(model)
        done = iteration + 1
        if rank:
            continue
        if done % 50 == 0:
            rate = (done - start) * schedule.batch_size / (time.monotonic() - began)
            parts = " ".join(f"{k.removeprefix('loss_')} {v.item():.3f}" for k, v in losses.items())
            of = schedule.iterations
            report(f"{done}/{of} loss {loss.item():.3f} ({parts}) {rate:.1f} img/s")
        if done % schedule.checkpoint_every == 0 or done == schedule.iterations:
            state = {
                "iteration": done,
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            _save(state, state_path)
            _save(export(average.module), folder / "model.pth")
    return folder / "model.pth"


def rcnn_losses(model, images: torch.Tensor, targets: list[dict]) -> dict[str, torch.Tensor]:
    """Losses of a torchvision R-CNN for a batch (N, 3, H, W) of preprocessed pictures."""
    sizes = [tuple(images.shape[-2:])] * len(images)
    features = model.backbone(images)
    proposals, rpn_losses = model.rpn(ImageList(images, sizes), features, targets)
    _, head_losses = model.roi_heads(features, proposals, sizes, targets)
    return {**rpn_losses, **head_losses}


def export(model) -> dict:
    """Detectron2-format checkpoint of a trained model; weights rounded to 16 bits."""
    state = to_detectron2_state_dict(model)
    return {
        "model": {name: tensor.detach().to(torch.float16) for name, tensor in state.items()},
        "__author__": "vcm-plugin",
        "matching_heuristics": False,
    }


class TrainingCrops(Dataset):
    """Batches for iterations start, start + 1, ...: item i depends on the seed and i alone."""

    def __init__(
        self,
        dataset: CocoDataset,
        config: DetectorConfig,
        schedule: DetectorTraining,
        start: int,
        rank: int = 0,
        processes: int = 1,
    ):
        self.pictures = dataset.pictures
        self.class_of = {c: i for i, c in enumerate(dataset.category_ids)}
        self.annotations: dict[int, list[dict]] = {p.image_id: [] for p in dataset.pictures}
        for annotation in dataset.coco["annotations"]:
            if not annotation.get("iscrowd"):
                self.annotations[annotation["image_id"]].append(annotation)
        self.config, self.schedule, self.start = config, schedule, start
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return self.schedule.iterations - self.start

    def __getitem__(self, index: int) -> tuple[torch.Tensor, list[dict]]:
        if index >= len(self):
            raise IndexError(index)
        size, iteration = self.schedule.batch_size, self.start + index
        portrait = np.random.default_rng((self.schedule.seed, iteration)).random() < 0.25
        rng = np.random.default_rng((self.schedule.seed, iteration, self.rank))
        samples = []
        for k in range(self.rank, size, self.processes):
            epoch, place = divmod(iteration * size + k, len(self.pictures))
            order = np.random.default_rng((self.schedule.seed, epoch, 7)).permutation(
                len(self.pictures)
            )
            samples.append(self._sample(self.pictures[order[place]], rng, portrait))
        return torch.stack([s[0] for s in samples]), [s[1] for s in samples]

    def _sample(self, entry, rng, portrait: bool) -> tuple[torch.Tensor, dict]:
        picture = read_picture(entry.path)
        labels, masks = [], []
        for annotation in self.annotations[entry.image_id]:
            labels.append(self.class_of[annotation["category_id"]])
            masks.append(annotation_mask(annotation, *picture.shape[:2]))
        stack = np.stack(masks) if masks else np.zeros((0, *picture.shape[:2]), np.uint8)
        picture, stack = _augment(picture, stack, self.schedule.crop, self.config, rng)
        if portrait:
            picture, stack = picture.transpose(1, 0, 2), stack.transpose(0, 2, 1)
        areas = stack.reshape(len(stack), -1).sum(1)
        full = np.array([m.sum() for m in masks])
        keep = (areas >= MIN_REMAINING_PIXELS) & (areas >= MIN_REMAINING_SHARE * full)
        stack, labels = stack[keep], np.array(labels, dtype=np.int64)[keep]
        tensor = torch.from_numpy(np.ascontiguousarray(picture[:, :, ::-1], dtype=np.float32))
        mean = torch.tensor(self.config.pixel_mean)
        std = torch.tensor(self.config.pixel_std)
        image = ((tensor - mean) / std).permute(2, 0, 1)
        target = {
            "boxes": torch.from_numpy(tight_boxes(stack)),
            "labels": torch.from_numpy(labels + 1),
            "masks": torch.from_numpy(np.ascontiguousarray(stack)),
        }
        return image.contiguous(), target


def annotation_mask(annotation: dict, height: int, width: int) -> np.ndarray:
    """Mask (H, W) of an annotation; its filled box where it has no segmentation."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        x, y, w, h = annotation["bbox"]
        mask = np.zeros((height, width), np.uint8)
        top, left = round(y), round(x)
        mask[top : max(round(y + h), top + 1), left : max(round(x + w), left + 1)] = 1
        return mask
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return coco_mask.decode(segmentation)


def _augment(picture, masks, crop: tuple[int, int], config: DetectorConfig, rng):
    """Transpose to the crop's orientation, flip, scale at random, crop or pad to `crop`."""
    if (picture.shape[0] > picture.shape[1]) != (crop[0] > crop[1]):
        picture, masks = picture.transpose(1, 0, 2), masks.transpose(0, 2, 1)
    if rng.random() < 0.5:
        picture, masks = picture[:, ::-1], masks[:, :, ::-1]
    scale = config.min_size_test / min(picture.shape[:2])
    if rng.random() < 0.3:
        scale *= 0.8 + 0.4 * rng.random()
    if abs(scale - 1.0) > 1e-3:
        height, width = (max(1, round(n * scale)) for n in picture.shape[:2])
        resized = Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), 2)
        picture = np.asarray(resized)
        rows = (np.arange(height) / scale).astype(int).clip(max=masks.shape[1] - 1)
        columns = (np.arange(width) / scale).astype(int).clip(max=masks.shape[2] - 1)
        masks = masks[:, rows][:, :, columns]
    height, width = picture.shape[:2]
    top = int(rng.random() * (max(0, height - crop[0]) + 1))
    left = int(rng.random() * (max(0, width - crop[1]) + 1))
    picture = picture[top : top + crop[0], left : left + crop[1]]
    masks = masks[:, top : top + crop[0], left : left + crop[1]]
    pad = [(0, crop[0] - picture.shape[0]), (0, crop[1] - picture.shape[1])]
    fill = int(np.mean(config.pixel_mean))
    picture = np.pad(picture, [*pad, (0, 0)], constant_values=fill)
    return picture, np.pad(masks, [(0, 0), *pad])


def tight_boxes(masks: np.ndarray) -> np.ndarray:
    """Tight boxes (n, 4), x0 y0 x1 y1, of masks (n, H, W)."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


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


def _average_gradients(model, processes: int) -> None:
    """Mean of every gradient over the processes, in one message."""
    for parameter in model.parameters():
        if parameter.grad is None:  # a head that saw no object in this process
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in model.parameters()]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(
        gradients, flat.div_(processes).split([g.numel() for g in gradients])
    ):
        gradient.copy_(mean.view_as(gradient))


def _lr_factor(iteration: int, schedule: DetectorTraining) -> float:
    if iteration < schedule.warmup:
        return (iteration + 1) / schedule.warmup
    progress = (iteration - schedule.warmup) / max(1, schedule.iterations - schedule.warmup)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress))


def _resume(path: Path, model, average, optimizer) -> int:
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return state["iteration"]


def _save(value, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    os.replace(partial, path)
