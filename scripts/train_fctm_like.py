#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train the anchor fctm_like: `vcm-plugin train fctm_like`, for `accelerate launch`.

scripts/train_fctm_like.py fctm_like_minictc -o runs/train/fctm_like  (draws its training pictures)
"""

import sys

from vcm_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "fctm_like", *sys.argv[1:]]))
