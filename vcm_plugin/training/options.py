# SPDX-License-Identifier: BSD-3-Clause
"""What is typed to train a codec: a recipe of cfg/training, the data, and options that override."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch
import yaml

from vcm_plugin.conditions import bundled_weights, model_path
from vcm_plugin.ctc.codecs import load_condition, override
from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError
from vcm_plugin.settings import is_of_kind
from vcm_plugin.split import load_split_model
from vcm_plugin.split.torchvision import TorchvisionDetector
from vcm_plugin.testsets.coco import load_coco
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.training.feature_store import FeatureStore


def parser(description: str, *configs: type) -> argparse.ArgumentParser:
    """A parser of the recipe, the detector, the data and every field of the given dataclasses."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("recipe", help="name in cfg/training or path of a YAML file")
    made.add_argument("--model", help="name in cfg/models or path of a Detectron2 YAML")
    made.add_argument("--weights", help="checkpoint of the detector")
    made.add_argument("-o", "--output", type=Path, required=True, help="folder; resumed")
    made.add_argument("--images", type=Path, help="pictures; default: the mini-CTC train split")
    made.add_argument("--annotations", type=Path, help="COCO instances JSON of --images")
    made.add_argument("--cache", type=Path, help="folder for the features, of this detector only")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    for field in (field for config in configs for field in fields(config)):
        kind = type(field.default)
        options = {"default": field.default}
        if kind is tuple:
            options |= {"nargs": "+", "type": type(field.default[0])}
        elif kind is bool:
            options |= {"action": argparse.BooleanOptionalAction}
        else:
            options |= {"type": kind}
        made.add_argument(f"--{field.name.replace('_', '-')}", **options)
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The options typed, over those of the recipe, over the defaults."""
    recipe = made.parse_known_args()[0].recipe
    bundled = cfg_folder() / "training" / f"{recipe}.yaml"
    path = bundled if bundled.is_file() else Path(recipe)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        known = ", ".join(sorted(p.stem for p in (cfg_folder() / "training").glob("*.yaml")))
        raise InputError(f"{recipe}: expected a YAML file or one of {known}: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a YAML of keys such as model, found {values!r}")
    actions = {action.dest: action for action in made._actions}
    keys = set(actions) - {"help", "recipe", "output"}
    for key, value in values.items():
        if key not in keys:
            nearest = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.0)[0]
            raise InputError(f"{path}: unknown key {key}; did you mean {nearest}?")
        values[key] = _checked(actions[key], value, path)
    made.set_defaults(**values)
    options = made.parse_args()
    if not options.model:
        raise InputError(f"{path}: expected the key model, found none; add it, or give --model")
    if options.images and not options.annotations:
        raise InputError("--images: expected --annotations too, the COCO JSON of the pictures")
    return options


def chosen(config: type, options: argparse.Namespace):
    """The dataclass that the options say."""
    values = {f.name: getattr(options, f.name) for f in fields(config)}
    try:
        return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except ValueError as error:
        raise InputError(str(error)) from error


def open_store(options: argparse.Namespace) -> tuple[TorchvisionDetector, FeatureStore]:
    """The frozen detector, and its features of the training pictures."""
    torch.set_num_threads(options.threads)
    weights = options.weights and bundled_weights(options.weights)
    detector = load_split_model(model_path(options.model), weights, runtime="torchvision")
    if options.images:
        dataset = load_coco(options.images, options.annotations)
    else:
        dataset = open_test_set(override(load_condition("minictc"), {"minictc": "train"}))
    return detector, FeatureStore(detector, dataset, options.cache)


def is_first_process() -> bool:
    """Whether this one exports; false in the others of `accelerate launch` or `torchrun`."""
    return int(os.environ.get("RANK", 0)) == 0


def run(main: Callable[[], None]) -> None:
    """main(), with bad input as one line."""
    try:
        main()
    except (InputError, FloatingPointError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
    except OSError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error.filename}: {error.strerror}")


def _checked(action: argparse.Action, value, path: Path):
    """A value of a recipe in the type of its option."""
    kind = action.type or (bool if isinstance(action, argparse.BooleanOptionalAction) else str)
    several = action.nargs == "+"
    items = value if several and isinstance(value, list) else [value]
    if several != isinstance(value, list) or not all(
        is_of_kind(item, str if kind is Path else kind) for item in items
    ):
        wanted = f"a list of {kind.__name__}" if several else kind.__name__
        raise InputError(f"{path}: {action.dest}: expected {wanted}, found {value!r}")
    items = [kind(item) for item in items]
    return items if several else items[0]
