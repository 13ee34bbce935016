#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train the human layer on a frozen machine layer: one stage, by a recipe of cfg/training.

    scripts/train_hvcn.py hvcn_minictc_vae -o OUT           (draws its training pictures)
    scripts/train_hvcn.py hvcn_minictc_prior -o OUT
    scripts/train_hvcn.py hvcn_minictc_control -o OUT
    scripts/train_hvcn.py hvcn_minictc_sampling -o OUT
    scripts/train_hvcn.py hvcn_sd21_control -o OUT --prior FOLDER --vfcn ... --weights ...

A stage takes what earlier ones left in OUT: the prior in OUT/prior, the human layer in
OUT/pipeline, which is what `encode --human` reads. --pictures trains on folders of pictures
($VCM_DATA is where relative ones start). A stage resumes its checkpoint; `accelerate launch` uses
several GPUs.
"""

import os
from pathlib import Path

import torch

from vcm_plugin.conditions import bundled_weights, model_path
from vcm_plugin.ctc.codecs import load_condition, override
from vcm_plugin.diff_fchm.human.config import HvcnConfig
from vcm_plugin.diff_fchm.human.prior import SmallPrior
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import InputError
from vcm_plugin.split import load_split_model
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.training import options as cli
from vcm_plugin.training.hvcn.recipe import HvcnTraining
from vcm_plugin.training.hvcn.samples import Samples, picture_paths
from vcm_plugin.training.hvcn.stages import open_prior, run_stage


def main() -> None:
    parser = cli.parser(__doc__.splitlines()[0], HvcnConfig, HvcnTraining)
    parser.add_argument("--vfcn", help="weights of the machine layer, a file or a bundled name")
    parser.add_argument("--vfcn-state", type=Path, help="its vfcn_state.pth, for the stage joint")
    parser.add_argument("--prior", help="folder or hub id of a diffusion prior; default: OUT/prior")
    parser.add_argument("--pictures", type=Path, nargs="+", metavar="DIR", help="folders")
    options = cli.parse(parser)
    torch.set_num_threads(options.threads)
    schedule = cli.chosen(HvcnTraining, options)
    torch.manual_seed(schedule.seed)
    prior = open_prior(options.prior, options.output, SmallPrior(), schedule.stage)
    samples = Samples(_paths(options), schedule.crop, prior)
    if schedule.stage not in ("vae", "prior"):
        if not options.vfcn:
            raise InputError(
                f"stage {schedule.stage}: expected --vfcn, the machine layer's weights"
            )
        weights = options.weights and bundled_weights(options.weights)
        samples.detector = load_split_model(
            model_path(options.model), weights, runtime="torchvision"
        )
        samples.machine = MachineCodec(Path(bundled_weights(options.vfcn)))
    saved = run_stage(
        cli.chosen(HvcnConfig, options), samples, schedule, options.output,
        options.prior, options.vfcn_state, lambda line: print(line, flush=True),
    )  # fmt: skip
    print(f"{schedule.stage}: {saved}")


def _paths(options) -> list[Path]:
    if options.pictures:
        root = Path(os.environ.get("VCM_DATA", "."))
        return picture_paths([root / folder for folder in options.pictures])
    drawn = open_test_set(override(load_condition("minictc"), {"minictc": "train"}))
    return [entry.path for entry in drawn.pictures]


if __name__ == "__main__":
    cli.run(main)
