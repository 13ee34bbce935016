# SPDX-License-Identifier: BSD-3-Clause
"""Train VFCN on the features of a frozen detector: one model for every rate.

Loss of a picture at scale s, everything but the rate being in the domain that IVN normalised to:

    bpp + lambda * 255^2 * sum of w_l MSE_l  +  task_weight / s^2 * sum of the detector's losses

Cells farther than MARGIN from every object count background_weight in the MSE. The squared error of
the features is s^2 times that of the normalised ones, so both distortions weigh alike in features,
and a larger s asks for fewer bits. The detector's losses are those of NN-Part2 on the decoded
features with the ground truth of the training set, from `task_from` on.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

from vcm_plugin import ivn
from vcm_plugin.errors import InputError
from vcm_plugin.split.backbone import with_p6
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.vfcn import LAYERS, Vfcn, VfcnConfig

STATISTICS_PICTURES = 64
MARGIN = 12  # pixels of the network input around an object's box


@dataclass(frozen=True)
class VfcnTraining:
    """Schedule and loss of one training; the seed fixes batches, scales and noise."""

    iterations: int = 8000
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup: int = 200
    lmbda: float = 0.003
    layer_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # p2..p5
    background_weight: float = 0.1
    scales: tuple[float, float] = (0.25, 4.0)  # s is log-uniform between them
    task_weight: float = 0.0
    task_from: float = 0.5  # share of the iterations without the detector's losses
    mixed_precision: str = "no"
    ema_decay: float = 0.998
    checkpoint_every: int = 250
    seed: int = 1


def train(
    config: VfcnConfig,
    store: FeatureStore,
    schedule: VfcnTraining,
    folder: Path,
    init: dict[str, torch.Tensor] | None = None,
    report=lambda line: None,
) -> Vfcn:
    """Train and return the model with averaged weights.

    A checkpoint in `folder` is resumed at the last multiple of schedule.checkpoint_every with the
    same batches, scales and noise as without the interruption. Started by `accelerate launch`,
    every process takes other batches, and the first one writes.
    """
    accelerator = Accelerator(
        mixed_precision=schedule.mixed_precision, cpu=not torch.cuda.is_available()
    )
    store.detector.model.to(accelerator.device)
    folder.mkdir(parents=True, exist_ok=True)
    model = _new_model(config, store, schedule, init)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(schedule.ema_decay)
    ).to(accelerator.device)
    optimizer = torch.optim.AdamW(model.parameters(), schedule.learning_rate, weight_decay=1e-4)
    path = folder / "vfcn_state.pth"
    start = resume(path, model, average, optimizer) if path.exists() else 0
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    journal = _Journal(schedule, start, folder, report, accelerator.is_main_process)
    for iteration in range(start, schedule.iterations):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * _lr_factor(iteration, schedule)
        draw = iteration * accelerator.num_processes + accelerator.process_index
        terms = loss_terms(wrapped, store, schedule, draw, _with_task(iteration, schedule))
        loss = sum(terms.values())
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"iteration {iteration}: the loss is {loss.item()}")
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        journal.add(iteration + 1, terms)
        if accelerator.is_main_process and _is_due(iteration + 1, schedule):
            _save(path, iteration + 1, model, average, optimizer)
    return average.module


class _Journal:
    """Reports the means of the loss terms every 50 iterations, also to TensorBoard if installed."""

    def __init__(self, schedule: VfcnTraining, start: int, folder: Path, report, speaks: bool):
        self.schedule, self.start, self.report, self.speaks = schedule, start, report, speaks
        self.board = _tensorboard(folder) if speaks else None
        self.began, self.seen = time.monotonic(), []

    def add(self, done: int, terms: dict[str, torch.Tensor]) -> None:
        self.seen.append({name: value.item() for name, value in terms.items()})
        if done % 50 or not self.speaks:
            return
        means = {name: np.mean([t.get(name, 0.0) for t in self.seen]) for name in terms}
        rate = (done - self.start) * self.schedule.batch_size / (time.monotonic() - self.began)
        parts = " ".join(f"{name} {value:.4f}" for name, value in means.items())
        self.report(f"{done}/{self.schedule.iterations} {parts} {rate:.1f} pictures/s")
        if self.board:
            self.board.add_scalars("loss", means, done)
        self.seen = []


def _new_model(config: VfcnConfig, store: FeatureStore, schedule: VfcnTraining, init) -> Vfcn:
    torch.manual_seed(schedule.seed)
    model = Vfcn(config).to(memory_format=torch.channels_last)
    if init is None:
        set_statistics(model, store, schedule)
    else:
        model.load_state_dict(init)
    return model


def _is_due(done: int, schedule: VfcnTraining) -> bool:
    return done % schedule.checkpoint_every == 0 or done == schedule.iterations


def loss_terms(
    model, store: FeatureStore, schedule: VfcnTraining, draw: int, with_task: bool
) -> dict[str, torch.Tensor]:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    rng = np.random.default_rng((schedule.seed, draw))
    torch.manual_seed(int(rng.integers(1 << 62)))
    size, pictures = store.draw(schedule.batch_size, rng)
    device = store.detector.model.rpn.head.cls_logits.weight.device
    layers = {name: x.to(device) for name, x in store.features(size, pictures).items()}
    low, high = ivn.feature_range(layers, size)
    exponents = torch.from_numpy(rng.uniform(*np.log(schedule.scales), len(pictures)))
    scales = exponents.exp().float().to(device)
    ranges = torch.stack((scales * low, scales * high), dim=1)  # (N, 2)
    low, width = ranges[:, 0].view(-1, 1, 1, 1), (ranges[:, 1] - ranges[:, 0]).view(-1, 1, 1, 1)
    normal = {name: ((x - low) / width) for name, x in layers.items()}
    decoded, bits = model(normal, ranges)
    decoded = {name: x.float() for name, x in decoded.items()}
    near = near_objects(store.boxes(size, pictures), layers["p2"].shape[-2:]).to(device)
    distortion = 0.0
    for name, weight in zip(LAYERS, schedule.layer_weights):
        cells = near.lerp(torch.ones_like(near), schedule.background_weight)
        distortion += weight * (cells * (decoded[name] - normal[name]).square()).mean()
        near = F.max_pool2d(near, 2, ceil_mode=True)
    terms = {
        "bpp": bits.mean() / (size[0] * size[1]),
        "mse": schedule.lmbda * 255**2 * distortion,
    }
    if with_task:
        features = {name: x * width + low for name, x in decoded.items()}
        weights = schedule.task_weight / scales**2
        targets = store.targets(size, pictures)
        terms["task"] = task_loss(store.detector.model, features, size, targets, weights)
    return terms


def near_objects(boxes: list[np.ndarray], grid: tuple[int, int]) -> torch.Tensor:
    """1 for cells of p2 (N, 1, h, w) within MARGIN of a box x0, y0, x1, y1, else 0."""
    near = torch.zeros(len(boxes), 1, *grid)
    for plane, found in zip(near, boxes):
        for x0, y0, x1, y1 in found:
            left, top = (max(0, math.floor((v - MARGIN) / 4)) for v in (x0, y0))
            right, bottom = (math.ceil((v + MARGIN) / 4) for v in (x1, y1))
            plane[:, top:bottom, left:right] = 1.0
    return near


def task_loss(detector, features, size, targets, weights: torch.Tensor) -> torch.Tensor:
    """The losses of NN-Part2 on decoded features, each picture's gradient times its weight.

    The value is the plain sum of the losses times the mean weight, so that it can be reported.
    """
    weighted = {}
    for name, x in features.items():
        scaled = x * (weights / weights.mean()).view(-1, 1, 1, 1)
        weighted[name] = scaled + (x - scaled).detach()
    detector.train()  # its normalisation is frozen; only the losses depend on the mode
    sizes = [size] * len(targets)
    targets = [{k: v.to(weights.device) for k, v in target.items()} for target in targets]
    images = ImageList(weighted["p2"], sizes)
    proposals, rpn = detector.rpn(images, with_p6(weighted), targets)
    _, heads = detector.roi_heads(weighted, proposals, sizes, targets)
    detector.eval()
    return weights.mean() * sum([*rpn.values(), *heads.values()])


@torch.no_grad()
def set_statistics(model: Vfcn, store: FeatureStore, schedule: VfcnTraining) -> None:
    """Measure mean and spread of every channel and the typical range, and start from them."""
    rng = np.random.default_rng((schedule.seed, 1 << 40))
    means, squares, widths = [], [], []
    for _ in range(max(1, STATISTICS_PICTURES // schedule.batch_size)):
        size, pictures = store.draw(schedule.batch_size, rng)
        layers = store.features(size, pictures)
        low, high = ivn.feature_range(layers, size)
        widths.append(high - low)
        means.append(torch.stack([layers[name].mean((0, 2, 3)) for name in LAYERS]))
        squares.append(torch.stack([layers[name].square().mean((0, 2, 3)) for name in LAYERS]))
    mean = torch.stack(means).mean(0)
    model.mean.copy_(mean)
    model.std.copy_((torch.stack(squares).mean(0) - mean.square()).clamp(min=1e-8).sqrt())
    model.typical_width.fill_(float(np.mean(widths)))


def resume(path: Path, model: Vfcn, average, optimizer) -> int:
    """Load a checkpoint; returns how many iterations it has behind it."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    found, wanted = state["config"], asdict(model.config)
    for key in wanted:
        if found.get(key) != wanted[key]:
            raise InputError(
                f"{path}: expected a checkpoint with {key} {wanted[key]}, found {found.get(key)}; "
                "give another output folder, or the settings that it was begun with"
            )
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return state["iteration"]


def read_average(path: Path) -> tuple[VfcnConfig, dict[str, torch.Tensor]]:
    """The averaged weights of a checkpoint, complete or not, and the sizes of their networks."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    prefix = "module."
    weights = {
        name.removeprefix(prefix): x
        for name, x in state["average"].items()
        if name.startswith(prefix)
    }
    config = state["config"]
    return VfcnConfig(**config | {"slices": tuple(config["slices"])}), weights


def _with_task(iteration: int, schedule: VfcnTraining) -> bool:
    started = iteration >= schedule.task_from * schedule.iterations
    return schedule.task_weight > 0.0 and started


def _lr_factor(iteration: int, schedule: VfcnTraining) -> float:
    if iteration < schedule.warmup:
        return (iteration + 1) / schedule.warmup
    progress = (iteration - schedule.warmup) / max(1, schedule.iterations - schedule.warmup)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * progress))


def _tensorboard(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder / "tensorboard")


def _save(path: Path, done: int, model: Vfcn, average, optimizer) -> None:
    state = {
        "iteration": done,
        "config": asdict(model.config),
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)
