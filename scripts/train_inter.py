#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train the inter networks of the machine layer: `vcm-plugin train inter`, for `accelerate launch`.

    scripts/train_inter.py inter_minictc -o OUT

The latents of the training sequences are kept in OUT/latents, or in --cache, and made only once.
OUT/inter.safetensors is what the key diff_fchm_inter_weights of a test condition names.
"""

import sys

from vcm_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "inter", *sys.argv[1:]]))
