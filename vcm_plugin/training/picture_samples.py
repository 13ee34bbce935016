# SPDX-License-Identifier: BSD-3-Clause
"""Which pictures does a learned picture codec train on, and which crops of them?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vcm_plugin.errors import InputError
from vcm_plugin.files import sha256_of
from vcm_plugin.split.torchvision import TorchvisionDetector
from vcm_plugin.testsets.minictc import FIRST_SEED, PICTURES, draw_picture
from vcm_plugin.testsets.pictures import read_picture


class PictureStore:
    """Crops of drawn pictures and of others, both drawn at random.

    found_share: of the crops that come from `found`. detector: that of the loss, where it has one.
    """

    def __init__(
        self,
        drawn: Sequence[Path],
        found: Sequence[Path] = (),
        found_share: float = 0.0,
        detector: TorchvisionDetector | None = None,
    ):
        if not 0.0 <= found_share <= 1.0:
            raise InputError(f"found_share: expected 0 to 1, found {found_share}")
        if not drawn and not found:
            raise InputError("expected pictures to train on; give --drawn N or --pictures FOLDER")
        self.drawn, self.found, self.detector = list(drawn), list(found), detector
        self.found_share = (found_share if found else 0.0) if drawn else 1.0

    def sha256(self) -> str:
        """What identifies the pictures: their names, the share and the number of drawn ones."""
        names = [path.name for path in self.found]
        return sha256_of([len(self.drawn), names, self.found_share])

    def draw(self, count: int, crop: int, rng: np.random.Generator) -> torch.Tensor:
        """`count` crops, float (N, 3, crop, crop), 0 .. 255."""
        return torch.from_numpy(np.stack([self._crop(crop, rng) for _ in range(count)])).float()

    def whole(self, count: int, multiple: int, rng: np.random.Generator) -> list[torch.Tensor]:
        """Pictures, float (3, H, W), 0 .. 255, their sides cut to multiples of `multiple`."""
        pictures = [read_picture(self._path(rng)) for _ in range(count)]
        cut = [p[: len(p) // multiple * multiple, : p.shape[1] // multiple * multiple]
               for p in pictures]  # fmt: skip
        return [torch.from_numpy(p.transpose(2, 0, 1).copy()).float() for p in cut]

    def _path(self, rng: np.random.Generator) -> Path:
        pool = self.found if rng.random() < self.found_share else self.drawn
        return pool[rng.integers(len(pool))]

    def _crop(self, crop: int, rng: np.random.Generator) -> np.ndarray:
        path = self._path(rng)
        picture = read_picture(path)
        if min(picture.shape[:2]) < crop:
            raise InputError(
                f"{path}: expected pictures of at least {crop} pixels a side, found "
                f"{picture.shape[0]} x {picture.shape[1]}; leave it out, or take smaller crops"
            )
        top, left = (int(rng.integers(n - crop + 1)) for n in picture.shape[:2])
        flips = rng.random(3) < 0.5
        x = picture[top : top + crop, left : left + crop].transpose(2, 0, 1)
        x = x[:, :: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
        return x.transpose(0, 2, 1) if flips[2] else x


def prepare(folder: Path, count: int) -> Iterator[list[Path]]:
    """Draw `count` pictures of the mini-CTC's train split into a folder, those that it lacks.

    Yields the paths as they are there, so that a caller can say how far it is.
    """
    if not 0 <= count <= PICTURES["train"]:
        raise InputError(f"drawn: expected 0 to {PICTURES['train']} pictures, found {count}")
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for index in range(count):
        path = folder / f"{index:06d}.png"
        if not path.is_file():
            picture, _ = draw_picture(FIRST_SEED["train"] + index)
            partial = path.with_suffix(".partial")
            Image.fromarray(picture).save(partial, "png", compress_level=1)
            os.replace(partial, path)
        paths.append(path)
        yield paths
