# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin run` do? One codec over a test condition."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path

from vcm_plugin.cli.common import condition_of, print_points, run_test
from vcm_plugin.cli.options import (
    CODECS,
    add_condition,
    add_data,
    add_human_weights,
    add_run_options,
    command,
    rate_point,
    shard,
)
from vcm_plugin.errors import InputError


def add(commands) -> None:
    """The parser of the command."""
    parser = command(
        commands,
        "run",
        "one codec over a test condition: encode, store, decode, detect, evaluate",
        "Runs one codec over all pictures and rate points of a test condition. What is in the "
        "folder already is not done again, so an interrupted run goes on with the same command.",
    )
    add_condition(parser, positional=True)
    parser.add_argument("--codec", required=True, metavar="NAME", help=CODECS)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="RUN",
        help="the run folder, one per codec (runs/<condition>/<codec>)",
    )
    _add_coding(parser)
    parser.add_argument(
        "--shard",
        type=shard,
        metavar="K/N",
        help="code the K-th of N shares of the test set only, as an array job does; the same "
        "command without it then takes up all shares and evaluates",
    )
    parser.add_argument("--tasks", nargs="+", choices=["box", "mask"], help="what is evaluated")
    add_human_weights(parser)
    add_data(parser)
    add_run_options(parser)
    parser.set_defaults(body=body)


def _add_coding(parser: argparse.ArgumentParser) -> None:
    """The options of rate points and encoders, in place of what the condition says."""
    parser.add_argument(
        "--rate-points",
        type=rate_point,
        nargs="+",
        metavar="R",
        help="instead of the condition's; VVC, picture_learned, latent_scalable, multi_head: QPs "
        "such as 32 42; diff_fchm: scales s such as 0.5 1 2; diff_fchm_picture, diff_fchm_learned, "
        "simulcast, simulcast_learned, diff_fchm_human: pairs such as 2.8+37 or 2.8+1",
    )
    parser.add_argument(
        "--qp-table",
        metavar="NAME",
        help="VVC: the QPs of a table of cfg/qp_tables.yaml, such as vcm_rs_0.12_inter",
    )
    parser.add_argument(
        "--preset", metavar="NAME", help="of VVenC, faster to slower, instead of the condition's"
    )
    parser.add_argument(
        "--random-access",
        action="store_true",
        help="VVC anchors on sequences: inter prediction instead of all-intra",
    )
    parser.add_argument(
        "--low-delay",
        action="store_true",
        help="the same in the order of display, without the delay of reordered pictures",
    )
    parser.add_argument(
        "--intra-period",
        type=int,
        metavar="N",
        help="diff_fchm on sequences: an intra frame every N frames; 1: all-intra (32, from 48 "
        "frames per second on 64)",
    )


def body(options: Namespace) -> None:
    """One codec over a test condition."""
    from vcm_plugin.ctc.codecs import override, settings_class
    from vcm_plugin.ctc.run_folder import SHARDS

    codec = settings_class(options.codec)
    if options.low_delay and options.random_access:
        raise InputError("--low-delay: expected no --random-access beside it; choose one")
    for option in ("random_access", "low_delay"):
        if getattr(options, option) and not hasattr(codec, f"vvc_{option}"):
            raise InputError(
                f"codec {options.codec} has no inter prediction by VVC: leave out "
                f"--{option.replace('_', '-')}"
            )
    preset_key = getattr(codec, "preset_key", "")
    if options.preset and not preset_key:
        raise InputError(f"codec {options.codec} has no presets: leave out --preset")
    if options.annotations and not options.classes:
        options.classes = _annotated_classes(options.annotations)
    changes = {
        "images": options.images and str(options.images.absolute()),
        "annotations": options.annotations and str(options.annotations.absolute()),
        "minictc": options.split,
        "limit": options.limit,
        "tasks": options.tasks and tuple(options.tasks),
        codec.points_key: options.rate_points and tuple(options.rate_points),
        "vvc_random_access": options.random_access or None,
        "qp_table": _qp_table(options, codec),
        "vvc_low_delay": options.low_delay or None,
        "diff_fchm_intra_period": _intra_period(options),
    }
    if options.preset:
        changes[preset_key] = options.preset
    condition = override(condition_of(options), changes)
    folder = options.output or Path("runs") / condition.name / options.codec
    result = run_test(condition, options.codec, folder, options)
    if result is None:
        print(f"shard {'/'.join(map(str, options.shard))}: {folder / SHARDS}")
        return
    print_points(result)
    print(f"results: {folder / 'result.json'}")


def _qp_table(options: Namespace, codec) -> str | None:
    if options.qp_table is None:
        return None
    if not codec.points_key.endswith("qps"):
        raise InputError(f"codec {options.codec} has no QPs: leave out --qp-table")
    if options.rate_points:
        raise InputError("--qp-table: expected no --rate-points beside it; choose one")
    from vcm_plugin.ctc.qp_tables import load_qp_table

    return load_qp_table(options.qp_table).name


def _intra_period(options: Namespace) -> int | None:
    period = options.intra_period
    if period is None:
        return None
    if options.codec != "diff_fchm":
        raise InputError(f"codec {options.codec}: leave out --intra-period, which is of diff_fchm")
    if period < 1:
        raise InputError(
            f"--intra-period: expected 1 (every frame is intra) or more frames, found {period}"
        )
    return period


def _annotated_classes(path: Path) -> list[str]:
    """The names of the categories of annotations, by their ids: the order of a detector's classes
    that was trained on such a set."""
    from vcm_plugin.testsets.annotations import read_annotations

    categories = sorted(read_annotations(path).coco["categories"], key=lambda item: item["id"])
    return [item["name"] for item in categories]
