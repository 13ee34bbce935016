# SPDX-License-Identifier: BSD-3-Clause
"""Which pictures HVCN trains on, and what the frozen machine layer says of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vcm_plugin.diff_fchm.human.geometry import Geometry
from vcm_plugin.diff_fchm.human.pipeline import whole_cells
from vcm_plugin.diff_fchm.human.prior import Prior
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.entropy.latent_coder import ACTIVATION_STEPS, LATENT_STEPS
from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.rate_points import SCALES
from vcm_plugin.split.geometry import network_input_size
from vcm_plugin.split.torchvision import TorchvisionDetector
from vcm_plugin.testsets.pictures import read_picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass
class MachineBatch:
    """What the machine layer says of N crops of one size.

    raw: their features before coding, p2..p5 (N, C, h, w). layers: as decoded. ranges (N, 2): m',
    M'; s (N,). y_hat (N, C, h, w): decoded latents; octaves (N, 1, 1, 1): of the range.
    """

    raw: dict[str, torch.Tensor]
    layers: dict[str, torch.Tensor]
    ranges: torch.Tensor
    s: torch.Tensor
    y_hat: torch.Tensor
    octaves: torch.Tensor
    geometry: Geometry

    def to(self, device: torch.device) -> MachineBatch:
        moved = {k: v.to(device) for k, v in vars(self).items() if torch.is_tensor(v)}
        for name in ("raw", "layers"):
            moved[name] = {k: v.to(device) for k, v in getattr(self, name).items()}
        return replace(self, **moved)


@dataclass
class Samples:
    """Crops of pictures; with a detector and a machine codec also what the machine layer says.

    crop: (height, width) in pixels. prior: the frozen diffusion prior that the stages see.
    """

    paths: Sequence[Path]
    crop: tuple[int, int]
    prior: Prior
    detector: TorchvisionDetector | None = None
    machine: MachineCodec | None = None

    def draw(self, count: int, rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
        """`count` crops, uint8 (h, w, 3), each with the scale at which the detector sees it."""
        chosen = rng.choice(len(self.paths), count, replace=count > len(self.paths))
        return [self._crop(read_picture(self.paths[k]), rng) for k in chosen]

    def tensor(self, crops: list[tuple[np.ndarray, float]]) -> torch.Tensor:
        """Crops -> (N, 3, h, w) in -1 .. 1."""
        return torch.cat([whole_cells(crop) for crop, _ in crops])

    def machine_batch(self, crops, scales: np.ndarray) -> MachineBatch:
        """Crops -> what the machine layer says of them at the scales s (N,)."""
        layers = []
        for (crop, zoom), s in zip(crops, scales):
            features = self._features(crop, self._input_side(zoom))
            _, layer = self.machine.code(features, repr(float(s)))
            layers.append((features, layer, self.machine.synthesise(layer)))
        sizes = {features.input_size for features, _, _ in layers}
        assert len(sizes) == 1, "crops of one batch have one zoom"
        codes = [self.machine.octaves(layer.payload.value_range) for _, layer, _ in layers]
        latents = np.stack([layer.latents.y for _, layer, _ in layers])
        return MachineBatch(
            raw=_stacked([features for features, _, _ in layers]),
            layers=_stacked([decoded for _, _, decoded in layers]),
            ranges=torch.tensor([layer.payload.value_range for _, layer, _ in layers]),
            s=torch.tensor([layer.payload.rate_point for _, layer, _ in layers]),
            y_hat=torch.from_numpy(latents).float() / LATENT_STEPS,
            octaves=torch.tensor(codes).view(-1, 1, 1, 1) / ACTIVATION_STEPS,
            geometry=Geometry(self.crop, sizes.pop()),
        )

    def _crop(self, picture: np.ndarray, rng) -> tuple[np.ndarray, float]:
        height, width = self.crop
        grow = max(height / picture.shape[0], width / picture.shape[1])
        if grow > 1.0:
            size = tuple(max(c, round(grow * n)) for c, n in zip(self.crop, picture.shape))
            picture = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.BICUBIC))
        top, left = (int(rng.integers(n - c + 1)) for n, c in zip(picture.shape[:2], self.crop))
        crop = picture[top : top + height, left : left + width]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        zoom = 1.0
        if self.detector is not None:
            config = self.detector.config
            whole = network_input_size(
                picture.shape[:2], config.min_size_test, config.max_size_test
            )
            zoom = whole[0] / picture.shape[0]
        return np.ascontiguousarray(crop), zoom

    def _input_side(self, zoom: float) -> int:
        """Shorter side of the network input of a crop, in steps of 32 so that batches agree."""
        return max(32, round(zoom * min(self.crop) / 32) * 32)

    def _features(self, crop: np.ndarray, side: int) -> FeaturePyramid:
        detector = copy.copy(self.detector)
        detector.config = replace(detector.config, min_size_test=side, max_size_test=1 << 16)
        return detector.nn_part1(crop)


def same_zoom(samples: Samples, count: int, rng: np.random.Generator):
    """`count` crops whose network inputs have one size: the first one's; drawn until they do."""
    kept = samples.draw(1, rng)
    side = samples._input_side(kept[0][1])
    for _ in range(20 * count):
        if len(kept) == count:
            return kept
        kept += [c for c in samples.draw(1, rng) if samples._input_side(c[1]) == side]
    return kept + [kept[k % len(kept)] for k in range(count - len(kept))]


def picture_paths(folders: Sequence[Path]) -> list[Path]:
    """All pictures below the folders, sorted. Raises InputError where there are none."""
    found = [p for f in folders for p in sorted(f.rglob("*")) if p.suffix.lower() in SUFFIXES]
    if not found:
        named = ", ".join(map(str, folders))
        raise InputError(f"{named}: expected folders of pictures ({', '.join(SUFFIXES)})")
    return found


def log_uniform(bounds: tuple[float, float], count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` numbers between the bounds, within those of a rate point."""
    low, high = (min(max(b, SCALES[0]), SCALES[1]) for b in bounds)
    return np.exp(rng.uniform(np.log(low), np.log(high), count))


def _stacked(pyramids: list[FeaturePyramid]) -> dict[str, torch.Tensor]:
    """(N, C, h, w) of each layer, as tensors that training may differentiate."""
    names = pyramids[0].layers
    return {name: torch.stack([p.layers[name] for p in pyramids]).clone() for name in names}
