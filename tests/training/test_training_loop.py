# SPDX-License-Identifier: BSD-3-Clause
"""Does every training say what it does from the first iteration on, and go on only as it began?"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hvcn_tiny import tiny_hvcn, tiny_prior
from restorer_tiny import SIZES
from vfcn_tiny import CONFIG, tiny_weights

from anchors.fctm_config import FctmConfig
from anchors.msfc_config import MsfcConfig
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import InputError
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training import detector, fctm_like, loop, msfc, precision, restorer, vfcn
from vcm_plugin.training.hvcn import recipe
from vcm_plugin.training.hvcn.samples import Samples
from vcm_plugin.training.restorer_samples import RestorerStore, prepare
from vcm_plugin.training.schedules import (
    DetectorTraining,
    FctmTraining,
    HvcnTraining,
    MsfcTraining,
    RestorerTraining,
    Schedule,
    VfcnTraining,
)

SHORT = {"iterations": 1, "batch_size": 1, "warmup": 0, "checkpoint_every": 1}
MSFC = MsfcConfig(
    channels=8, fused_width=16, reduced=10, squeezed=4, width4=8, width3=8, width2=8
)  # fmt: skip
FCTM = FctmConfig(channels=8, reduced=10, hidden=8, refined=4)


@dataclass(frozen=True)
class Training:
    """One of the trainings: its schedule, how it is started, and another value for each field."""

    schedule: Schedule
    start: Callable[[Schedule, Path, Callable], object]
    others: dict


def trainings(store, folder: Path) -> dict[str, Training]:
    machine = MachineCodec(tiny_weights(folder))
    paths = [entry.path for entry in store.dataset.pictures]

    def hvcn(schedule, folder, report):
        prior = tiny_prior()
        samples = Samples(paths, schedule.crop, prior, store.detector, machine)
        prior.vae.requires_grad_(False)
        prior.unet.requires_grad_(False)
        human = recipe.Human(schedule.stage, tiny_hvcn(machine, prior))
        return recipe.train(human, samples, schedule, folder, report)

    sources = [partial(read_picture, path) for path in paths[:1]]
    assert list(prepare(sources, folder / "coded", store.detector, machine, codings=1)) == [1]
    coded = RestorerStore(folder / "coded", store.detector)
    sizes = {"stem_out_channels": 16, "res2_out_channels": 16, "fpn_channels": 16}
    small = replace(store.detector.config, box_fc_dim=16, **sizes)
    common = {"learning_rate": 0.5, "warmup": 1, "seed": 9, "clip_norm": 9.0, "ema_decay": 0.5,
              "weight_decay": 0.5, "batch_size": 2}  # fmt: skip
    task = {"layer_weights": (2.0, 1.0, 1.0, 1.0), "background_weight": 0.5, "task_weight": 0.5,
            "task_from": 0.1}  # fmt: skip
    return {
        "vfcn": Training(
            VfcnTraining(**SHORT),
            lambda s, folder, report: vfcn.train(CONFIG, store, s, folder, None, report),
            common | task | {"lmbda": 9.0, "scales": (0.5, 1.0)},
        ),
        "msfc": Training(
            MsfcTraining(**SHORT),
            lambda s, folder, report: msfc.train(MSFC, store, s, folder, report),
            common | task | {"rate_weight": 9.0, "qps": (9.0, 10.0)},
        ),
        "fctm_like": Training(
            FctmTraining(**SHORT),
            lambda s, folder, report: fctm_like.train(FCTM, store, s, folder, report),
            common | task | {"rate_weight": 9.0, "qps": (9.0, 10.0)},
        ),
        "detector": Training(
            DetectorTraining(**SHORT, crop=(64, 64)),
            lambda s, folder, report: detector.train(small, store.dataset, s, folder, None, report),
            common | {"crop": (64, 96)},
        ),
        "hvcn": Training(
            HvcnTraining(**SHORT, crop=(64, 64), sampling_steps=1, lpips_weight=0.0),
            hvcn,
            common | {"scales": (0.5, 1.0), "quantiser_steps": (0.5, 1.0), "rate_weight": 9.0,
                      "latent_weight": 9.0, "picture_weight": 9.0, "lpips_weight": 9.0,
                      "machine_weight": 9.0, "start": 100, "sampling_steps": 0},
        ),
        "restorer": Training(
            RestorerTraining(**SHORT, crop=64, structure_crop=176, structure_batch=1),
            lambda s, folder, report: restorer.train(SIZES, coded, s, folder, report=report),
            common | {"ms_ssim_weight": 9.0, "structure_from": 0.5, "structure_crop": 184,
                      "structure_batch": 2, "luma_weight": 9.0, "vif_weight": 9.0,
                      "haarpsi_weight": 9.0},
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def known(store, tmp_path_factory):
    return trainings(store, tmp_path_factory.mktemp("trainings"))


@pytest.mark.parametrize("network", ["vfcn", "msfc", "fctm_like", "detector", "hvcn", "restorer"])
def test_a_checkpoint_of_other_settings_is_refused_by_name(known, tmp_path, network):
    training, lines = known[network], []
    training.start(training.schedule, tmp_path, lines.append)
    assert any(line.startswith("1/1 ") and "pictures/s" in line for line in lines), lines
    others = training.others
    not_compared = {"iterations", "checkpoint_every", "mixed_precision", "crop", "stage"}
    assert others.keys() >= {f.name for f in fields(training.schedule)} - not_compared
    for name, value in others.items():
        changed = replace(training.schedule, **{name: value})
        with pytest.raises(InputError, match=f"a checkpoint with {name} .*another output folder"):
            training.start(changed, tmp_path, lines.append)
    training.start(replace(training.schedule, checkpoint_every=7), tmp_path, lines.append)


def test_a_checkpoint_of_another_start_is_refused(store, tmp_path):
    schedule = VfcnTraining(**SHORT)
    vfcn.train(CONFIG, store, schedule, tmp_path / "first")
    init = tmp_path / "first" / "vfcn_state.pth"
    vfcn.train(CONFIG, store, schedule, tmp_path / "second", init)
    with pytest.raises(InputError, match="a checkpoint with init None, found [0-9a-f]{64}"):
        vfcn.train(CONFIG, store, schedule, tmp_path / "second")
    fewer = store.dataset.without({store.dataset.pictures[0].image_id})
    crops = DetectorTraining(**SHORT, crop=(64, 64))
    detector.train(store.detector.config, store.dataset, crops, tmp_path / "third")
    with pytest.raises(InputError, match="a checkpoint with pictures"):
        detector.train(store.detector.config, fewer, crops, tmp_path / "third")


def test_a_precision_that_is_not_here_is_refused(tmp_path):
    """In a process of its own: accelerate keeps the precision of the first training."""
    code = (
        "import sys; from pathlib import Path; from vcm_plugin.training.loop import start\n"
        "from vcm_plugin.training.schedules import Schedule\n"
        "start(Schedule(mixed_precision='fp8'), Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    last = done.stderr.strip().splitlines()[-1]
    assert "InputError: mixed_precision: expected one that can be used here, found fp8:" in last


def test_auto_is_what_the_machine_has():
    said = []
    schedule = precision.settled(VfcnTraining(mixed_precision="auto"), said.append)
    chosen, reason = precision.of_this_machine()
    assert schedule.mixed_precision == chosen and chosen in ("no", "bf16")
    assert said == [f"mixed precision: {chosen}, {reason}"]
    if not torch.cuda.is_available():
        flags = Path("/proc/cpuinfo").read_text().split()
        assert (chosen == "bf16") == any(name in flags for name in ("avx512_bf16", "amx_bf16"))
    stated = VfcnTraining(mixed_precision="bf16")
    assert precision.settled(stated, said.append) is stated and len(said) == 1


def test_a_loss_that_is_not_finite_ends_the_training(store, tmp_path):
    def exploding(model, store, schedule, draw, with_task):
        return {"loss": next(model.parameters()).sum() * float("nan")}

    schedule = VfcnTraining(**SHORT)
    model = torch.nn.Linear(2, 2)
    model.config = CONFIG
    accelerator = loop.start(schedule, tmp_path)
    with pytest.raises(InputError, match="iteration 1: expected a finite loss, found nan"):
        loop.fit(accelerator, model, store, schedule, tmp_path / "a.pth", exploding)


def test_averages_and_rates_are_those_that_the_schedule_says(store, tmp_path):
    """A weight of gradient 1 without decay moves by the learning rate, times Adam's constant 1."""
    schedule = Schedule(
        iterations=40, warmup=10, learning_rate=0.01, weight_decay=0.0, ema_decay=0.9
    )
    seen = []

    def slope(model, store, schedule, draw, with_task):
        seen.append(model.weight.item())
        return {"loss": model.weight.sum()}

    model = torch.nn.Linear(1, 1, bias=False)
    model.config = CONFIG
    accelerator = loop.start(schedule, tmp_path)
    trained = loop.fit(accelerator, model, store, schedule, tmp_path / "a.pth", slope)
    last = loop.read_checkpoint(tmp_path / "a.pth", loop.STATE)["model"]["weight"].item()
    weights = np.array([*seen, last])
    steps = np.arange(40)
    rates = 0.01 * np.where(steps < 10, steps / 10, (1 + np.cos(np.pi * (steps - 10) / 30)) / 2)
    np.testing.assert_allclose(-np.diff(weights), rates, atol=2e-6)
    average = weights[1]
    for step, weight in enumerate(weights[2:], start=1):
        average += (weight - average) * (1 - min(0.9, (1 + step) / (10 + step)))
    assert trained.weight.item() == pytest.approx(average, abs=1e-5)
