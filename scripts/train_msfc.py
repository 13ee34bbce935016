#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train the reduction anchor MSFC for a detector on the train part of a COCO-layout data set.

Resumed where the output folder holds a checkpoint; `accelerate launch scripts/train_msfc.py ...`
uses several GPUs or machines.
"""

from dataclasses import asdict

import torch

from anchors.msfc import MsfcConfig, export
from vcm_plugin.conditions import model_path
from vcm_plugin.datasets import load_coco
from vcm_plugin.split import load_split_model
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.loop import chosen, training_parser
from vcm_plugin.training.msfc import MsfcTraining, train


def main() -> None:
    options = training_parser(__doc__.splitlines()[0], MsfcConfig, MsfcTraining).parse_args()
    torch.set_num_threads(options.threads)
    detector = load_split_model(model_path(options.model), options.weights, runtime="torchvision")
    dataset = load_coco(options.images, options.annotations)
    schedule = chosen(MsfcTraining, options)
    model = train(
        chosen(MsfcConfig, options),
        FeatureStore(detector, dataset, options.cache),
        schedule,
        options.output,
        report=lambda line: print(line, flush=True),
    )
    path = options.output / "msfc.safetensors"
    export(model, detector.weights_sha256, asdict(schedule), path)
    print(f"MSFC weights: {path}")


if __name__ == "__main__":
    main()
