# SPDX-License-Identifier: BSD-3-Clause
"""Train the latent-space transforms of latent_scalable and multi_head, everything else frozen.

    lambda R + sum of omega_i L_i,   equation 2 of the survey (objectives.py)

Inputs are latents as the picture codec decodes them, its encoder's choices included. Targets are
what g_a of the machine layer makes of the frozen detector's p2..p5 of the source picture: L is the
squared error of these latents over their variance. (diff_fchm quantises all of them with one step,
so that an error of 1 counts about alike in each; and they are a fortieth of the numbers of p2..p5.)
R has no gradient: analysis and entropy model stay those of the picture codec. Both transforms train
in one go, since they read the same latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from anchors.latent_transform import LatentTransform
from anchors.picture_config import TransformConfig, octaves_of, step_of
from anchors.picture_learned import ERROR_WEIGHT, PictureLearnedCodec
from anchors.picture_networks import LEVELS
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.entropy.latent_coder import LATENT_STEPS
from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.files import sha256_of, write_arrays
from vcm_plugin.split.torchvision import TorchvisionDetector
from vcm_plugin.split_points import INPUT_PADDING
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training import loop, objectives
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.picture import features_of
from vcm_plugin.training.schedules import TransformTraining

STATISTICS_SAMPLES = 64
RIDGE = 1e-3  # of the mean square of an input
CODECS = ("latent_scalable", "multi_head")


@dataclass(frozen=True)
class Batch:
    """Pictures of one size: y_hat times its step and y_m (N, C, h, w), octaves (N, 1, 1, 1); bits
    per pixel of what each codec's transform reads, by name (N,)."""

    y_hat: torch.Tensor
    y_m: torch.Tensor
    octaves: torch.Tensor
    rates: dict[str, torch.Tensor]


