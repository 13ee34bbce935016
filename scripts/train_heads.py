#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train transforms with a detector's losses: `vcm-plugin train heads`, for `accelerate launch`.

scripts/train_heads.py heads_minictc -o runs/train/heads
"""

import sys

from vcm_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "heads", *sys.argv[1:]]))
