#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train VFCN for a frozen detector: `vcm-plugin train vfcn`, for `accelerate launch`.

    scripts/train_vfcn.py vfcn_minictc -o runs/train/vfcn         (draws its training pictures)
    scripts/train_vfcn.py vfcn_R_50_FPN_coco -o OUT --weights model_final_280758.pkl \
        --images train2017 --annotations instances_train2017.json
"""

import sys

from vcm_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "vfcn", *sys.argv[1:]]))
