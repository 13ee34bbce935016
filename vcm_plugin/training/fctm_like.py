# SPDX-License-Identifier: BSD-3-Clause
"""Train fctm_like on the features of a frozen detector: one model for every QP.

Loss of a picture at a QP, with the step of VVC's quantiser at that QP in units of b:

    sum of w_l MSE_l of the Z-scores  +  rate_weight * step^2 * bits per feature of p4
    + task_weight * sum of the detector's losses

Each channel of b is quantised as an encoder does it: its cosine transform, with a dead zone. The
bits are log2(1 + |coefficient| / step). rate_weight 0.115 is where bits and squared errors balance
at high rates: d(step^2 / 12) per bit is 2 ln 2 / 12 of step^2.

Training begins at the best linear code (`start`), so that it can only gain.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from anchors.fctm_networks import CELLS, GRID, UNIT, Fctm, FctmConfig, in_cells
from vcm_plugin.errors import InputError
from vcm_plugin.training import loop
from vcm_plugin.training.feature_loss import (
    draw_batch,
    feature_statistics,
    near_objects,
    task_loss,
    weighted_mse,
)
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.schedules import FctmTraining

START_PICTURES = 160  # from which the linear code is made
SENSITIVITY_PICTURES = 32  # whose losses say what errors matter
ITERATIONS = 2  # of the randomised decomposition
GATE_STEPS, FAR = 200, 0.35  # of the gate's start; its value far from objects
HEADROOM = 1.15  # of the range of b over what the linear code has on these pictures


def train(
    config: FctmConfig,
    store: FeatureStore,
    schedule: FctmTraining,
    folder: Path,
    report=lambda line: None,
) -> Fctm:
    """Train, or go on with the checkpoint in `folder`; returns the model with averaged weights."""
    accelerator = loop.start(schedule, folder, report)
    store.detector.model.to(accelerator.device)
    torch.manual_seed(schedule.seed)
    model = Fctm(config).to(memory_format=torch.channels_last)
    path = folder / "fctm_like_state.pth"
    if not path.exists():
        start(model, store, schedule)
    made_from = {"pictures": store.digest}
    trained = loop.fit(accelerator, model, store, schedule, path, loss_terms, report, made_from)
    trained.order.copy_(importance_order(trained, store, schedule))
    return trained


def loss_terms(
    model, store: FeatureStore, schedule: FctmTraining, draw: int, with_task: bool
) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    rng, size, pictures, layers = draw_batch(store, schedule, draw)
    device = layers["p2"].device
    qps = torch.from_numpy(rng.uniform(*schedule.qps, len(pictures))).float().to(device)
    decoded, errors, bits, steps = model(layers, qps)
    config = getattr(model, "module", model).config
    bits = bits * config.reduced / config.channels
    terms = {
        "mse": weighted_mse(errors, store.boxes(size, pictures), schedule),
        "rate": schedule.rate_weight * (steps.square() * bits).mean(),
    }
    if with_task:
        weights = torch.full_like(qps, schedule.task_weight)
        targets = store.targets(size, pictures)
        terms["task"] = task_loss(store.detector.model, decoded, size, targets, weights)
    return terms


def start(model: Fctm, store: FeatureStore, schedule: FctmTraining) -> None:
    """Make the networks the Karhunen-Loeve transform of cells of p4, and note the range of b.

    A channel counts by the squared error that it has there, and as much by what such an error does
    to the detector's losses (`sensitivity`); a cell without an object near as in the loss, and the
    gate begins to close there. Raises InputError for fewer cells than channels.
    """
    mean, std, _ = feature_statistics(store, schedule)
    model.mean.copy_(mean)
    model.std.copy_(std)
    shares = sensitivity(model, store, schedule)
    weights = {name: (0.5 / n**2 + 0.5 * shares[name]).sqrt() for name, n in CELLS.items()}
    with torch.no_grad():
        cells = [_cells(*batch, weights, schedule) for batch in _batches(model, store, schedule)]
        _start_linear(model, torch.cat(cells), weights, schedule.seed)
        found = [
            (model.reduce.linear(x), _near(x, boxes))
            for x, boxes in _batches(model, store, schedule)
        ]
    low, high = min(b.min() for b, _ in found), max(b.max() for b, _ in found)
    model.value_range.copy_(HEADROOM * torch.stack((low, high)))
    _start_gate(model, found, schedule.seed)


def sensitivity(
    model: Fctm, store: FeatureStore, schedule: FctmTraining
) -> dict[str, torch.Tensor]:
    """Mean square of the gradient of the detector's losses by the Z-scores, (C,) of each layer, of
    p5 for each of its four repetitions; together the layers weigh as with 1 / CELLS^2."""
    sums = {name: torch.zeros(model.config.channels) for name in CELLS}
    rng = np.random.default_rng((schedule.seed, 1 << 42))
    for _ in range(max(1, SENSITIVITY_PICTURES // schedule.batch_size)):
        size, pictures = store.draw(schedule.batch_size, rng)
        layers = store.features(size, pictures)
        standard = {n: x.requires_grad_() for n, x in model.standard(layers).items()}
        targets, ones = store.targets(size, pictures), torch.ones(len(pictures))
        task_loss(store.detector.model, model.features(standard), size, targets, ones).backward()
        for name, x in standard.items():
            sums[name] += x.grad.square().mean((0, 2, 3))
    sums["p5"] /= 4
    whole = sum(n**2 * sums[name].mean() for name, n in CELLS.items())
    return {name: x * (len(CELLS) / whole) for name, x in sums.items()}


def _start_linear(model: Fctm, cells: torch.Tensor, weights: dict, seed: int) -> None:
    """Set the linear code from weighted cells (cells, features)."""
    count, channels = model.config.reduced, model.config.channels
    if min(cells.shape) < count:
        raise InputError(
            f"reduced: expected at most {min(cells.shape)} channels, which is how many cells or "
            f"features of a cell there are, found {count}; give more pictures or --reduced"
        )
    torch.manual_seed(seed)
    oversampled = min(count + 16, *cells.shape)
    basis = torch.svd_lowrank(cells, oversampled, niter=ITERATIONS)[2][:, :count]
    parts = basis.split([channels * n**2 for n in CELLS.values()])
    for pool, spread, part, (name, n) in zip(
        model.reduce.pools, model.restore.spread, parts, CELLS.items()
    ):
        weight = weights[name].view(channels, 1, 1, 1) * n
        kernels = part.view(channels, n, n, count)
        pool.weight.copy_((kernels * weight).permute(3, 0, 1, 2) / UNIT)
        spread.weight.copy_((kernels / weight).reshape(channels * n**2, count, 1, 1) / UNIT)


def _start_gate(model: Fctm, found: list, seed: int) -> None:
    """Let the gate be 1 near objects and FAR elsewhere, as well as it can tell that from b.

    found: batches of b and of the cells near objects.
    """
    reduce, rng = model.reduce, np.random.default_rng(seed)
    optimizer = torch.optim.Adam([*reduce.look.parameters(), *reduce.gate.parameters()], 2e-3)
    for _ in range(GATE_STEPS):
        b, near = found[int(rng.integers(len(found)))]
        error = reduce.gates(reduce.seen(b)) - near.lerp(torch.full_like(near, FAR), 1.0 - near)
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()


@torch.no_grad()
def importance_order(model: Fctm, store: FeatureStore, schedule: FctmTraining) -> torch.Tensor:
    """Channels of b by falling importance: mean square times what restoration makes of a unit."""
    found = [model.reduce(x).square().mean((0, 2, 3)) for x, _ in _batches(model, store, schedule)]
    gains = sum(spread.weight.square().sum((0, 2, 3)) for spread in model.restore.spread)
    return torch.argsort(torch.stack(found).mean(0) * gains, descending=True)


def _batches(model: Fctm, store: FeatureStore, schedule: FctmTraining):
    """Z-scores of START_PICTURES pictures in batches, and the boxes of each picture."""
    rng = np.random.default_rng((schedule.seed, 1 << 41))
    for _ in range(max(1, START_PICTURES // schedule.batch_size)):
        size, pictures = store.draw(schedule.batch_size, rng)
        yield model.standard(store.features(size, pictures)), store.boxes(size, pictures)


def _cells(x: dict, boxes, weights: dict, schedule: FctmTraining) -> torch.Tensor:
    """Each cell of p4 with all that lies in it, weighted, (cells, features)."""
    near = _near(x, boxes)
    count = near.lerp(torch.ones_like(near), schedule.background_weight).sqrt()
    parts = [
        F.pixel_unshuffle(layer * weights[name].view(1, -1, 1, 1), CELLS[name])
        for name, layer in in_cells(x).items()
    ]
    return (torch.cat(parts, dim=1) * count).permute(0, 2, 3, 1).flatten(0, 2)


def _near(x: dict, boxes) -> torch.Tensor:
    """1 for cells of p4 near an object, else 0."""
    near = near_objects(boxes, x["p2"].shape[-2:])
    return F.adaptive_max_pool2d(near, tuple(x[GRID].shape[-2:]))
