#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train the reduction anchor MSFC: `vcm-plugin train msfc`, for `accelerate launch`.

scripts/train_msfc.py msfc_rival -o runs/train/msfc           (draws its training pictures)
"""

import sys

from vcm_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "msfc", *sys.argv[1:]]))
