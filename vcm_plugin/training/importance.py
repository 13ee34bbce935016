# SPDX-License-Identifier: BSD-3-Clause
"""Train what an encoder of the machine layer knows of importance, over frozen g_a and detector.

The target of a cell is the largest objectness that the region proposal network of the detector, on
uncompressed features, gives an anchor there or in a neighbouring cell; the loss is the binary
cross-entropy. The ground truth takes no part: a detector can be served only where it looks.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.diff_fchm.machine.importance import ImportanceConfig, ImportanceNetwork
from vcm_plugin.errors import InputError
from vcm_plugin.training import loop
from vcm_plugin.training.feature_loss import draw_batch
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.schedules import ImportanceTraining


class ImportanceModel(ImportanceNetwork):
    """The trained network beside the frozen machine layer, whose y it sees."""

    def __init__(self, config: ImportanceConfig, machine: MachineCodec):
        super().__init__(config)
        self.machine = (machine,)  # a tuple: neither parameters nor state

    def analysed(self, layers: dict[str, torch.Tensor]) -> torch.Tensor:
        """Features p2..p5 (N, C, h, w) -> g_a's output (N, C, h16, w16)."""
        (machine,) = self.machine
        each = range(len(next(iter(layers.values()))))
        with torch.no_grad():
            return torch.cat([
                machine.networks.analysis({name: layer[n] for name, layer in layers.items()})
                for n in each
            ])  # fmt: skip


def train(
    width: int,
    machine: MachineCodec,
    store: FeatureStore,
    schedule: ImportanceTraining,
    folder: Path,
    report=lambda line: None,
) -> ImportanceNetwork:
    """Train, or go on with the checkpoint in `folder`; returns the network with averaged weights.

    Raises InputError where the machine layer is for another detector.
    """
    if machine.metadata["detector_sha256"] != store.detector.weights_sha256:
        raise InputError(
            "--vfcn: expected weights for the detector "
            f"{store.detector.weights_sha256[:8]}, found some for "
            f"{machine.metadata['detector_sha256'][:8]}; give its own, or the other detector"
        )
    accelerator = loop.start(schedule, folder, report)
    torch.manual_seed(schedule.seed)
    store.detector.model.to(accelerator.device)
    machine.to(str(accelerator.device))
    model = ImportanceModel(ImportanceConfig(machine.config.latents, width), machine)
    made_from = {"pictures": store.digest, "machine": machine.latents_sha256}
    path = folder / "importance_state.pth"
    return loop.fit(accelerator, model, store, schedule, path, loss_terms, report, made_from).eval()


def loss_terms(
    model, store: FeatureStore, schedule: ImportanceTraining, draw: int, _: bool
) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    _, _, _, layers = draw_batch(store, schedule, draw)
    y = getattr(model, "module", model).analysed(layers)
    wanted = objectness(store.detector.model.rpn.head, layers, y.shape[-2:])
    return {"entropy": F.binary_cross_entropy_with_logits(model(y)[:, 0], wanted)}


@torch.no_grad()
def objectness(head, layers: dict[str, torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
    """Features p2..p5 (N, C, h, w) -> the largest objectness, 0 .. 1, of all layers and anchors in
    a cell of the grid of y or in one beside it, (N, h16, w16).

    head: of the region proposal network.
    """
    logits, _ = head(list(layers.values()))
    largest = None
    for layer in logits:
        cells = layer.amax(1, keepdim=True)
        if cells.shape[-1] >= grid[1]:
            cells = F.adaptive_max_pool2d(cells, grid)
        else:
            cells = F.interpolate(cells, size=grid)
        largest = cells if largest is None else torch.maximum(largest, cells)
    return F.max_pool2d(largest, 3, stride=1, padding=1)[:, 0].sigmoid()
