#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train the reduction anchor MSFC for a detector: a recipe of cfg/training.

    scripts/train_msfc.py msfc_rival -o runs/train/msfc           (draws its training pictures)

Resumed where the output folder holds a checkpoint; `accelerate launch scripts/train_msfc.py ...`
uses several GPUs or machines. Every key of a recipe is also an option that overrides it.
"""

from dataclasses import asdict

from anchors.msfc_networks import MsfcConfig, export
from vcm_plugin.training import options as cli
from vcm_plugin.training.msfc import MsfcTraining, train


def main() -> None:
    options = cli.parse(cli.parser(__doc__.splitlines()[0], MsfcConfig, MsfcTraining))
    detector, store = cli.open_store(options)
    config, schedule = cli.chosen(MsfcConfig, options), cli.chosen(MsfcTraining, options)
    report = lambda line: print(line, flush=True)  # noqa: E731
    model = train(config, store, schedule, options.output, report)
    if not cli.is_first_process():
        return
    path = options.output / "msfc.safetensors"
    export(model, detector.weights_sha256, asdict(schedule), path)
    print(f"MSFC weights: {path}")


if __name__ == "__main__":
    cli.run(main)
