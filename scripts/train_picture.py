#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train a learned picture codec: `vcm-plugin train picture`, for `accelerate launch`.

scripts/train_picture.py picture_minictc -o runs/train/picture     (draws its training pictures)
"""

import sys

from vcm_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "picture", *sys.argv[1:]]))
