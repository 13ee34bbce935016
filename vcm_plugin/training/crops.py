# SPDX-License-Identifier: BSD-3-Clause
"""Which crops of pictures, and which boxes and masks in them, does a detector train on?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader, Dataset

from vcm_plugin.split.config import DetectorConfig
from vcm_plugin.testsets.coco import CocoDataset
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training.schedules import DetectorTraining

MIN_REMAINING_SHARE = 0.3  # objects of which a crop leaves less are dropped
MIN_REMAINING_PIXELS = 32
Batch = tuple[torch.Tensor, list[dict[str, torch.Tensor]]]  # (N, 3, h, w), and targets of each


class MadeAhead:
    """Batches of TrainingCrops, which another process makes while the network trains.

    They are asked for in their order, from any one on, by every process every `step`-th.
    """

    detector = None  # of a training on features; here it is what is trained

    def __init__(self, crops: TrainingCrops, iterations: int, step: int):
        self.crops, self.end, self.step = crops, iterations * step, step
        self._batches: Iterator[Batch] | None = None

    def __getitem__(self, draw: int) -> Batch:
        if self._batches is None:
            draws = range(draw, self.end, self.step)
            self._batches = iter(
                DataLoader(self.crops, None, sampler=draws, num_workers=1, prefetch_factor=4)
            )
        return next(self._batches)


class TrainingCrops(Dataset):
    """Batches by their number, which with the seed alone decides about all in them."""

    def __init__(self, dataset: CocoDataset, config: DetectorConfig, schedule: DetectorTraining):
        self.pictures = dataset.pictures
        self.class_of = {c: i for i, c in enumerate(dataset.category_ids)}
        self.annotations: dict[int, list[dict]] = {p.image_id: [] for p in dataset.pictures}
        for annotation in dataset.coco["annotations"]:
            if not annotation.get("iscrowd"):
                self.annotations[annotation["image_id"]].append(annotation)
        self.config, self.schedule = config, schedule

    def __getitem__(self, draw: int) -> Batch:
        seed, size = self.schedule.seed, self.schedule.batch_size
        rng = np.random.default_rng((seed, draw))
        portrait = rng.random() < 0.25
        samples = []
        for k in range(draw * size, (draw + 1) * size):
            epoch, place = divmod(k, len(self.pictures))
            order = np.random.default_rng((seed, epoch, 7)).permutation(len(self.pictures))
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
