# SPDX-License-Identifier: BSD-3-Clause
"""Which options do several commands share?"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from vcm_plugin.environment import cfg_folder

# Every codec of ctc.codecs.CODECS (a test holds that): the parser does without importing them.
CODECS = (
    "diff_fchm, vvc_feature, vvc_remote, diff_fchm_picture, diff_fchm_learned, diff_fchm_human, "
    "simulcast, msfc, fctm_like, picture_learned, latent_scalable, multi_head, simulcast_learned, "
    "vtm_feature, vtm_remote"
)


def command(commands, name: str, summary: str, description: str = "") -> argparse.ArgumentParser:
    text = description or f"{summary[0].upper()}{summary[1:]}."
    return commands.add_parser(name, help=summary, description=text)


def add_condition(parser: argparse.ArgumentParser, positional: bool = False) -> None:
    names = ", ".join(sorted(path.stem for path in (cfg_folder() / "ctc").glob("*.yaml")))
    text = f"test condition: {names}, or a YAML file"
    if positional:
        parser.add_argument("condition", metavar="CONDITION", help=text)
    else:
        parser.add_argument(
            "--condition", default="minictc", metavar="NAME", help=f"{text} (minictc)"
        )
    group = parser.add_argument_group("detector, in place of that of the test condition")
    group.add_argument("--model", metavar="YAML", help="of cfg/models, or a YAML of Detectron2")
    group.add_argument(
        "--weights", metavar="FILE", help="its checkpoint: of Detectron2, or of JDE's authors"
    )
    group.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="its class names, in order (run: those of --annotations, by id)",
    )
    group.add_argument("--runtime", choices=["auto", "detectron2", "torchvision"])
    add_device(parser)


def add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("test set, in place of that of the test condition")
    group.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures")
    group.add_argument("--annotations", type=Path, metavar="FILE", help="COCO annotations")
    group.add_argument(
        "--split", choices=["train", "val", "test"], help="another split of the built-in test set"
    )
    add_data_root(group)


def add_data_root(parser) -> None:
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="where relative paths of the condition start ($VCM_DATA, else beside its YAML file)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="of torch: cpu, cuda, cuda:1 ... (cpu)")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to run")
    group.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help="only the first N pictures, or frames of each sequence",
    )
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--jobs",
        type=positive,
        default=parser.get_default("jobs") or 1,
        metavar="N",
        help="processes (%(default)s); the result does not depend on it",
    )
    either.add_argument(
        "--cluster",
        metavar="WHERE",
        help="Dask in place of --jobs: local:N, tcp://host:port of a scheduler, or its file",
    )
    group.add_argument(
        "--keep-going",
        action="store_true",
        help="pass over unreadable pictures; the result names them",
    )
    group.add_argument(
        "--no-expected",
        action="store_true",
        help="go on where the uncompressed accuracy is not the one that the condition states",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="delete results of another test in the folder"
    )
    group.add_argument(
        "--feature-cache",
        type=gibibytes,
        default=4.0,
        metavar="GIB",
        help="disk for features that are kept between runs; 0 turns it off (%(default)g)",
    )
    if not any(action.dest == "device" for action in parser._actions):
        add_device(parser)


def add_human_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--restorer", metavar="FILE", help="of auxiliary pictures, from scripts/train_restorer.py"
    )
    parser.add_argument(
        "--human-weights", metavar="DIR", help="of a latent layer, from scripts/train_hvcn.py"
    )
    parser.add_argument(
        "--human-prior",
        metavar="DIR",
        help="its diffusion prior, a folder or hub id, where that is not in --human-weights",
    )


def rate_point(text: str) -> int | float | str:
    """A rate point as a test condition lists it: a number, or the text of one of two layers."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def gibibytes(text: str) -> float:
    try:
        if 0.0 <= float(text) < math.inf:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a number from 0 on, found {text!r}")


def shard(text: str) -> tuple[int, int]:
    """K/N: the K-th of N shares."""
    number, _, count = text.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise argparse.ArgumentTypeError(f"expected K/N with K from 1 to N, found {text!r}")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)
