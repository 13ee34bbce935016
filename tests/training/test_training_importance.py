# SPDX-License-Identifier: BSD-3-Clause
"""Training of what an encoder knows of importance: its target, exact resumption, refusals."""

import pytest
import torch
from interrupted import interrupted
from vfcn_tiny import CONFIG, tiny_model

from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.diff_fchm.machine.codec import export as export_vfcn
from vcm_plugin.diff_fchm.machine.importance import Importance, export
from vcm_plugin.errors import InputError
from vcm_plugin.training.importance import objectness, train
from vcm_plugin.training.schedules import ImportanceTraining

SCHEDULE = ImportanceTraining(iterations=3, batch_size=2, warmup=1, checkpoint_every=1)


def machine_for(detector_sha256: str, folder) -> MachineCodec:
    return MachineCodec(export_vfcn(tiny_model(), detector_sha256, ["1"], {}, folder / "vfcn"))


@pytest.fixture
def machine(store, tmp_path):
    assert store.channels == CONFIG.channels
    return machine_for(store.detector.weights_sha256, tmp_path)


def test_the_target_is_what_the_detector_looks_at(store):
    size, group = next(iter(store.groups.items()))
    layers, head = store.features(size, group[:2]), store.detector.model.rpn.head
    height, width = (side // 4 for side in layers["p2"].shape[-2:])
    found = objectness(head, layers, (height, width))
    assert found.shape == (2, height, width) and ((found >= 0) & (found <= 1)).all()
    logits, _ = head([layers["p2"][:1]])
    largest = logits[0].sigmoid().max()
    place = logits[0].amax(1).flatten().argmax().item()
    row, column = (n // 4 for n in divmod(place, layers["p2"].shape[-1]))
    assert found[0, row, column] >= largest - 1e-6
    assert torch.equal(objectness(head, {k: x[1:] for k, x in layers.items()}, found.shape[1:]),
                       found[1:])  # fmt: skip


def test_resumed_training_equals_an_undisturbed_one(store, machine, tmp_path):
    whole = train(4, machine, store, SCHEDULE, tmp_path / "whole")
    with interrupted(store, "features", 2):
        train(4, machine, store, SCHEDULE, tmp_path / "killed")
    assert same(whole, train(4, machine, store, SCHEDULE, tmp_path / "killed"))
    path = export(whole, machine.latents_sha256, {}, tmp_path / "importance.safetensors")
    assert same(whole, Importance(path, machine.latents_sha256).network)


def test_a_machine_layer_of_another_detector(store, tmp_path):
    with pytest.raises(InputError, match="--vfcn: expected weights for the detector"):
        train(4, machine_for("0" * 64, tmp_path), store, SCHEDULE, tmp_path / "out")


def same(first, second) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
