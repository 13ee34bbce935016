# SPDX-License-Identifier: BSD-3-Clause
"""Train VFCN on the features of a frozen detector: one model for every rate.

Loss of a picture at scale s, everything but the rate being in the domain that IVN normalised to:

    bpp + lambda * 255^2 * sum of w_l MSE_l  +  task_weight / s^2 * sum of the detector's losses

A detector is cut at any split point of which VFCN codes the layers (config.split_point); the losses
of the detector are those of p2..p5.

Cells farther than MARGIN from every object count background_weight in the MSE. The squared error of
the features is s^2 times that of the normalised ones, so both distortions weigh alike in features,
and a larger s asks for fewer bits. The detector's losses are those of NN-Part2 on the decoded
features with the ground truth of the training set, from `task_from` on.

The range of a batch is that of all its pictures, as published; a codec takes that of its picture,
in the mean 0.23 octaves narrower on the mini-CTC, so that s is not quite the same in both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vcm_plugin.diff_fchm.machine import ivn
from vcm_plugin.diff_fchm.machine.config import VfcnConfig
from vcm_plugin.diff_fchm.machine.vfcn import Vfcn, gains_of_ivn
from vcm_plugin.errors import InputError
from vcm_plugin.files import sha256_of_file
from vcm_plugin.training import loop
from vcm_plugin.training.feature_loss import draw_batch, feature_statistics, task_loss, weighted_mse
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.schedules import VfcnTraining


def train(
    config: VfcnConfig,
    store: FeatureStore,
    schedule: VfcnTraining,
    folder: Path,
    init: Path | None = None,
    report=lambda line: None,
) -> Vfcn:
    """Train and return the model with averaged weights.

    A checkpoint in `folder` is resumed at the last multiple of schedule.checkpoint_every with the
    same batches, scales and noise as without the interruption. Started by `accelerate launch`,
    every process takes other batches, and the first one writes. init: a checkpoint or a
    weights file to start from; gain units may start from IVN, which they then are at their levels.
    """
    accelerator = loop.start(schedule, folder, report)
    store.detector.model.to(accelerator.device)
    model = _new_model(config, store, schedule, init)
    path = folder / "vfcn_state.pth"
    made_from = {"pictures": store.digest}
    made_from["init"] = sha256_of_file(init) if init else None
    return loop.fit(accelerator, model, store, schedule, path, loss_terms, report, made_from)


def loss_terms(
    model, store: FeatureStore, schedule: VfcnTraining, draw: int, with_task: bool
) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    rng, size, pictures, layers = draw_batch(store, schedule, draw)
    device = next(iter(layers.values())).device
    low, high = ivn.feature_range(layers, size)
    exponents = torch.from_numpy(rng.uniform(*np.log(schedule.scales), len(pictures)))
    scales = exponents.exp().float().to(device)
    ranges = torch.stack((scales * low, scales * high), dim=1)  # (N, 2)
    low, width = ranges[:, 0].view(-1, 1, 1, 1), (ranges[:, 1] - ranges[:, 0]).view(-1, 1, 1, 1)
    config = getattr(model, "module", model).config
    normal = {level: (layers[name] - low) / width for level, name in config.levels.items()}
    decoded, bits = model(normal, ranges)
    decoded = {name: x.float() for name, x in decoded.items()}
    errors = {name: decoded[name] - normal[name] for name in decoded}
    distortion = weighted_mse(errors, store.boxes(size, pictures), schedule, config.stride)
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


def set_statistics(model: Vfcn, store: FeatureStore, schedule: VfcnTraining) -> None:
    """Measure mean and spread of every channel and the typical range, and start from them."""
    mean, std, width = feature_statistics(store, schedule)
    model.mean.copy_(mean)
    model.std.copy_(std)
    model.typical_width.fill_(width)


def read_average(path: Path) -> tuple[VfcnConfig, dict[str, torch.Tensor]]:
    """The averaged weights of a checkpoint, complete or not, and the sizes of their networks."""
    config, weights = loop.read_average(path)
    return VfcnConfig(**config | {"slices": tuple(config["slices"])}), weights


def _new_model(
    config: VfcnConfig, store: FeatureStore, schedule: VfcnTraining, init: Path | None
) -> Vfcn:
    _check(config, store, schedule)
    torch.manual_seed(schedule.seed)
    model = Vfcn(config).to(memory_format=torch.channels_last)
    if init is None:
        set_statistics(model, store, schedule)
    else:
        weights = loop.starting_weights(init, "vfcn")
        if config.variant == "gain" and "log_gains" not in weights and "shrink" in weights:
            weights["log_gains"] = gains_of_ivn(weights["shrink"])
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(
                "--init: expected weights of networks of the same sizes, found others"
            ) from error
    return model


def _check(config: VfcnConfig, store: FeatureStore, schedule: VfcnTraining) -> None:
    """Raise InputError where the networks are for other layers than the detector's."""
    wanted, found = config.each_channels, tuple(store.layer_channels)
    if (config.split_point, wanted) != (store.split_point, found):
        raise InputError(
            f"expected networks for the layers of this detector, split point {store.split_point} "
            f"with {', '.join(map(str, found))} channels; found {config.split_point} with "
            f"{', '.join(map(str, wanted))}; set split_point, and channels or layer_channels"
        )
    if schedule.task_weight and config.split_point != "fpn":
        raise InputError(
            f"task_weight: expected 0 at the split point {config.split_point}, since the losses of "
            f"a detector are known for p2..p5 alone, found {schedule.task_weight}"
        )
