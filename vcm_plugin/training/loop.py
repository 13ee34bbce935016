# SPDX-License-Identifier: BSD-3-Clause
"""How does a network train, go on where it was killed, and refuse a checkpoint of other settings?

The one loop of all trainings: AdamW, diffusers' cosine schedule and moving average, accelerate for
devices, processes, precision and trackers. A checkpoint is one file that replaces the one before;
accelerate's save_state writes several, and a kill between them leaves weights of one iteration
beside moments of another.
"""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import is_tensorboard_available
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

from vcm_plugin.entropy.integer import float_weights
from vcm_plugin.entropy.latent_coder import split_stored
from vcm_plugin.errors import InputError, one_line
from vcm_plugin.training.precision import settled
from vcm_plugin.training.schedules import Schedule
from vcm_plugin.weights_file import read_weights

STATE = {"iteration", "config", "schedule", "made_from", "model", "average", "optimizer", "scaler"}
REPORT_EVERY, REPORT_SECONDS = 50, 30.0  # iterations, whichever comes first
MAY_CHANGE = {"iterations", "checkpoint_every"}  # where a checkpoint is resumed
Terms = dict[str, torch.Tensor]  # of the loss, by name


def start(schedule: Schedule, folder: Path, report=lambda line: None) -> Accelerator:
    """Device, processes and precision of a training that keeps its log in `folder`.

    Raises InputError where the precision cannot be used; one process trains in one precision.
    """
    try:
        return Accelerator(
            mixed_precision=settled(schedule, report).mixed_precision,
            cpu=not torch.cuda.is_available(),
            log_with="tensorboard" if is_tensorboard_available() else None,
            project_dir=folder,
        )
    except (ValueError, ImportError) as error:
        raise InputError(
            f"mixed_precision: expected one that can be used here, found "
            f"{schedule.mixed_precision}: {one_line(error)}"
        ) from error


def fit(
    accelerator: Accelerator,
    model,
    store,
    schedule: Schedule,
    path: Path,
    loss_terms: Callable[..., Terms],
    report=lambda line: None,
    made_from: Mapping[str, str | None] | None = None,
):
    """Train a model with a `config` and return it with averaged weights.

    loss_terms(model, store, schedule, draw, with_task): the terms of batch number `draw`, which
    alone decides about every random number. The checkpoint `path` is resumed where it is there.
    made_from: sha256 of what else decides about the weights, by name, for the checkpoint.
    """
    model.to(accelerator.device)
    checkpoint = _Checkpoint(path, accelerator, model, store, schedule, made_from or {})
    begin = checkpoint.resume()
    rate = get_cosine_schedule_with_warmup(
        checkpoint.optimizer, schedule.warmup, schedule.iterations, last_epoch=begin - 1
    )
    wrapped, optimizer = accelerator.prepare(model, checkpoint.optimizer)
    journal = _Journal(accelerator, schedule, begin, report)
    for iteration in range(begin, schedule.iterations):
        draw = iteration * accelerator.num_processes + accelerator.process_index
        terms = loss_terms(wrapped, store, schedule, draw, schedule.with_task(iteration))
        loss = sum(terms.values())
        _require_finite(loss, iteration)
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), schedule.clip_norm)
        optimizer.step()
        rate.step()
        checkpoint.average.step(model.parameters())
        journal.add(iteration + 1, terms)
        if accelerator.is_main_process and _is_due(iteration + 1, schedule):
            checkpoint.save(iteration + 1)
    journal.close()
    checkpoint.average.copy_to(model.parameters())
    return model


def read_checkpoint(path: Path, needed: set[str]) -> dict:
    """What a training saved; raises InputError where the file is missing, damaged or another."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        missing = needed - set(state)
    except _UNREADABLE as error:
        raise InputError(
            f"{path}: expected a checkpoint of a training, found: {one_line(error, 120)}"
        ) from error
    if missing:
        raise InputError(
            f"{path}: expected a checkpoint of a training, found a file without "
            f"{', '.join(sorted(missing))}; name the *_state.pth of its output folder"
        )
    return state


def read_average(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Sizes of the networks and averaged weights of a checkpoint, complete or not."""
    state = read_checkpoint(path, {"config", "average"})
    return state["config"], state["average"]


def starting_weights(path: Path, kind: str) -> dict[str, torch.Tensor]:
    """The weights that a training starts from: a weights file (.safetensors) of this kind, whose
    integer networks become floats again, or the averaged weights of a checkpoint."""
    if path.suffix != ".safetensors":
        return read_average(path)[1]
    tensors = read_weights(path, kind)[1]
    floats, integers = split_stored(tensors)
    del floats["tables"]
    return floats | {f"entropy.{n}": x for n, x in float_weights(integers).items()}


