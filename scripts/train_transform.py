#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train the latent-space transforms: `vcm-plugin train transform`, for `accelerate launch`.

scripts/train_transform.py transform_minictc -o runs/train/transform     (draws its pictures)
"""

import sys

from vcm_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "transform", *sys.argv[1:]]))
