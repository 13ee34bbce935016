#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Fine-tune a detector on a COCO-layout data set with Detectron2's own trainer.

    scripts/finetune_detectron2.py bccd_faster_rcnn -o runs/train/bccd_detectron2 \
        --init vcm_plugin/weights/bccd_faster_rcnn.pth --images BCCD/train \
        --annotations BCCD/instances_train.json --iterations 300

The folder gets Detectron2's own files: model_final.pth is the checkpoint. Wants Detectron2.
"""

import argparse
import sys
from pathlib import Path

from vcm_plugin.conditions import model_path

# Detectron2 is imported where it is used: --help and wrong options do without.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name in cfg/models or path of a Detectron2 YAML")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    parser.add_argument("--init", type=Path, required=True, help="checkpoint to start from")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True, help="COCO instances JSON")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        from detectron2.data.datasets import register_coco_instances
        from detectron2.engine import DefaultTrainer
        from detectron2.utils.logger import setup_logger
    except ImportError as error:
        sys.exit(f"finetune_detectron2: error: expected Detectron2, found none here: {error}")
    options.output.mkdir(parents=True, exist_ok=True)
    setup_logger(str(options.output))
    register_coco_instances("train", {}, str(options.annotations), str(options.images))
    trainer = DefaultTrainer(configuration(options))
    trainer.resume_or_load(resume=False)
    trainer.train()


def configuration(options: argparse.Namespace):
    """Detectron2's configuration of this training."""
    from vcm_plugin.split.detectron2 import read_config

    config = read_config(model_path(options.model))
    config.OUTPUT_DIR, config.SEED = str(options.output), options.seed
    config.DATASETS.TRAIN, config.DATASETS.TEST = ("train",), ()
    config.DATALOADER.NUM_WORKERS = 0
    config.INPUT.MIN_SIZE_TRAIN = (config.INPUT.MIN_SIZE_TEST,)
    config.INPUT.MAX_SIZE_TRAIN = config.INPUT.MAX_SIZE_TEST
    config.MODEL.DEVICE, config.MODEL.WEIGHTS = "cpu", str(options.init)
    config.SOLVER.IMS_PER_BATCH = options.batch_size
    config.SOLVER.BASE_LR, config.SOLVER.MAX_ITER = options.learning_rate, options.iterations
    config.SOLVER.STEPS, config.SOLVER.WARMUP_ITERS = (), min(50, options.iterations // 4)
    config.SOLVER.CLIP_GRADIENTS.ENABLED = True
    return config


if __name__ == "__main__":
    main()
