#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train the detector of a model config on the mini-CTC or on a COCO-layout data set.

The built-in weights were made by these two, but the first was stopped twice and went on with
another number of iterations (vcm_plugin/weights/index.yaml tells):

    scripts/train_detector.py minictc_mask_rcnn --iterations 2750 -o runs/train/minictc
    scripts/train_detector.py bccd_faster_rcnn -o runs/train/bccd --images BCCD/train \
        --annotations BCCD/instances_train.json --init vcm_plugin/weights/minictc_mask_rcnn.pth \
        --iterations 1200 --batch-size 4 --crop 352 448 --learning-rate 0.0005

Start it with `torchrun --nproc-per-node 2` to use two processes.
"""

import argparse
import os
from pathlib import Path

import torch

from vcm_plugin.conditions import model_path
from vcm_plugin.ctc.codecs import load_condition, override
from vcm_plugin.split.config import load_config
from vcm_plugin.testsets.coco import load_coco
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.training.detector import DetectorTraining, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name in cfg/models or path of a Detectron2 YAML")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder; resumed")
    parser.add_argument("--images", type=Path, help="pictures; default: the mini-CTC train split")
    parser.add_argument("--annotations", type=Path, help="COCO instances JSON of --images")
    parser.add_argument("--init", type=Path, help="Detectron2-format checkpoint to start from")
    defaults = DetectorTraining()
    parser.add_argument("--iterations", type=int, default=defaults.iterations)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--crop", type=int, nargs=2, default=defaults.crop, metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if "RANK" in os.environ:  # started by torchrun
        torch.distributed.init_process_group("gloo")
    if options.images:
        dataset = load_coco(options.images, options.annotations)
    else:
        dataset = open_test_set(override(load_condition("minictc"), {"minictc": "train"}))
    schedule = DetectorTraining(
        iterations=options.iterations,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        crop=tuple(options.crop),
        seed=options.seed,
    )
    config = load_config(model_path(options.model))
    path = train(
        config,
        dataset,
        schedule,
        options.output,
        init_weights=options.init,
        report=lambda line: print(line, flush=True),
    )
    print(f"Detectron2-format checkpoint: {path}")


if __name__ == "__main__":
    main()