def is_first_process() -> bool:
    """Whether this one exports; false in the others of `accelerate launch` or `torchrun`."""
    return PartialState().is_main_process


_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError)


class _Journal:
    """Reports the means of the loss terms, also to TensorBoard where that is installed."""

    def __init__(self, accelerator: Accelerator, schedule: Schedule, begin: int, report):
        self.accelerator, self.schedule, self.begin, self.report = (
            accelerator, schedule, begin, report,
        )  # fmt: skip
        self.began = self.said = time.monotonic()
        self.seen: list[dict[str, float]] = []
        accelerator.init_trackers("tensorboard")

    def add(self, done: int, terms: Terms) -> None:
        """Note the terms of an iteration; the first and the last are reported in any case."""
        self.seen.append({name: value.item() for name, value in terms.items()})
        now, last = time.monotonic(), done == self.schedule.iterations
        due = done % REPORT_EVERY == 0 or now - self.said > REPORT_SECONDS
        if not (due or last or done == self.begin + 1):
            return
        means = {name: float(np.mean([t.get(name, 0.0) for t in self.seen])) for name in terms}
        self.accelerator.log({f"loss/{name}": mean for name, mean in means.items()}, step=done)
        if self.accelerator.is_main_process:
            pictures = self.schedule.batch_size * self.accelerator.num_processes
            speed = (done - self.begin) * pictures / (now - self.began)
            parts = " ".join(f"{name} {value:.4f}" for name, value in means.items())
            self.report(f"{done}/{self.schedule.iterations} {parts} {speed:.1f} pictures/s")
        self.said, self.seen = now, []

    def close(self) -> None:
        for tracker in self.accelerator.trackers:
            tracker.finish()


class _Checkpoint:
    """What a training needs to go on: weights, their average, the optimizer, in one file."""

    def __init__(self, path: Path, accelerator, model, store, schedule: Schedule, made_from):
        self.path, self.accelerator, self.model = path, accelerator, model
        self.average = EMAModel(model.parameters(), decay=schedule.ema_decay)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        detector = store.detector and store.detector.weights_sha256
        used = {"mixed_precision": accelerator.mixed_precision}  # what "auto" has become
        self.made_by = {
            "config": asdict(model.config),
            "schedule": asdict(schedule) | used,
            "made_from": {"detector": detector, **made_from},
        }

    def resume(self) -> int:
        """Load the file where it is there; returns how many iterations are behind it.

        Raises InputError where its networks, its schedule or what it is made from are others; only
        the number of iterations and of those between checkpoints may change.
        """
        if not self.path.exists():
            return 0
        state = read_checkpoint(self.path, STATE)
        self._require_the_same(state)
        self.model.load_state_dict(state["model"])
        device = self.accelerator.device
        self.average.shadow_params = [state["average"][n].to(device) for n in self._names()]
        self.average.optimization_step = state["iteration"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return state["iteration"]

    def save(self, done: int) -> None:
        """Replace the file after `done` iterations."""
        scaler = self.accelerator.scaler
        averaged = dict(zip(self._names(), self.average.shadow_params, strict=True))
        state = {
            "iteration": done,
            "model": self.model.state_dict(),
            "average": self.model.state_dict() | averaged,
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler and scaler.state_dict(),
            **self.made_by,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")  # one name, so that kills leave one at most
        torch.save(state, partial)
        os.replace(partial, self.path)

    def _names(self) -> list[str]:
        return [name for name, _ in self.model.named_parameters()]

    def _require_the_same(self, state: dict) -> None:
        for part, wanted in self.made_by.items():
            for key in sorted(wanted.keys() - MAY_CHANGE):
                if state[part].get(key) != wanted[key]:
                    raise InputError(
                        f"{self.path}: expected a checkpoint with {key} {wanted[key]}, found "
                        f"{state[part].get(key)}; give another output folder, or the settings that "
                        "it was begun with"
                    )
        iterations = self.made_by["schedule"]["iterations"]
        if state["iteration"] > iterations:
            raise InputError(
                f"{self.path}: expected at most {iterations} iterations, found "
                f"{state['iteration']}; give another output folder, or more --iterations"
            )


def _require_finite(loss: torch.Tensor, iteration: int) -> None:
    if not math.isfinite(loss.item()):
        raise InputError(
            f"iteration {iteration + 1}: expected a finite loss, found {loss.item()}; try a "
            "smaller --learning-rate, or --mixed-precision no"
        )


def _is_due(done: int, schedule: Schedule) -> bool:
    return done % schedule.checkpoint_every == 0 or done == schedule.iterations
