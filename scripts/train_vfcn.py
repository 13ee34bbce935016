#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Train VFCN for a frozen detector: a recipe of cfg/training on a COCO-layout data set.

    scripts/train_vfcn.py vfcn_minictc -o runs/train/vfcn         (draws its training pictures)
    scripts/train_vfcn.py vfcn_R_50_FPN_coco -o OUT --weights model_final_280758.pkl \
        --images train2017 --annotations instances_train2017.json

Resumed where the output folder holds a checkpoint; `accelerate launch scripts/train_vfcn.py ...`
uses several GPUs or machines. Every key of a recipe is also an option that overrides it.
"""

import argparse
import difflib
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path

import torch
import yaml

from vcm_plugin.conditions import bundled_weights, load_condition, model_path, override
from vcm_plugin.datasets import load_coco, open_dataset
from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError
from vcm_plugin.machine_codec import export
from vcm_plugin.split import load_split_model
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.vfcn import VfcnTraining, read_average, train
from vcm_plugin.vfcn import VfcnConfig


def main() -> None:
    parser = _parser()
    parser.set_defaults(**_recipe(parser.parse_known_args()[0].recipe))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights = options.weights and bundled_weights(options.weights)
    detector = load_split_model(model_path(options.model), weights, runtime="torchvision")
    if options.images:
        dataset = load_coco(options.images, options.annotations)
    else:
        dataset = open_dataset(override(load_condition("minictc"), {"minictc": "train"}))
    init = read_average(options.init)[1] if options.init else None
    schedule = _chosen(VfcnTraining, options)
    model = train(
        _chosen(VfcnConfig, options),
        FeatureStore(detector, dataset, options.cache),
        schedule,
        options.output,
        init,
        report=lambda line: print(line, flush=True),
    )
    if int(os.environ.get("RANK", 0)):  # of several processes the first one writes
        return
    path = options.output / "vfcn.safetensors"
    trained = asdict(schedule) | {"init": str(options.init.name) if options.init else None}
    export(model, detector.weights_sha256, options.rate_points, trained, path)
    print(f"VFCN weights: {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="name in cfg/training or path of a YAML file")
    parser.add_argument("--model", help="name in cfg/models or path of a Detectron2 YAML")
    parser.add_argument("--weights", help="checkpoint of the detector")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder; resumed")
    parser.add_argument("--images", type=Path, help="pictures; default: the mini-CTC train split")
    parser.add_argument("--annotations", type=Path, help="COCO instances JSON of --images")
    parser.add_argument("--cache", type=Path, help="folder for the features, of this detector only")
    parser.add_argument("--init", type=Path, help="vfcn_state.pth to start from")
    parser.add_argument(
        "--rate-points", nargs="+", default=["0.25", "0.5", "1", "2", "4"], metavar="S",
        help="presets, chosen on a validation set, that the weights file names",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for config in (VfcnConfig, VfcnTraining):
        for field in fields(config):
            kind = type(field.default)
            options = {"default": field.default}
            if kind is tuple:
                options |= {"nargs": "+", "type": type(field.default[0])}
            elif kind is bool:
                options |= {"action": argparse.BooleanOptionalAction}
            else:
                options |= {"type": kind}
            parser.add_argument(f"--{field.name.replace('_', '-')}", **options)
    return parser


def _recipe(name: str) -> dict:
    """The keys of a recipe file, checked against the options."""
    bundled = cfg_folder() / "training" / f"{name}.yaml"
    path = bundled if bundled.is_file() else Path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        known = ", ".join(sorted(p.stem for p in (cfg_folder() / "training").glob("vfcn_*.yaml")))
        raise InputError(f"{name}: expected a YAML file or one of {known}: {error}") from error
    keys = [f.name for config in (VfcnConfig, VfcnTraining) for f in fields(config)]
    keys += ["model", "weights", "init", "rate_points"]
    for key in values:
        if key not in keys:
            nearest = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.0)[0]
            raise InputError(f"{path}: unknown key {key}; did you mean {nearest}?")
    return values


def _chosen(config, options):
    values = {f.name: getattr(options, f.name) for f in fields(config)}
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"train_vfcn.py: error: {error}")
