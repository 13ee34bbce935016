# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin encode` do? One picture -> one bitstream."""

from __future__ import annotations

import argparse
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from vcm_plugin.cli.common import (
    condition_of,
    detector_in_words,
    model_of,
    refuse_overwriting,
)
from vcm_plugin.cli.options import CODECS, add_condition, add_human_weights, command, positive
from vcm_plugin.errors import InputError

# What is typed -> the codec, and its rate point where none is typed.
HUMAN_KINDS = {
    "picture": ("diff_fchm_picture", "auto:37"),
    "learned": ("diff_fchm_learned", "42"),
    "latent": ("diff_fchm_human", "1"),
}


def add(commands) -> None:
    """The parser of the command."""
    parser = command(commands, "encode", "one picture -> one bitstream")
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="a JPEG or PNG file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--codec", default="diff_fchm", metavar="NAME", help=f"{CODECS} (%(default)s)"
    )
    parser.add_argument(
        "--rate-point",
        metavar="R",
        help="(the middle one of the presets); diff_fchm: the scale s of its range, such as 0.5 "
        "(more bits) or 2 (fewer); "
        "anchors: the QP, such as 32; vvc_remote: 32@50 codes at half the size",
    )
    _add_human(parser)
    add_condition(parser)
    parser.set_defaults(body=body)


def _add_human(parser: argparse.ArgumentParser) -> None:
    """The options of a layer that shows the picture."""
    parser.add_argument(
        "--human",
        action="store_true",
        help="diff_fchm, latent_scalable: also a layer that shows the picture",
    )
    parser.add_argument(
        "--human-kind",
        choices=list(HUMAN_KINDS),
        help="picture: VVC beside the features, restored with them; learned: the same with "
        "picture_learned in the place of VVC; latent: painted by a diffusion prior (picture, where "
        "the condition names a restorer)",
    )
    parser.add_argument(
        "--human-rate-point",
        metavar="R",
        help="picture: QP, QP@percent or auto:Q (auto:37); learned: QP (42); latent: step of its "
        "quantiser, such as 0.5 (more bits) or 2 (fewer) (1)",
    )
    parser.add_argument(
        "--human-steps",
        type=positive,
        metavar="N",
        help="latent: sampling steps of its decoder, 1 to 50 (4; 25 for weights that paint from "
        "noise)",
    )
    parser.add_argument(
        "--human-seed", type=int, metavar="N", help="latent: of its noise (0)"
    )
    add_human_weights(parser)


def body(options: Namespace) -> None:
    """One picture -> one bitstream."""
    from vcm_plugin.ctc.codecs import default_rate_point, make_codec, override
    from vcm_plugin.ctc.coding import Source, encode, kind_of
    from vcm_plugin.files import write_bytes
    from vcm_plugin.metrics.rate import bpp
    from vcm_plugin.testsets.pictures import read_picture

    refuse_overwriting(options.output, options.picture)
    if options.human and options.codec not in ("diff_fchm", "latent_scalable"):
        raise InputError(
            f"codec {options.codec}: leave out --human, which is for diff_fchm and latent_scalable"
        )
    condition = condition_of(options)
    name, own_layer = options.codec, options.human and options.codec == "diff_fchm"
    if own_layer:
        name = _human_codec(condition, options)
    elif options.human:
        condition = override(condition, {"latent_scalable_layers": "both"})
    _check_layer_options(options, own_layer, name)
    codec = make_codec(name, condition, options.device)
    point = options.rate_point
    if point is None:
        point = default_rate_point(options.codec, codec, condition)
        print(f"rate point {point}: --rate-point chooses another")
    if own_layer:
        point = f"{point}+{options.human_rate_point or dict(HUMAN_KINDS.values())[name]}"
    if name == "diff_fchm_human":
        steps = options.human_steps or codec.sampling.steps
        chosen = {"steps": steps, "seed": options.human_seed or 0}
        codec.sampling = replace(codec.sampling, **chosen)
    picture = read_picture(options.picture)
    features = None
    if kind_of(codec).takes_features:
        features = model_of(condition, options).nn_part1(picture)
        print(detector_in_words(condition))
    data = encode(codec, Source(picture, features), point)
    write_bytes(options.output, data)
    bits = 8 * len(data)
    if options.human:
        machine = codec.machine_bits(data)
        print(f"machine layer {machine} bits, human layer {bits - machine} bits")
    pixels = picture.shape[0] * picture.shape[1]
    print(f"{options.output}: {bits} bits, {bpp(bits, pixels):.4f} bits per pixel")


def _check_layer_options(options: Namespace, own_layer: bool, codec: str) -> None:
    """Raise InputError for an option of a layer for a person that would do nothing."""
    given = {name for name in vars(options) if name.startswith("human_")}
    given = {name for name in given if getattr(options, name) is not None}
    for name in sorted(given & {"human_kind", "human_rate_point"}):
        if not own_layer:
            raise InputError(
                f"--{name.replace('_', '-')}: expected --human and the codec diff_fchm beside it, "
                "found none of that; add --human, or leave it out"
            )
    for name in sorted(given & {"human_steps", "human_seed"}):
        if codec != "diff_fchm_human":
            raise InputError(
                f"--{name.replace('_', '-')}: expected a latent layer, found {codec}; choose "
                "--human --human-kind latent, or leave it out"
            )


def _human_codec(condition, options: Namespace) -> str:
    from vcm_plugin.ctc.codecs import default_human_codec

    if options.human_kind is None:
        return default_human_codec(condition)
    return HUMAN_KINDS[options.human_kind][0]
