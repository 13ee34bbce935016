#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train VFCN for a detector on the train part of a COCO-layout data set.

Resumed where the output folder holds a checkpoint; `accelerate launch scripts/train_vfcn.py ...`
uses several GPUs or machines.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from vcm_plugin.conditions import model_path
from vcm_plugin.datasets import load_coco
from vcm_plugin.machine_codec import export
from vcm_plugin.split import load_split_model
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.loop import chosen, training_parser
from vcm_plugin.training.vfcn import VfcnTraining, read_average, train
from vcm_plugin.vfcn import VfcnConfig


def main() -> None:
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    detector = load_split_model(model_path(options.model), options.weights, runtime="torchvision")
    dataset = load_coco(options.images, options.annotations)
    init = read_average(options.init)[1] if options.init else None
    schedule = chosen(VfcnTraining, options)
    model = train(
        chosen(VfcnConfig, options),
        FeatureStore(detector, dataset, options.cache),
        schedule,
        options.output,
        init,
        report=lambda line: print(line, flush=True),
    )
    path = options.output / "vfcn.safetensors"
    export(model, detector.weights_sha256, options.rate_points, asdict(schedule), path)
    print(f"VFCN weights: {path}")


def _parser() -> argparse.ArgumentParser:
    parser = training_parser(__doc__.splitlines()[0], VfcnConfig, VfcnTraining)
    parser.add_argument("--init", type=Path, help="vfcn_state.pth to start from")
    parser.add_argument(
        "--rate-points", nargs="+", default=["0.25", "0.5", "1", "2", "4"], metavar="S",
        help="presets, chosen on a validation set, that the weights file names",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    main()
