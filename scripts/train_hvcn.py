#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train one stage of the human layer: `vcm-plugin train hvcn`, for `accelerate launch`.

    scripts/train_hvcn.py hvcn_minictc_vae -o OUT           (draws its training pictures)
    scripts/train_hvcn.py hvcn_minictc_prior -o OUT
    scripts/train_hvcn.py hvcn_minictc_control -o OUT
    scripts/train_hvcn.py hvcn_minictc_sampling -o OUT
    scripts/train_hvcn.py hvcn_sd21_control -o OUT --prior FOLDER --vfcn ... --weights ...

A stage takes what earlier ones left in OUT: the prior in OUT/prior, the human layer in
OUT/pipeline, which is what `encode --human` reads. --pictures trains on folders of pictures
($VCM_DATA is where relative ones start).
"""

import sys

from vcm_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "hvcn", *sys.argv[1:]]))
