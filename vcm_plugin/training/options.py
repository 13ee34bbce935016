# SPDX-License-Identifier: BSD-3-Clause
"""What is typed to train: a recipe of cfg/training, the data, and options that override it.

A recipe is one flat YAML file whose keys are the fields of several dataclasses: what a training
works on (below), the sizes of its networks, and its schedule. Nothing here needs torch.
"""

from __future__ import annotations

import argparse
import types
import typing
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError
from vcm_plugin.settings import build, read_yaml, refuse_unknown, types_of


def _key(text: str, default: Any = None) -> Any:
    """A field with the help of its option."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Inputs:
    """What every training works on."""

    model: str = field(metadata={"help": "name in cfg/models or path of a Detectron2 YAML"})
    images: Path | None = _key("pictures; default: the mini-CTC train split")
    annotations: Path | None = _key("COCO instances JSON of --images")
    threads: int | None = _key("of this process; default: as torch chooses")

    def __post_init__(self):
        if self.images and not self.annotations:
            raise InputError("--images: expected --annotations too, the COCO JSON of the pictures")


@dataclass(frozen=True)
class FeatureInputs(Inputs):
    """What trainings on the features of a frozen detector work on."""

    weights: str | None = _key("checkpoint of the detector")
    cache: Path | None = _key("folder for the features, of this detector only")


@dataclass(frozen=True)
class VfcnInputs(FeatureInputs):
    """What the training of the machine layer works on."""

    init: str | None = _key("vfcn_state.pth or weights to start from, a file or a bundled name")
    turned: bool = _key("each picture also mirrored, turned, in other light", False)
    rate_points: tuple[str, ...] = _key(
        "presets that the weights file names; a test takes diff_fchm_scales of its condition",
        ("0.25", "0.5", "1", "2", "4"),
    )
    sequences: int = _key(
        "of JDE without --images: of the mini-CTC tracking set's train split", 150
    )
    sequence_frames: int = _key("frames of each of these sequences that are used", 6)
    frames: Path | None = _key("folder for these frames; default: OUT/frames")


@dataclass(frozen=True)
class HvcnInputs(FeatureInputs):
    """What the training of the human layer works on."""

    vfcn: str | None = _key("weights of the machine layer, a file or a bundled name")
    vfcn_state: Path | None = _key("its vfcn_state.pth, for the stage joint")
    prior: str | None = _key(
        "folder, bundled name or hub id of a diffusion prior; default: OUT/prior"
    )
    pictures: tuple[str, ...] = _key("folders of pictures, from $VCM_DATA on", ())


@dataclass(frozen=True)
class RestorerInputs(FeatureInputs):
    """What the training of the restorer works on; cache: folder for what it codes beforehand."""

    vfcn: str | None = _key("weights of the machine layer, a file or a bundled name")
    init: str | None = _key("weights of a restorer to start from, a file or a bundled name")
    drawn: int = _key("pictures of the mini-CTC's train split", 2000)
    pictures: tuple[str, ...] = _key("folders of more pictures, from $VCM_DATA on", ())
    picture_codec: str | None = _key(
        "weights of a learned picture codec that codes the pictures in the place of VVC, a file or "
        "a bundled name"
    )
    codings: int = _key("coded pictures of each picture", 2)
    coded_scales: int = _key("machine rates of each picture", 2)
    prepare_only: bool = _key("code the pictures, do not train", False)
    part: tuple[int, int] = _key("K N: prepare the K-th of every N blocks only", (0, 1))


@dataclass(frozen=True)
class InterInputs(FeatureInputs):
    """What the training of the inter networks works on; cache: folder for the latents."""

    vfcn: str | None = _key("weights of the machine layer, a file or a bundled name")
    sequences: int = _key(
        "of the train split of the mini-CTC sequences; of JDE, of the mini-CTC tracking set", 240
    )
    sequence_frames: int = _key("first frames of each sequence that are used", 10)


@dataclass(frozen=True)
class ImportanceInputs(FeatureInputs):
    """What the training of an encoder's importance works on."""

    vfcn: str = _key("weights of the machine layer, a file or a bundled name", "")
    width: int = _key("channels of the network", 32)


