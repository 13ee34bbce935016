# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin encode` do? One picture -> one bitstream."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from vcm_plugin.cli.common import condition_of, model_of
from vcm_plugin.cli.options import CODECS, add_condition, add_human_weights, command, positive
from vcm_plugin.errors import InputError


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
        required=True,
        metavar="R",
        help="diff_fchm: the scale s of its range, such as 0.5 (more bits) or 2 (fewer); "
        "anchors: the QP, such as 32; vvc_remote: 32@50 codes at half the size",
    )
    parser.add_argument(
        "--human", action="store_true", help="diff_fchm: also a layer that paints the picture"
    )
    parser.add_argument(
        "--human-rate-point",
        default="1",
        metavar="Q",
        help="step of its quantiser, such as 0.5 (more bits) or 2 (fewer) (%(default)s)",
    )
    parser.add_argument(
        "--human-steps",
        type=positive,
        default=4,
        metavar="N",
        help="sampling steps of its decoder, 1 to 50 (%(default)s)",
    )
    parser.add_argument(
        "--human-seed", type=int, default=0, metavar="N", help="of its noise (%(default)s)"
    )
    add_human_weights(parser)
    add_condition(parser)
    parser.set_defaults(body=body)


def body(options: Namespace) -> None:
    """One picture -> one bitstream."""
    from vcm_plugin.ctc.codecs import codec_entry, human_codec, split_rate_point
    from vcm_plugin.files import write_bytes
    from vcm_plugin.metrics.rate import bpp
    from vcm_plugin.testsets.pictures import read_picture

    condition = condition_of(options)
    if options.human and options.codec != "diff_fchm":
        raise InputError(f"codec {options.codec}: leave out --human, which is for diff_fchm")
    human = human_codec(condition, options.device) if options.human else None
    codec = human.machine if human else codec_entry(options.codec).make(condition)
    source = picture = read_picture(options.picture)
    pixels = source.shape[0] * source.shape[1]
    if codec.kind != "picture":
        source = model_of(condition, options).nn_part1(source)
    if human:
        data = _encode_human(human, picture, source, options)
    elif codec.kind == "human":
        data = codec.encode(picture, source, *split_rate_point(options.rate_point))
    else:
        data = codec.encode(source, options.rate_point)
    write_bytes(options.output, data)
    bits = 8 * len(data)
    print(f"{options.output}: {bits} bits, {bpp(bits, pixels):.4f} bits per pixel")


def _encode_human(codec, picture, features, options: Namespace) -> bytes:
    """A file with both layers, and a line about their sizes."""
    from vcm_plugin.bitstream import machine_bits
    from vcm_plugin.diff_fchm.human.codec import Sampling

    sampling = Sampling(steps=options.human_steps, seed=options.human_seed)
    data = codec.encode(picture, features, options.rate_point, options.human_rate_point, sampling)
    machine = machine_bits(data)
    print(f"machine layer {machine} bits, human layer {8 * len(data) - machine} bits")
    return data
