#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train the restorer of the auxiliary picture over a frozen machine layer, by a recipe.

    scripts/train_restorer.py restorer_minictc -o OUT --prepare-only     (--part 0 2 and --part 1 2
                                                                         in two processes)
    scripts/train_restorer.py restorer_minictc -o OUT
    scripts/train_restorer.py restorer_minictc -o OUT --no-features      (the twin without features)

What is coded for the training is kept in --cache (default: OUT/pictures) and made only once. A
checkpoint in OUT is resumed; OUT/restorer.safetensors is what `encode --human` reads.
"""

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from vcm_plugin.conditions import bundled_weights, model_path
from vcm_plugin.diff_fchm.human.auxiliary import export
from vcm_plugin.diff_fchm.human.restorer import RestorerConfig
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import InputError
from vcm_plugin.split import load_split_model
from vcm_plugin.testsets.minictc import FIRST_SEED, draw_picture
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training import options as cli
from vcm_plugin.training.hvcn.samples import picture_paths
from vcm_plugin.training.restorer import RestorerTraining, train
from vcm_plugin.training.restorer_samples import RestorerStore, prepare


def main() -> None:
    parser = cli.parser(__doc__.splitlines()[0], RestorerConfig, RestorerTraining)
    parser.add_argument("--vfcn", help="weights of the machine layer, a file or a bundled name")
    parser.add_argument("--drawn", type=int, default=2000, help="pictures of the mini-CTC, train")
    parser.add_argument("--pictures", type=Path, nargs="+", metavar="DIR", help="folders, too")
    parser.add_argument("--codings", type=int, default=2, help="VVC pictures of each picture")
    parser.add_argument("--coded-scales", type=int, default=2, help="machine rates of each")
    parser.add_argument("--prepare-only", action="store_true", help="code, do not train")
    parser.add_argument("--part", type=int, nargs=2, default=[0, 1], metavar=("K", "N"),
                        help="prepare the K-th of every N blocks only")  # fmt: skip
    options = cli.parse(parser)
    torch.set_num_threads(options.threads)
    if not options.vfcn:
        raise InputError("expected --vfcn, the machine layer's weights")
    weights = options.weights and bundled_weights(options.weights)
    detector = load_split_model(model_path(options.model), weights, runtime="torchvision")
    machine = MachineCodec(Path(bundled_weights(options.vfcn)))
    folder = options.cache or options.output / "pictures"
    schedule = cli.chosen(RestorerTraining, options)
    pictures = _pictures(options)
    for done in prepare(pictures, folder, detector, machine, options.codings,
                        options.coded_scales, schedule.seed, tuple(options.part)):  # fmt: skip
        print(f"prepared {done} of {len(pictures)} pictures", flush=True)
    if options.prepare_only:
        return
    config = cli.chosen(RestorerConfig, options)
    store = RestorerStore(folder, detector)
    name = "restorer" if config.features else "restorer_without_features"
    model = train(config, store, schedule, options.output / name / "state.pth",
                  lambda line: print(line, flush=True))  # fmt: skip
    trained = asdict(schedule) | {"pictures": len(store.paths), "machine_sha256": machine.sha256}
    print(export(model, trained, options.output / f"{name}.safetensors"))


def _pictures(options):
    drawn = [partial(_drawn, FIRST_SEED["train"] + index) for index in range(max(0, options.drawn))]
    if not options.pictures:
        return drawn
    root = Path(os.environ.get("VCM_DATA", "."))
    paths = picture_paths([root / folder for folder in options.pictures])
    return drawn + [partial(read_picture, path) for path in paths]


def _drawn(seed: int):
    return draw_picture(seed)[0]


if __name__ == "__main__":
    cli.run(main)
