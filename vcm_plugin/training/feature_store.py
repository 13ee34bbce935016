# SPDX-License-Identifier: BSD-3-Clause
"""Which features and which targets a batch of training pictures has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from vcm_plugin.files import claim_note, sha256_of
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
        self.channels = config.fpn_channels
        self.groups: dict[Size, list[int]] = {}  # network input size -> pictures
        for index, entry in enumerate(dataset.pictures):
            size = network_input_size(
                (entry.height, entry.width), config.min_size_test, config.max_size_test
            )
            self.groups.setdefault(size, []).append(index)
        self.place = {i: k for group in self.groups.values() for k, i in enumerate(group)}
        self.kept: dict[Size, tuple[np.memmap, np.memmap]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._claim(folder)
            self.kept = {size: self._open(folder, size) for size in self.groups}
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
        """p2..p5 of pictures of one network input size, (N, C, h, w)."""
        rows = torch.stack([self._row(size, picture) for picture in pictures])
        shapes = self._shapes(size)
        parts = rows.split([int(np.prod(shape)) for shape in shapes.values()], dim=1)
        return {name: part.view(-1, *shape) for (name, shape), part in zip(shapes.items(), parts)}

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

    def _row(self, size: Size, picture: int) -> torch.Tensor:
        rows, done = self.kept.get(size, (None, None))
        place = self.place[picture]
        if done is not None and done[place]:
            return torch.from_numpy(rows[place].astype(np.float32))
        pyramid = self.detector.nn_part1(read_picture(self.dataset.pictures[picture].path))
        row = torch.cat([layer.flatten() for layer in pyramid.layers.values()])
        if done is not None:
            rows[place] = row.numpy()
            done[place] = 1
        return row.half().float()

    def _shapes(self, size: Size) -> dict[str, tuple[int, int, int]]:
        height, width = padded_size(size)
        strides = SPLIT_POINTS["fpn"]
        return {n: (self.channels, height // s, width // s) for n, s in strides.items()}

    def _claim(self, folder: Path) -> None:
        """Note whose features a folder keeps. Raises InputError where they are others'."""
        pictures = digest_of_pictures(self.dataset.pictures)
        ours = {"detector": self.detector.weights_sha256, "pictures": pictures}
        what = "the features of this detector and these pictures"
        claim_note(folder / "features.json", ours, what)

    def _open(self, folder: Path, size: Size) -> tuple[np.memmap, np.memmap]:
        count = len(self.groups[size])
        length = sum(int(np.prod(shape)) for shape in self._shapes(size).values())
        stem = f"{size[0]}x{size[1]}"
        files = []
        for name, dtype, shape in (
            (f"{stem}.f16", np.float16, (count, length)),
            (f"{stem}.done", np.uint8, (count,)),
        ):
            path = folder / name
            expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
            mode = "r+" if path.exists() and path.stat().st_size == expected else "w+"
            files.append(np.memmap(path, dtype, mode, shape=shape))
        return files[0], files[1]


def digest_of_pictures(pictures: Sequence[PictureEntry]) -> str:
    """sha256 of names and sizes: whether a training or a cache is of these pictures."""
    return sha256_of([[p.path.name, p.height, p.width] for p in pictures])
