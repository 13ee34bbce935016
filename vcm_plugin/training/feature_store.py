# SPDX-License-Identifier: BSD-3-Clause
"""Which features and which targets a batch of training pictures has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from vcm_plugin.files import claim_note, sha256_of
from vcm_plugin.split.config import DetectorConfig
from vcm_plugin.split.geometry import network_input_size, padded_size
from vcm_plugin.split.torchvision import TorchvisionDetector
from vcm_plugin.split_points import SPLIT_POINTS
from vcm_plugin.testsets.coco import CocoDataset, PictureEntry
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training.crops import annotation_mask, tight_boxes

Size = tuple[int, int]


class FeatureStore:
    """Features of the pictures of a data set, made by NN-Part1 when they are first asked for.

    With a folder they are kept there as 16-bit floats, one file per size of the network input, and
    every later batch reads them; the folder belongs to one detector and one data set.
    """

    def __init__(self, detector: TorchvisionDetector, dataset: CocoDataset, folder: Path | None):
        self.detector, self.dataset = detector, dataset
        config = detector.config
        self.split_point = detector.split_point
        self.channels = config.fpn_channels
        self.layer_channels = _channels(config, self.split_point)
        self.groups: dict[Size, list[int]] = {}  # network input size -> pictures
        for index, entry in enumerate(dataset.pictures):
            size = network_input_size(
                (entry.height, entry.width), config.min_size_test, config.max_size_test
            )
            self.groups.setdefault(size, []).append(index)
        self.place = {i: k for group in self.groups.values() for k, i in enumerate(group)}
        self.digest = digest_of_pictures(dataset.pictures)
        if folder is not None:
            claim_features(folder, detector.weights_sha256, self.digest, self.split_point)
        self.kept = {
            size: KeptLayers(folder, f"{size[0]}x{size[1]}", len(group), self._shapes(size))
            for size, group in self.groups.items()
        }
        self.annotations: dict[int, list[dict]] = {p.image_id: [] for p in dataset.pictures}
        for annotation in dataset.coco["annotations"]:
            if not annotation.get("iscrowd"):
                self.annotations[annotation["image_id"]].append(annotation)

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Size, list[int]]:
        """A network input size and `count` pictures of it; large groups come more often."""
        sizes = list(self.groups)
        shares = np.array([len(self.groups[size]) for size in sizes], dtype=float)
        size = sizes[rng.choice(len(sizes), p=shares / shares.sum())]
        group = self.groups[size]
        return size, rng.choice(group, count, replace=count > len(group)).tolist()

    def features(self, size: Size, pictures: list[int]) -> dict[str, torch.Tensor]:
        """The layers of pictures of one network input size, (N, C, h, w)."""
        return self.kept[size].batch([self.place[picture] for picture in pictures], lambda place: (
            self.detector.nn_part1(
                read_picture(self.dataset.pictures[self.groups[size][place]].path)
            ).layers
        ))  # fmt: skip

    def targets(self, size: Size, pictures: list[int]) -> list[dict[str, torch.Tensor]]:
        """torchvision's targets in the network input: boxes, labels from 1, masks."""
        return [self._target(size, picture) for picture in pictures]

    def boxes(self, size: Size, pictures: list[int]) -> list[np.ndarray]:
        """Boxes (n, 4), x0 y0 x1 y1, of each picture in the network input."""
        found = []
        for picture in pictures:
            entry = self.dataset.pictures[picture]
            boxes = [a["bbox"] for a in self.annotations[entry.image_id]]
            corners = np.array(boxes, dtype=np.float64).reshape(-1, 4)
            corners[:, 2:] += corners[:, :2]
            scale = (size[1] / entry.width, size[0] / entry.height)
            found.append(corners * np.array(scale * 2))
        return found

    def _target(self, size: Size, picture: int) -> dict[str, torch.Tensor]:
        entry = self.dataset.pictures[picture]
        found = self.annotations[entry.image_id]
        masks = [torch.from_numpy(annotation_mask(a, entry.height, entry.width)) for a in found]
        stack = torch.stack(masks) if masks else torch.zeros((0, *size), dtype=torch.uint8)
        if stack.shape[1:] != size:
            stack = F.interpolate(stack[None].float(), size, mode="nearest")[0].to(torch.uint8)
        classes = [self.dataset.category_ids.index(a["category_id"]) + 1 for a in found]
        labels = torch.tensor(classes, dtype=torch.int64)
        keep = stack.flatten(1).bool().any(dim=1) if masks else labels.bool()
        stack, labels = stack[keep], labels[keep]
        return {"boxes": torch.from_numpy(tight_boxes(stack.numpy())), "labels": labels,
                "masks": stack}  # fmt: skip

    def _shapes(self, size: Size) -> dict[str, tuple[int, int, int]]:
        height, width = padded_size(size)
        strides = SPLIT_POINTS[self.split_point]
        return {
            name: (count, height // stride, width // stride)
            for (name, stride), count in zip(strides.items(), self.layer_channels, strict=True)
        }


class KeptLayers:
    """Layers of given shapes of so many pictures, kept in a folder as 16-bit floats.

    Without a folder nothing is kept: every batch is made anew.
    """

    def __init__(
        self, folder: Path | None, stem: str, count: int, shapes: dict[str, tuple[int, int, int]]
    ):
        self.shapes = shapes
        self.rows = self.done = None
        if folder is not None:
            length = sum(int(np.prod(shape)) for shape in shapes.values())
            self.rows = _mapped(folder / f"{stem}.f16", np.float16, (count, length))
            self.done = _mapped(folder / f"{stem}.done", np.uint8, (count,))

    def batch(
        self, places: list[int], make: Callable[[int], dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """Layers (N, C, h, w) of the pictures at these places; `make` gives those that are new."""
        rows = torch.stack([self._row(place, make) for place in places])
        parts = rows.split([int(np.prod(shape)) for shape in self.shapes.values()], dim=1)
        return {name: x.view(-1, *shape) for (name, shape), x in zip(self.shapes.items(), parts)}

    def _row(self, place: int, make: Callable) -> torch.Tensor:
        if self.done is not None and self.done[place]:
            return torch.from_numpy(self.rows[place].astype(np.float32))
        row = torch.cat([layer.flatten() for layer in make(place).values()])
        if self.done is not None:
            self.rows[place] = row.numpy()
            self.done[place] = 1
        return row.half().float()


def claim_features(folder: Path, detector_sha256: str, pictures: str, split_point: str) -> None:
    """Note whose features a folder keeps. Raises InputError where they are others'."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = {"detector": detector_sha256, "pictures": pictures}
    if split_point != "fpn":
        ours["split_point"] = split_point
    claim_note(folder / "features.json", ours, "the features of this detector and these pictures")


def _mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """A file as an array, made anew where it is missing or of another size."""
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    mode = "r+" if path.exists() and path.stat().st_size == expected else "w+"
    return np.memmap(path, dtype, mode, shape=shape)


def _channels(config: DetectorConfig, split_point: str) -> tuple[int, ...]:
    """Channels of each layer of a split point of an R-CNN."""
    if split_point == "r2":
        return (config.res2_out_channels,)
    return (config.fpn_channels,) * len(SPLIT_POINTS[split_point])


def digest_of_pictures(pictures: Sequence[PictureEntry]) -> str:
    """sha256 of names and sizes: whether a training or a cache is of these pictures."""
    return sha256_of([[p.path.name, p.height, p.width] for p in pictures])
