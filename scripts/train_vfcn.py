#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train VFCN for a frozen detector: a recipe of cfg/training on a COCO-layout data set.

    scripts/train_vfcn.py vfcn_minictc -o runs/train/vfcn         (draws its training pictures)
    scripts/train_vfcn.py vfcn_R_50_FPN_coco -o OUT --weights model_final_280758.pkl \
        --images train2017 --annotations instances_train2017.json

Resumed where the output folder holds a checkpoint; `accelerate launch scripts/train_vfcn.py ...`
uses several GPUs or machines. Every key of a recipe is also an option that overrides it.
"""

from dataclasses import asdict
from pathlib import Path

from vcm_plugin.diff_fchm.machine.codec import export
from vcm_plugin.diff_fchm.machine.config import VfcnConfig
from vcm_plugin.rate_points import parse_scale
from vcm_plugin.training import options as cli
from vcm_plugin.training.vfcn import VfcnTraining, read_average, train


def main() -> None:
    parser = cli.parser(__doc__.splitlines()[0], VfcnConfig, VfcnTraining)
    parser.add_argument("--init", type=Path, help="vfcn_state.pth to start from")
    parser.add_argument(
        "--rate-points", nargs="+", default=["0.25", "0.5", "1", "2", "4"], metavar="S",
        help="presets that the weights file names; a test takes diff_fchm_scales of its condition",
    )  # fmt: skip
    options = cli.parse(parser)
    for rate_point in options.rate_points:
        parse_scale(rate_point)
    detector, store = cli.open_store(options)
    config, schedule = cli.chosen(VfcnConfig, options), cli.chosen(VfcnTraining, options)
    init = read_average(options.init)[1] if options.init else None
    report = lambda line: print(line, flush=True)  # noqa: E731
    model = train(config, store, schedule, options.output, init, report)
    if not cli.is_first_process():
        return
    path = options.output / "vfcn.safetensors"
    trained = asdict(schedule) | {"init": options.init.name if options.init else None}
    export(model, detector.weights_sha256, options.rate_points, trained, path)
    print(f"VFCN weights: {path}")


if __name__ == "__main__":
    cli.run(main)
