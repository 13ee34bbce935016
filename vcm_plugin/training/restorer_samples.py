# SPDX-License-Identifier: BSD-3-Clause
"""Which coded pictures and which decoded features the restorer trains on, and where they are kept.

Every picture is coded by VVC a few times, at a drawn size in percent and QP, or by a learned codec
at a drawn QP, and its features a few times by the machine layer, at a drawn s. All of it is kept, a
file for each picture, so it is made once. VVC codes pictures of one size in one stream of intra
pictures, which saves process starts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from anchors.auxiliary_learned import TOLD_LESS
from anchors.picture_learned import PictureLearnedCodec
from vcm_plugin.diff_fchm.human.geometry import Geometry
from vcm_plugin.diff_fchm.human.restoration import Restoration
from vcm_plugin.diff_fchm.human.restorer import LAYERS, MULTIPLE, on_picture_grids, padded
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import InputError
from vcm_plugin.split.torchvision import TorchvisionDetector
from vcm_plugin.vvc import Planes
from vcm_plugin.vvc.choice import Coding, coded_size
from vcm_plugin.vvc.planes import resample_planes, to_picture, to_planes
from vcm_plugin.vvc.vvenc import TOGETHER, VVenC

BLOCK = 24  # pictures that are coded together where they have one size
PLANE_STEPS = 32  # of a 10-bit level: planes are resampled to fractions of it
# Size in percent -> (its share of the samples, lowest QP, highest QP): a smaller picture is worth
# its bits at lower QPs.
SIZES = {100: (0.6, 22, 51), 75: (0.16, 20, 47), 50: (0.14, 17, 43), 25: (0.1, 13, 39)}
FULL_SIZE_WEIGHT = 3.0  # of a picture's codings, those at full size are drawn so much more often
LEARNED_QPS = (34, 58)  # of a learned picture codec, where its weights know them
SCALES = (0.35, 5.6)  # of the machine layer's s, log-uniform
OFTEN = ((1.4, 0.25), (4.0, 0.25))  # s and the share of the samples that have about this s


@dataclass(frozen=True)
class Coded:
    """Crops of coded pictures, (N, ...).

    luma (N, 1, h, w) and chroma (N, 2, h/2, w/2): at the size of the source, in 10-bit levels.
    layers: p2, p3 on the picture's grids. known (N, 3): QP, size in percent, s. decoded, source:
    RGB (N, 3, h, w), 0 .. 255.
    """

    luma: torch.Tensor
    chroma: torch.Tensor
    decoded: torch.Tensor
    layers: dict[str, torch.Tensor]
    known: torch.Tensor
    source: torch.Tensor


class RestorerStore:
    """The files of a folder that `prepare` has filled; crops of them, drawn at random.

    detector: whose features they hold, for the checkpoint's identity.
    """

    def __init__(self, folder: Path, detector: TorchvisionDetector | None = None):
        self.detector = detector
        self.paths = sorted(folder.glob("*.safetensors"))
        if not self.paths:
            raise InputError(f"{folder}: expected prepared pictures (*.safetensors), found none")

    def sha256(self) -> str:
        """What identifies the pictures that a training draws from: their files' names and sizes."""
        names = "".join(f"{path.name} {path.stat().st_size}\n" for path in self.paths)
        return hashlib.sha256(names.encode()).hexdigest()

    def draw(self, count: int, crop: int, rng: np.random.Generator) -> Coded:
        """`count` crops of crop x crop pixels, each of a picture, a coding and an s of its own."""
        drawn = [self._crop(self.paths[rng.integers(len(self.paths))], crop, rng)
                 for _ in range(count)]  # fmt: skip
        luma, chroma, p2, p3, known, decoded, source = (
            torch.from_numpy(np.stack(part)).float() for part in zip(*drawn)
        )
        layers = {"p2": p2, "p3": p3}
        luma, chroma = luma / PLANE_STEPS, chroma / PLANE_STEPS
        return Coded(luma, chroma, decoded, layers, known, source)

    @staticmethod
    def read(path: Path) -> dict[str, np.ndarray]:
        """All that is kept of a picture, by name."""
        return load_file(path)

    def statistics(self, pictures: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (2, C) of p2 and p3, over the first pictures."""
        sums = {name: [0.0, 0.0, 0] for name in LAYERS}
        for path in self.paths[:pictures]:
            with safe_open(path, "np") as kept:
                for name in LAYERS:
                    x = kept.get_tensor(f"{name}_0").astype(np.float64)
                    found = sums[name]
                    found[0] += x.sum(axis=(1, 2))
                    found[1] += np.square(x).sum(axis=(1, 2))
                    found[2] += x[0].size
        means = [first / n for first, _, n in sums.values()]
        spreads = [
            np.sqrt(np.maximum(second / n - mean**2, 1e-6))
            for (_, second, n), mean in zip(sums.values(), means)
        ]
        mean, std = (torch.from_numpy(np.stack(x)).float() for x in (means, spreads))
        return mean, std

    def _crop(self, path: Path, crop: int, rng: np.random.Generator) -> list[np.ndarray]:
        """luma, chroma, p2, p3, known, decoded, source of one crop."""
        with safe_open(path, "np") as kept:
            qps, percents, scales = map(kept.get_tensor, ("qps", "percents", "scales"))
            weights = np.where(percents == 100, FULL_SIZE_WEIGHT, 1.0)
            coding = int(rng.choice(len(qps), p=weights / weights.sum()))
            scale = int(rng.integers(len(scales)))
            size = kept.get_slice("source").get_shape()[1:]
            if min(size) < crop:
                raise InputError(
                    f"{path}: expected pictures of at least {crop} pixels a side, found "
                    f"{size[0]} x {size[1]}; leave it out, or take smaller crops"
                )
            cells = [int(rng.integers((n - crop) // MULTIPLE + 1)) for n in size]
            flips = rng.random(2) < 0.5
            cut = []
            for name, stride in (
                (f"luma_{coding}", 1), (f"chroma_{coding}", 2), (f"p2_{scale}", 4),
                (f"p3_{scale}", 8), (f"decoded_{coding}", 1), ("source", 1),
            ):  # fmt: skip
                top, left = (MULTIPLE * n // stride for n in cells)
                side = crop // stride
                x = kept.get_slice(name)[:, top : top + side, left : left + side]
                cut.append(x[:, :: -1 if flips[0] else 1, :: -1 if flips[1] else 1])
        return [*cut[:4], np.array([qps[coding], percents[coding], scales[scale]]), *cut[4:]]


def prepare(
    pictures: Sequence[Callable[[], np.ndarray]],
    folder: Path,
    detector: TorchvisionDetector,
    machine: MachineCodec,
    codings: int = 2,
    scales: int = 2,
    seed: int = 1,
    part: tuple[int, int] = (0, 1),
    learned: PictureLearnedCodec | None = None,
) -> Iterator[int]:
    """Make the file of every picture that has none; yields how many are done after each block.

    pictures: each gives uint8 RGB (H, W, 3) when it is called. codings, scales: how often a picture
    is coded, and its features by the machine layer. part: (k, n), make the k-th of every n blocks
    only, so that n processes share the work. learned: codes the pictures in the place of VVC.

    Raises InputError where the folder holds pictures of another picture codec.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "" if learned is None else f"{learned.sha256[:8]}_"
    for path in folder.glob("*.safetensors"):
        if path.stem[:-6] != prefix:
            raise InputError(
                f"{folder}: expected pictures coded by "
                f"{'VVC' if learned is None else f'the weights {learned.sha256[:8]}'}, found "
                f"{path.name}, coded by others; name another folder with --cache"
            )
    for start in range(BLOCK * part[0], len(pictures), BLOCK * part[1]):
        numbers = range(start, min(start + BLOCK, len(pictures)))
        paths = {k: folder / f"{prefix}{k:06d}.safetensors" for k in numbers}
        if not all(path.is_file() for path in paths.values()):
            rng = np.random.default_rng((seed, start))
            sources = {k: pictures[k]() for k in numbers}
            if learned is None:
                coded = _code_by_vvc(sources, codings, rng)
            else:
                coded = _code_learned(sources, codings, rng, learned)
            for k, source in sources.items():
                drawn = [_draw_scale(rng) for _ in range(scales)]
                features = _code_features(source, drawn, detector, machine)
                _write(paths[k], source, coded[k], features, drawn)
        yield numbers.stop


def _code_by_vvc(sources: dict[int, np.ndarray], codings: int, rng) -> dict[int, list]:
    """Of each picture `codings` times (QP, percent, luma, chroma, RGB) at the source's size."""
    coded: dict[int, list] = {k: [] for k in sources}
    encoder = VVenC()
    for size, numbers in _groups(sources):
        for _ in range(codings):
            percent = int(rng.choice(list(SIZES), p=[share for share, _, _ in SIZES.values()]))
            qp = int(rng.integers(SIZES[percent][1], SIZES[percent][2] + 1))
            at = coded_size(size, percent)
            planes = [to_planes(sources[k], at, resized=percent < 100) for k in numbers]
            decoded = encoder.decode_batch(encoder.encode_batch(planes, qp))
            for k, found in zip(numbers, decoded, strict=True):
                picture = to_picture(found, size, percent < 100)
                coded[k].append(_at_source_size(found, Coding(qp, percent), picture))
    return coded


def _code_learned(
    sources: dict[int, np.ndarray], codings: int, rng, learned: PictureLearnedCodec
) -> dict[int, list]:
    """The same by a learned picture codec, at full size; the QP is what the restorer is told."""
    low, high = (int(np.clip(qp, *learned.config.qps)) for qp in LEARNED_QPS)
    coded: dict[int, list] = {k: [] for k in sources}
    for k, source in sources.items():
        for qp in rng.integers(low, high + 1, codings).tolist():
            picture = learned.decode(learned.encode(source, str(qp)))
            shown = Restoration.shown(picture, qp - TOLD_LESS)
            coded[k].append(_at_source_size(shown.planes, shown.coding, picture))
    return coded


def _at_source_size(planes: Planes, coding: Coding, picture: np.ndarray) -> tuple:
    """QP, percent, luma, chroma and RGB of a decoded picture, as they are kept."""
    size, resized = picture.shape[:2], coding.percent < 100
    luma, cb, cr = (
        np.rint(x * PLANE_STEPS).clip(0, 65535).astype(np.uint16)
        for x in resample_planes(planes, padded(size), size, resized)
    )
    return coding.qp, coding.percent, luma, np.stack((cb, cr)), picture


def _groups(sources: dict[int, np.ndarray]) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Pictures that are coded together: their size, and their numbers."""
    for size in sorted({source.shape[:2] for source in sources.values()}):
        numbers = [k for k, source in sources.items() if source.shape[:2] == size]
        for start in range(0, len(numbers), TOGETHER):
            yield size, numbers[start : start + TOGETHER]


def _code_features(source, scales, detector, machine) -> list[dict[str, np.ndarray]]:
    """p2 and p3 as decoded at each s, on the grids of the padded picture."""
    features = detector.nn_part1(source)
    geometry = Geometry(features.source_size, features.input_size)
    found = []
    for s in scales:
        decoded = machine.synthesise(machine.code(features, repr(s))[1])
        layers = {name: decoded.layers[name][None] for name in LAYERS}
        on_grids = on_picture_grids(layers, geometry)
        found.append({name: x[0].numpy().astype(np.float16) for name, x in on_grids.items()})
    return found


def _draw_scale(rng: np.random.Generator) -> float:
    which = rng.random()
    for s, share in OFTEN:
        if which < share:
            return float(s * np.exp2(rng.uniform(-0.1, 0.1)))
        which -= share
    return float(np.exp(rng.uniform(*np.log(SCALES))))


def _write(path: Path, source, coded, features, scales) -> None:
    arrays = {"source": _planar(source)}
    for k, (_, _, luma, chroma, picture) in enumerate(coded):
        arrays |= {f"luma_{k}": luma[None], f"chroma_{k}": chroma, f"decoded_{k}": _planar(picture)}
    for k, layers in enumerate(features):
        arrays |= {f"{name}_{k}": x for name, x in layers.items()}
    qps, percents = ([item[k] for item in coded] for k in range(2))
    arrays |= {"qps": np.array(qps), "percents": np.array(percents), "scales": np.array(scales)}
    partial = path.with_suffix(".partial")
    save_file(arrays, partial)
    os.replace(partial, path)


def _planar(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> (3, H, W), padded."""
    height, width = padded(picture.shape[:2])
    margins = [(0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)]
    return np.ascontiguousarray(np.pad(picture, margins, mode="edge").transpose(2, 0, 1))
