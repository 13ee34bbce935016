# SPDX-License-Identifier: BSD-3-Clause
"""How does the network of a feature codec train on a frozen detector's features, and resume?"""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from vcm_plugin.errors import InputError
from vcm_plugin.training.feature_store import FeatureStore

PRECISIONS = ("no", "fp16", "bf16", "fp8")
STATE = {"iteration", "config", "model", "average", "optimizer", "schedule", "detector"}
Terms = dict[str, torch.Tensor]  # of the loss, by name


@dataclass(frozen=True)
class Schedule:
    """What every such training has; the seed fixes batches and noise."""

    iterations: int = 8000
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup: int = 200
    layer_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # p2..p5
    background_weight: float = 0.1
    task_weight: float = 0.0
    task_from: float = 0.5  # share of the iterations without the detector's losses
    mixed_precision: str = "no"
    ema_decay: float = 0.998  # 0: the last weights as they are
    checkpoint_every: int = 250
    seed: int = 1

    def __post_init__(self):
        for name in ("iterations", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.mixed_precision not in PRECISIONS:
            raise InputError(
                f"mixed_precision: expected one of {', '.join(PRECISIONS)}, found "
                f"{self.mixed_precision!r}"
            )


def start(store: FeatureStore, schedule: Schedule) -> Accelerator:
    """The device of a training, with the detector on it."""
    accelerator = Accelerator(
        mixed_precision=schedule.mixed_precision, cpu=not torch.cuda.is_available()
    )
    store.detector.model.to(accelerator.device)
    return accelerator


def fit(
    accelerator: Accelerator,
    model,
    store: FeatureStore,
    schedule: Schedule,
    path: Path,
    loss_terms: Callable[..., Terms],
    report=lambda line: None,
):
    """Train a model with a `config` and return it with averaged weights.

    loss_terms(model, store, schedule, draw, with_task): the terms of batch number `draw`, which
    alone decides about every random number. The checkpoint `path` is resumed where it is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=_averaging(schedule.ema_decay))
    average.to(accelerator.device)
    optimizer = torch.optim.AdamW(model.parameters(), schedule.learning_rate, weight_decay=1e-4)
    detector = store.detector and store.detector.weights_sha256
    made_by = {"schedule": asdict(schedule), "detector": detector}
    begin = resume(path, model, average, optimizer, made_by) if path.exists() else 0
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    journal = _Journal(schedule, begin, path.parent, report, accelerator.is_main_process)
    for iteration in range(begin, schedule.iterations):
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
            _save(path, iteration + 1, model, average, optimizer, made_by)
    return average.module


class _Journal:
    """Reports the means of the loss terms every 50 iterations, also to TensorBoard if installed."""

    def __init__(self, schedule: Schedule, start: int, folder: Path, report, speaks: bool):
        self.schedule, self.start, self.report, self.speaks = schedule, start, report, speaks
        self.board = _tensorboard(folder) if speaks else None
        self.began, self.seen = time.monotonic(), []

    def add(self, done: int, terms: Terms) -> None:
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


def resume(path: Path, model, average, optimizer, made_by: dict) -> int:
    """Load a checkpoint; returns how many iterations it has behind it.

    Raises InputError where its networks, its schedule or its detector are others; only the number
    of iterations and of those between checkpoints may change.
    """
    state = read_checkpoint(path, STATE)
    wanted = asdict(model.config) | made_by["schedule"] | {"detector": made_by["detector"]}
    found = state["config"] | state["schedule"] | {"detector": state["detector"]}
    for key in wanted.keys() - {"iterations", "checkpoint_every"}:
        if found.get(key) != wanted[key]:
            raise InputError(
                f"{path}: expected a checkpoint with {key} {wanted[key]}, found {found.get(key)}; "
                "give another output folder, or the settings that it was begun with"
            )
    if state["iteration"] > wanted["iterations"]:
        raise InputError(
            f"{path}: expected at most {wanted['iterations']} iterations, found "
            f"{state['iteration']}; give another output folder, or more --iterations"
        )
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return state["iteration"]


_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError)


def read_checkpoint(path: Path, needed: set[str]) -> dict:
    """What _save wrote. Raises InputError where the file is missing, damaged or another."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        missing = needed - set(state)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: expected a checkpoint of a training, found: {reason}") from error
    if missing:
        raise InputError(
            f"{path}: expected a checkpoint of a training, found a file without "
            f"{', '.join(sorted(missing))}; name the *_state.pth of its output folder"
        )
    return state


def read_average(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Sizes of the networks and averaged weights of a checkpoint, complete or not."""
    state = read_checkpoint(path, {"config", "average"})
    prefix = "module."
    weights = {
        name.removeprefix(prefix): x
        for name, x in state["average"].items()
        if name.startswith(prefix)
    }
    return state["config"], weights


def _averaging(decay: float):
    """An exponential average that reaches `decay` slowly, so that it forgets the first weights."""

    def average(averaged, current, count):
        return averaged + (current - averaged) * (1.0 - min(decay, (1.0 + count) / (10.0 + count)))

    return average


def _is_due(done: int, schedule: Schedule) -> bool:
    return done % schedule.checkpoint_every == 0 or done == schedule.iterations


def _with_task(iteration: int, schedule: Schedule) -> bool:
    started = iteration >= schedule.task_from * schedule.iterations
    return schedule.task_weight > 0.0 and started


def _lr_factor(iteration: int, schedule: Schedule) -> float:
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


def _save(path: Path, done: int, model, average, optimizer, made_by: dict) -> None:
    state = {
        "iteration": done,
        "config": asdict(model.config),
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        **made_by,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)
