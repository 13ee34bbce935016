# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin decode` do? One bitstream -> the detections in its picture."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from vcm_plugin.cli.common import (
    condition_of,
    detector_in_words,
    model_of,
    naming,
    naming_condition,
    read_bitstream,
    refuse_overwriting,
)
from vcm_plugin.cli.options import add_condition, add_human_weights, command, positive
from vcm_plugin.conditions import TestCondition
from vcm_plugin.errors import InputError


def add(commands) -> None:
    """The parser of the command."""
    parser = command(commands, "decode", "one bitstream -> the detections in its picture")
    parser.add_argument("bitstream", type=Path, metavar="FILE")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="the detections")
    parser.add_argument(
        "--frame", type=int, metavar="N", help="of a sequence, from 0; no other frame is shown"
    )
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="diff_fchm: all frames of a sequence; after a damaged one, from the next intra frame",
    )
    parser.add_argument("--features", type=Path, metavar="NPZ", help="also keep decoded features")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also keep the decoded picture")
    parser.add_argument(
        "--human", type=Path, metavar="PNG", help="also show the picture that the file holds"
    )
    parser.add_argument(
        "--human-steps",
        type=positive,
        metavar="N",
        help="paint an auxiliary picture anew in so many sampling steps, 1 to 50 (not at all)",
    )
    add_human_weights(parser)
    add_condition(parser)
    parser.set_defaults(body=body)


def body(options: Namespace) -> None:
    """One bitstream -> the detections in its picture."""
    from vcm_plugin.ctc.codecs import (
        codec_of,
        human_codec_of,
        make_codec,
        shows_picture,
    )
    from vcm_plugin.ctc.coding import kind_of
    from vcm_plugin.environment import make_deterministic
    from vcm_plugin.files import write_json

    _check_outputs(options)
    data = read_bitstream(options.bitstream)
    condition = condition_of(options)
    with naming(options.bitstream):
        name = codec_of(data) if not options.keep_going else _profile_of_frames(data)
    if options.human and name != "diff_fchm":
        raise InputError(
            f"{options.bitstream}: --human: expected a file of diff_fchm, found one of {name}: "
            "leave out --human; --picture keeps a decoded picture"
        )
    name = human_codec_of(data, condition) if options.human else name
    with naming_condition(data, condition):
        codec = make_codec(name, condition, options.device)
    if options.keep_going:
        return _keep_going(codec, condition, options)
    if options.picture and not (options.human or kind_of(codec).gives_picture):
        layer = name == "diff_fchm" and shows_picture(data)
        raise InputError(
            f"{options.bitstream} holds features, and a picture for a person: show it with --human "
            "in place of --picture"
            if layer
            else f"{options.bitstream} holds features, no picture: leave out --picture"
        )
    make_deterministic(condition.threads_per_job)  # the same features with a picture and without
    with naming(options.bitstream), naming_condition(data, condition):
        decoded = _decoded(codec, data, options)
        picture = _repainted(decoded.picture, data, name, condition, options)
    if options.picture and picture is None:
        raise InputError(
            f"{options.bitstream} ends after its base unit, which holds no picture: leave out "
            "--picture, or encode with --human"
        )
    for path in filter(None, (options.picture, options.human)):
        _write_picture(path, picture)  # before the detector, which may not take it
    model = model_of(condition, options)
    features = decoded.features
    features = model.nn_part1(decoded.picture) if features is None else features
    detections = model.nn_part2(features)
    if options.output:
        write_json(options.output, _named(detections, condition))
    if options.features:
        _write_features(options.features, features)
    print(detector_in_words(condition))
    print(f"{options.bitstream}: {len(detections)} detections")


def _profile_of_frames(data: bytes) -> str:
    """diff_fchm, whose files --keep-going reads frame by frame; raises InputError for others."""
    from vcm_plugin.bitstream import read_header

    found = read_header(data)[0].profile if data.startswith(b"FCM") else "vvc_remote"
    if found != "diff_fchm":
        raise InputError(f"--keep-going: expected a file of diff_fchm, found {found}; leave it out")
    return found


def _keep_going(codec, condition: TestCondition, options: Namespace) -> None:
    """The detections of every frame that can be decoded; the others are named."""
    from vcm_plugin.environment import make_deterministic
    from vcm_plugin.files import write_json

    for option in ("frame", "features", "picture", "human"):
        if getattr(options, option) is not None:
            raise InputError(f"--keep-going: expected no --{option} beside it; leave one out")
    make_deterministic(condition.threads_per_job)
    model, frames, lost = model_of(condition, options), [], {}
    with naming(options.bitstream):
        for number, layer in enumerate(codec.read_sound_layers(options.bitstream)):
            reason = getattr(layer, "reason", None)
            if reason is None:
                detections = model.nn_part2(codec.synthesise(layer))
                frames.append({"frame": number, "detections": _named(detections, condition)})
            else:
                lost.setdefault(reason, []).append(number)
    for reason, numbers in lost.items():
        print(f"frames {numbers[0]} to {numbers[-1]} are lost: {reason}")
    if options.output:
        write_json(options.output, frames)
    total = len(frames) + sum(map(len, lost.values()))
    print(f"{options.bitstream}: {len(frames)} of {total} frames decoded")


def _check_outputs(options: Namespace) -> None:
    """Raise InputError where an output is the bitstream, or another output."""
    outputs = (options.output, options.features, options.picture, options.human)
    for number, output in enumerate(outputs):
        refuse_overwriting(output, options.bitstream, *outputs[:number])


def _decoded(codec, data: bytes, options: Namespace):
    from vcm_plugin.ctc.coding import decode, decode_frame

    if options.frame is None:
        return decode(codec, data)
    if options.human:
        raise InputError("--frame: expected no --human, which is for single pictures")
    return decode_frame(codec, options.bitstream, options.frame)


def _repainted(picture, data: bytes, name: str, condition: TestCondition, options: Namespace):
    """The decoded picture, painted anew where --human-steps asks for it."""
    if options.human_steps is None:
        return picture
    if name not in ("diff_fchm_picture", "diff_fchm_learned"):
        raise InputError(
            "--human-steps: expected a file with an auxiliary picture and --human; a latent layer "
            "has its own number of steps in the file"
        )
    from vcm_plugin.ctc.codecs import make_codec

    painter = make_codec("diff_fchm_human", condition, options.device)
    return painter.repaint(data, picture, replace(painter.sampling, steps=options.human_steps))


def _write_picture(path: Path, picture) -> None:
    from PIL import Image

    from vcm_plugin.files import writing

    with writing(path) as file:
        Image.fromarray(picture).save(file, "PNG")


def _named(detections, condition: TestCondition) -> list[dict]:
    """COCO results with the names of the classes of the detector."""
    from vcm_plugin.metrics.coco_ap import to_coco

    found = to_coco(detections, 0, range(len(condition.class_names)))
    return [
        {"category": condition.class_names[item["category_id"]]}
        | {key: value for key, value in item.items() if key not in ("image_id", "category_id")}
        for item in found
    ]


def _write_features(path: Path, features) -> None:
    from vcm_plugin.files import write_arrays

    layers = {name: layer.numpy() for name, layer in features.layers.items()}
    sizes = {"source_size": features.source_size, "input_size": features.input_size}
    write_arrays(path, layers | sizes)