@dataclass(frozen=True)
class PictureInputs(FeatureInputs):
    """What the training of a learned picture codec works on; cache: folder for drawn pictures."""

    init: str | None = _key("picture_state.pth or weights to start from, or a bundled name")
    drawn: int = _key("pictures of the mini-CTC's train split", 2000)
    pictures: tuple[str, ...] = _key("folders of more pictures, from $VCM_DATA on", ())
    found_share: float = _key("of the crops that come from these folders", 0.15)


@dataclass(frozen=True)
class TransformInputs(FeatureInputs):
    """What the training of latent-space transforms works on; cache: folder for drawn pictures."""

    vfcn: str = _key("weights of the machine layer, a file or a bundled name", "")
    picture: str = _key("weights of the learned picture codec, a file or a bundled name", "")
    drawn: int = _key("pictures of the mini-CTC's train split", 2000)


@dataclass(frozen=True)
class HeadsInputs(FeatureInputs):
    """What the training of these transforms with the detector's losses works on."""

    vfcn: str = _key("weights of the machine layer, a file or a bundled name", "")
    picture: str = _key("weights of the learned picture codec, a file or a bundled name", "")
    latent_scalable: str = _key("weights of its transform to start from, or a bundled name", "")
    multi_head: str = _key("weights of its transform to start from, or a bundled name", "")


@dataclass(frozen=True)
class TrackerInputs(Inputs):
    """What the training of a tracker works on; cache: folder for the drawn frames."""

    cache: Path | None = _key("folder for the drawn frames")
    init: Path | None = _key("tracker_state.pth to start from")
    sequences: int = _key("of the mini-CTC tracking set's train split", 400)
    sequence_frames: int = _key("frames of each sequence that are used", 6)


@dataclass(frozen=True)
class DetectorInputs(Inputs):
    """What the training of a detector works on."""

    init: Path | None = _key("Detectron2-format checkpoint to start from")


def add_options(parser: argparse.ArgumentParser, *kinds: type) -> None:
    """The options of a recipe: its name, the output folder, and every field of the dataclasses.

    What is not typed stays out of the namespace, so that a recipe can say it.
    """
    parser.add_argument("recipe", metavar="RECIPE", help="name in cfg/training, or a YAML file")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder; resumed"
    )
    for kind in kinds:
        for key, hint in types_of(kind).items():
            _add_option(parser, next(f for f in fields(kind) if f.name == key), hint)


def read_recipe(options: argparse.Namespace, *kinds: type) -> list[Any]:
    """The dataclasses: what is typed, over the recipe, over the defaults.

    Raises InputError for a key that none of them has, naming the nearest, for a value of another
    type, and for values that cannot be.
    """
    path = _recipe_path(options.recipe)
    values = read_yaml(path, "training recipe")
    known = {key for kind in kinds for key in types_of(kind)}
    refuse_unknown(values, known, path)
    values |= {key: value for key, value in vars(options).items() if key in known}
    if "model" in known and "model" not in values:
        raise InputError(f"{path}: expected the key model, found none; add it, or give --model")
    made = []
    for kind in kinds:
        own = {key: value for key, value in values.items() if key in types_of(kind)}
        try:
            made.append(build(kind, own, path))
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
    return made


def _recipe_path(name: str) -> Path:
    folder = cfg_folder() / "training"
    bundled, path = folder / f"{name}.yaml", Path(name)
    if not bundled.is_file() and not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise InputError(f"training recipe {name}: expected a YAML file or one of {known}")
    return bundled if bundled.is_file() else path


def _add_option(parser: argparse.ArgumentParser, of: Field, hint: Any) -> None:
    """The option of a field; the words of a list follow it one by one."""
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(of)}
    if typing.get_origin(hint) is tuple:
        options |= {"nargs": "+", "type": typing.get_args(hint)[0]}
    elif hint is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["type"] = hint
    if hint is not bool:
        options["metavar"] = {Path: "PATH", str: "TEXT"}.get(options["type"], "N")
    parser.add_argument(f"--{of.name.replace('_', '-')}", **options)


def _help(of: Field) -> str:
    shown = " ".join(map(str, of.default)) if isinstance(of.default, tuple) else of.default
    default = f"({shown})" if of.default not in (None, MISSING, ()) else ""
    return f"{of.metadata.get('help', '')} {default}".strip()