class TransformStore:
    """Pictures as a picture codec decodes their latents, and as a machine layer analyses them.

    Each is coded at `codings` QPs, drawn with `seed`; kept in `folder` as it is made.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[Path],
        codec: PictureLearnedCodec,
        machine: MachineCodec,
        detector: TorchvisionDetector,
    ):
        if not paths:
            raise InputError("expected pictures to train on; give --drawn N")
        self.folder, self.paths = folder, list(paths)
        self.codec, self.machine, self.detector = codec, machine, detector
        self.by_size: dict[tuple[int, int], list[int]] = {}

    def prepare(self, config: TransformConfig, schedule: TransformTraining) -> Iterator[int]:
        """Make what the folder lacks; yields how many pictures are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(self.paths):
            if not self._file(number).is_file():
                rng = np.random.default_rng((schedule.seed, number))
                low, high = config.qps
                qps = rng.integers(low, high + 1, schedule.codings).tolist()
                sample = self._sample(read_picture(path), qps, config.latents)
                write_arrays(self._file(number), sample, compressed=False)
            with np.load(self._file(number)) as sample:
                self.by_size.setdefault(sample["y_m"].shape[1:], []).append(number)
            yield number + 1

    def draw(self, count: int, rng: np.random.Generator) -> Batch:
        """`count` pictures of one size, each at one of its QPs; `prepare` comes before."""
        sizes = [size for size, pool in self.by_size.items() for _ in pool]
        pool = self.by_size[sizes[rng.integers(len(sizes))]]
        found = [self._drawn(pool[rng.integers(len(pool))], rng) for _ in range(count)]
        y_hat, y_m, octaves, bits = zip(*found, strict=True)
        rates = torch.tensor(np.array(bits), dtype=torch.float32).cumsum(dim=1)
        return Batch(
            torch.stack(y_hat),
            torch.stack(y_m),
            torch.tensor(octaves).view(-1, 1, 1, 1),
            dict(zip(CODECS, rates.T, strict=True)),
        )

    def codings(self, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """y_hat times its step and y_m (C, h, w) of a picture at each of its QPs."""
        with np.load(self._file(number)) as sample:
            for k in range(len(sample["qps"])):
                yield _coding(sample, k)

    def _drawn(self, number: int, rng: np.random.Generator):
        with np.load(self._file(number)) as sample:
            k = int(rng.integers(len(sample["qps"])))
            return *_coding(sample, k), octaves_of(int(sample["qps"][k])) / 256, sample["bpp"][k]

    def _sample(self, picture: np.ndarray, qps: list[int], base: int) -> dict[str, np.ndarray]:
        """What is kept of a picture: y_hat in 1/16 and bits per pixel of base and enhancement, at
        each QP, and y_m."""
        if any(n % INPUT_PADDING for n in picture.shape[:2]):
            raise InputError(
                f"expected training pictures with sides in multiples of {INPUT_PADDING}, found "
                f"{picture.shape[:2]}"
            )
        coder, ends = self.codec.coder, (base, self.codec.config.latents)
        kept, rates = [], []
        for qp in qps:
            z, y = self.codec.analysis(picture, qp)
            layers, latents = coder.encode_layers(z, y, octaves_of(qp), ends, ERROR_WEIGHT)
            kept.append(latents.y.astype(np.int32))
            rates.append([8 * len(data) / (picture.shape[0] * picture.shape[1]) for data in layers])
        with torch.no_grad():
            x = torch.from_numpy(picture.transpose(2, 0, 1)[None].copy()).float()
            layers = {name: x[0] for name, x in features_of(self.detector, x).items()}
        seen = FeaturePyramid(layers, picture.shape[:2], picture.shape[:2])
        y_m = self.machine.analyse(seen).y[0].half().numpy()
        return {"qps": np.array(qps), "y": np.stack(kept), "bpp": np.array(rates), "y_m": y_m}

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def _coding(sample, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    step = step_of(int(sample["qps"][k])) / LEVELS / LATENT_STEPS
    return torch.from_numpy(sample["y"][k]).float() * step, torch.from_numpy(sample["y_m"]).float()


class Transforms(nn.Module):
    """The transforms of both codecs by name: of the first channels of y_hat, and of all."""

    def __init__(self, config: TransformConfig, latents: int):
        super().__init__()
        self.config = config
        sizes = (config, replace(config, latents=latents))
        self.each = nn.ModuleDict(
            {name: LatentTransform(size) for name, size in zip(CODECS, sizes, strict=True)}
        )

    def forward(self, y_hat: torch.Tensor, octaves: torch.Tensor) -> dict[str, torch.Tensor]:
        """y_m of each codec."""
        return {name: transform(y_hat, octaves) for name, transform in self.each.items()}


def train(
    config: TransformConfig,
    store: TransformStore,
    schedule: TransformTraining,
    folder: Path,
    report=lambda line: None,
) -> Transforms:
    """Train, or go on with the checkpoint in `folder`; returns the model with averaged weights."""
    accelerator = loop.start(schedule, folder, report)
    torch.manual_seed(schedule.seed)
    model = Transforms(config, store.codec.config.latents)
    path = folder / "transform_state.pth"
    if not path.exists():
        set_statistics(model, store, schedule)
        start_linear(model, store)
    made_from = {
        "pictures": sha256_of(len(store.paths)),
        "picture": store.codec.sha256,
        "machine": store.machine.latents_sha256,
    }
    return loop.fit(accelerator, model, store, schedule, path, loss_terms, report, made_from)


def loss_terms(
    model, store: TransformStore, schedule: TransformTraining, draw: int, _: bool
) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    rng = np.random.default_rng((schedule.seed, draw))
    batch = store.draw(schedule.batch_size, rng)
    wanted = batch.y_m.to(next(model.parameters()).device)
    variance = wanted.var(dim=(0, 2, 3)).mean()
    terms = {}
    for name, y_m in model(batch.y_hat.to(wanted), batch.octaves.to(wanted)).items():
        error = (y_m - wanted).square().mean() / variance
        own = objectives.machine(batch.rates[name].mean(), {"y_m": error}, {"y_m": 1.0}, 1.0)
        terms |= {f"{name}_{term}": value for term, value in own.items()}
    return terms


@torch.no_grad()
def set_statistics(model: Transforms, store: TransformStore, schedule: TransformTraining) -> None:
    """Measure mean and spread of every channel of y_hat and of y_m."""
    rng = np.random.default_rng((schedule.seed, 1 << 40))
    batches = [store.draw(1, rng) for _ in range(STATISTICS_SAMPLES)]
    y_mean, y_std = _statistics([batch.y_hat for batch in batches])
    mean, std = _statistics([batch.y_m for batch in batches])
    for transform in model.each.values():
        latents = transform.config.latents
        transform.y_mean.copy_(y_mean[:latents])
        transform.y_std.copy_(y_std[:latents].clamp(min=1e-2))
        transform.mean.copy_(mean)
        transform.std.copy_(std)


@torch.no_grad()
def start_linear(model: Transforms, store: TransformStore) -> None:
    """Make the 3x3 convolutions the ridge regression of y_m on 3 x 3 cells of y_hat, over all
    codings of all pictures, and what is added to them zero."""
    pictures = sorted(number for pool in store.by_size.values() for number in pool)
    for transform in model.each.values():
        transform.body[-1].weight.zero_()
        transform.body[-1].bias.zero_()
        inputs = 9 * transform.config.latents
        products = torch.zeros(inputs, inputs), torch.zeros(inputs, len(transform.mean))
        for number in pictures:
            for y_hat, y_m in store.codings(number):
                cells = F.unfold(transform.standardised(y_hat[None]), 3, padding=1)[0]
                wanted = (y_m.flatten(1).T - transform.mean) / transform.std
                products[0].addmm_(cells, cells.T)
                products[1].addmm_(cells, wanted)
        squares, mixed = (x.double() for x in products)
        squares.diagonal().add_(RIDGE * squares.diagonal().mean())
        found = torch.linalg.solve(squares, mixed).T
        transform.linear.weight.copy_(found.view_as(transform.linear.weight))


def _statistics(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each channel of batches (N, C, h, w)."""
    rows = torch.cat([x.transpose(0, 1).flatten(1) for x in tensors], dim=1)
    return rows.mean(dim=1), rows.std(dim=1).clamp(min=1e-4)
