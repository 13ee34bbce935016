#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train the restorer of auxiliary pictures: `vcm-plugin train restorer`, for `accelerate launch`.

    scripts/train_restorer.py restorer_minictc -o OUT --prepare-only     (in two processes: --part
                                                                         0 2 and --part 1 2)
    scripts/train_restorer.py restorer_minictc -o OUT
    scripts/train_restorer.py restorer_minictc -o TWIN --cache OUT/pictures --no-features

What is coded for the training is kept in OUT/pictures, or in --cache, and made only once.
OUT/restorer.safetensors is what `encode --human` reads.
"""

import sys

from vcm_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "restorer", *sys.argv[1:]]))
