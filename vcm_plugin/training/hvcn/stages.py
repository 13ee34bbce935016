# SPDX-License-Identifier: BSD-3-Clause
"""Where each stage of HVCN's training starts, and what it leaves for the next one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from vcm_plugin.diff_fchm.human.codec import load_hvcn
from vcm_plugin.diff_fchm.human.config import HvcnConfig, MachineFit
from vcm_plugin.diff_fchm.human.hvcn import Hvcn
from vcm_plugin.diff_fchm.human.pipeline import HVCNPipeline
from vcm_plugin.diff_fchm.human.prior import (
    Prior,
    SmallPrior,
    check_fit,
    empty_prompt,
    load_prior,
    small_prior,
)
from vcm_plugin.diff_fchm.human.sampler import LAST
from vcm_plugin.diff_fchm.machine.codec import MachineCodec, export
from vcm_plugin.diff_fchm.machine.vfcn import Vfcn
from vcm_plugin.errors import InputError
from vcm_plugin.files import write_json
from vcm_plugin.training.hvcn.recipe import (
    Autoencoding,
    Denoising,
    Human,
    lpips_network,
    set_latent_scale,
    train,
)
from vcm_plugin.training.hvcn.samples import Samples
from vcm_plugin.training.linear_start import start_linear
from vcm_plugin.training.loop import is_first_process
from vcm_plugin.training.schedules import HvcnTraining
from vcm_plugin.training.vfcn import read_average

LINEAR_START_CROPS = 64


def open_prior(source: str | None, output: Path, sizes: SmallPrior, stage: str) -> Prior:
    """The prior that a stage starts from: the one given, output/prior, or for "vae" a new one."""
    if source is not None:
        return load_prior(source)
    folder = output / "prior"
    if folder.is_dir():
        return load_prior(str(folder))
    if stage == "vae":
        return small_prior(sizes)  # its weights are begun in `_train_prior`
    raise InputError(
        f"{folder}: expected the prior that stage {stage} builds on, found none; train the stages "
        "vae and prior into the same output folder first, or name a prior with --prior"
    )


def run_stage(
    sizes: HvcnConfig,
    samples: Samples,
    schedule: HvcnTraining,
    output: Path,
    prior_source: str | None = None,
    vfcn_state: Path | None = None,
    report=lambda line: None,
) -> Path:
    """Train one stage and return the folder that it saved.

    vfcn_state: checkpoint of the machine layer, which the stage "joint" trains on.
    """
    output.mkdir(parents=True, exist_ok=True)
    prior, stage = samples.prior, schedule.stage
    if stage in ("vae", "prior"):
        if prior_source is not None:
            raise InputError(f"stage {stage} trains the built-in prior: leave out --prior")
        return _train_prior(samples, schedule, output, report)
    if stage != "control" and sizes.published("sampled_from") and schedule.start != LAST:
        raise InputError(
            f"start: expected {LAST} where sampling begins from noise, found {schedule.start}"
        )
    if stage == "joint" and vfcn_state is None:
        raise InputError("stage joint trains the machine layer too: name its vfcn_state.pth")
    vfcn = _float_vfcn(vfcn_state) if stage == "joint" else None
    hvcn = _start(sizes, samples, stage, output / "pipeline", prior_source)
    perceptual = None if stage == "control" else _perceptual(report)
    human = Human(stage, hvcn, perceptual, vfcn)
    human = train(human, samples, schedule, output, report, vfcn_state)
    hvcn = human.hvcn.cpu()
    if is_first_process():
        if human.vfcn is not None:
            hvcn = _export_vfcn(human, samples.machine, schedule, output)
        folder = output / "pipeline"
        if prior_source is None:
            HVCNPipeline(prior.vae, prior.unet, prior.scheduler, hvcn).save_pretrained(folder)
        else:
            hvcn.save_pretrained(folder / "hvcn")
        _note(folder, schedule)
    return output / "pipeline"


def _train_prior(samples: Samples, schedule: HvcnTraining, output: Path, report) -> Path:
    prior = samples.prior
    if schedule.stage == "vae":
        rng = np.random.default_rng((schedule.seed, 1 << 41))
        start_linear(prior.vae, samples.tensor(samples.draw(LINEAR_START_CROPS, rng)))
        network = Autoencoding(prior, _perceptual(report))
        prior.vae = train(network, samples, schedule, output, report).vae
        set_latent_scale(prior, samples, schedule)
    else:
        prior.unet = train(Denoising(prior), samples, schedule, output, report).unet
    folder = output / "prior"
    if is_first_process():
        for name in ("vae", "unet"):
            getattr(prior, name).half().save_pretrained(folder / name)
        prior.scheduler.save_pretrained(folder / "scheduler")
        _note(folder, schedule)
    return folder


def _perceptual(report):
    network = lpips_network()
    if network is None:
        report("lpips: the package or its weights are not here, so this stage does without LPIPS")
    return network


def _note(folder: Path, schedule: HvcnTraining) -> None:
    """Write down how each stage was trained."""
    path = folder / "training.json"
    stages = json.loads(path.read_text()) if path.is_file() else {}
    write_json(path, stages | {schedule.stage: asdict(schedule)})


def _start(
    sizes: HvcnConfig, samples: Samples, stage: str, folder: Path, prior_source: str | None
) -> Hvcn:
    """New networks for the stage "control", else those of an earlier stage."""
    fit = samples.prior.fit()
    if stage != "control":
        hvcn = load_hvcn(folder)
        if hvcn.sizes.profile != sizes.profile:
            raise InputError(
                f"{folder}: trained with the profile {hvcn.sizes.profile}, the recipe says "
                f"{sizes.profile}; name the recipe of the stage before"
            )
        check_fit(samples.prior, hvcn.prior)
        if not samples.machine.carries(hvcn.machine.sha256):
            raise InputError(
                f"{folder}: trained on the machine layer {hvcn.machine.sha256[:12]}, found "
                f"{samples.machine.latents_sha256[:12]}; name the VFCN weights of its training"
            )
        return hvcn
    config = samples.machine.config
    machine = MachineFit(config.channels, config.latents, samples.machine.latents_sha256)
    hvcn = Hvcn.new(sizes, machine, fit, samples.prior.unet)
    if fit.text_width:
        hvcn.empty_prompt.copy_(empty_prompt(prior_source))
    return hvcn


def _float_vfcn(state: Path) -> Vfcn:
    config, weights = read_average(state)
    vfcn = Vfcn(config)
    vfcn.load_state_dict(weights)
    return vfcn


def _export_vfcn(human: Human, machine: MachineCodec, schedule: HvcnTraining, output: Path) -> Hvcn:
    """Write the changed machine layer; HVCN then belongs to that one."""
    path = output / "vfcn.safetensors"
    described = machine.metadata["detector_sha256"], machine.rate_points
    export(human.vfcn.cpu(), *described, asdict(schedule), path)
    sha256 = MachineCodec(path).latents_sha256
    fit = asdict(replace(human.hvcn.machine, sha256=sha256))
    hvcn = Hvcn.from_config({**human.hvcn.config, "machine": fit})
    hvcn.load_state_dict(human.hvcn.state_dict())
    return hvcn
