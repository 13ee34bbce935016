#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train a small detector: `vcm-plugin train detector`, for `accelerate launch`.

    scripts/train_detector.py detector_minictc -o runs/train/minictc  (draws its training pictures)
    scripts/train_detector.py detector_bccd -o runs/train/bccd --images BCCD/train \
        --annotations BCCD/instances_train.json --init vcm_plugin/weights/minictc_mask_rcnn.pth
"""

import sys

from vcm_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "detector", *sys.argv[1:]]))
