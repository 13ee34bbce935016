#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train what encoders know of importance: `vcm-plugin train importance`, for `accelerate launch`.

    scripts/train_importance.py importance_minictc -o OUT

OUT/importance.safetensors is what the key diff_fchm_importance_weights of a test condition names.
"""

import sys

from vcm_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "importance", *sys.argv[1:]]))
