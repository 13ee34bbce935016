#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train a JDE network: `vcm-plugin train tracker`, for `accelerate launch`.

    scripts/train_tracker.py tracker_minictc -o OUT

The drawn frames are kept in OUT/frames, or in --cache, and made only once. OUT/model.pth is what
the key weights of a tracking condition names.
"""

import sys

from vcm_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "tracker", *sys.argv[1:]]))
