# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin decode` do? One bitstream -> the detections in its picture."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from vcm_plugin.cli.common import condition_of, model_of, naming, read_bitstream
from vcm_plugin.cli.options import add_condition, add_human_weights, command
from vcm_plugin.conditions import TestCondition
from vcm_plugin.errors import InputError


def add(commands) -> None:
    """The parser of the command."""
    parser = command(commands, "decode", "one bitstream -> the detections in its picture")
    parser.add_argument("bitstream", type=Path, metavar="FILE")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="the detections")
    parser.add_argument(
        "--frame", type=int, metavar="N", help="of a sequence, from 0; no other frame is decoded"
    )
    parser.add_argument("--features", type=Path, metavar="NPZ", help="also keep decoded features")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also keep the decoded picture")
    parser.add_argument(
        "--human", type=Path, metavar="PNG", help="also paint the picture of the human layer"
    )
    add_human_weights(parser)
    add_condition(parser)
    parser.set_defaults(body=body)


def body(options: Namespace) -> None:
    """One bitstream -> the detections in its picture."""
    from PIL import Image

    from vcm_plugin.ctc.codecs import codec_entry, codec_of, human_codec
    from vcm_plugin.environment import make_deterministic
    from vcm_plugin.files import write_json

    data = read_bitstream(options.bitstream)
    condition = condition_of(options)
    with naming(options.bitstream):
        name = codec_of(data)
    if options.human and name != "diff_fchm":
        raise InputError(f"{options.bitstream} is of codec {name}: leave out --human")
    human = human_codec(condition, options.device) if options.human else None
    codec = human.machine if human else codec_entry(name).make(condition)
    if options.picture and codec.kind == "feature":
        raise InputError(f"{options.bitstream} holds features, no picture: leave out --picture")
    make_deterministic(condition.threads_per_job)  # the same features with a picture and without
    with naming(options.bitstream):
        if options.frame is not None:
            features, picture = _pair(codec, _decoded_frame(codec, options))
        else:
            decoder = human or codec
            features, picture = _pair(decoder, decoder.decode(data))
    model = model_of(condition, options)
    features = model.nn_part1(picture) if features is None else features
    detections = model.nn_part2(features)
    if options.output:
        write_json(options.output, _named(detections, condition))
    if options.features:
        _write_features(options.features, features)
    if options.picture:
        Image.fromarray(picture).save(options.picture, format="PNG")
    if human:
        Image.fromarray(picture).save(options.human, format="PNG")
    print(f"{options.bitstream}: {len(detections)} detections")


def _pair(codec, found) -> tuple:
    """Features and picture of what a codec decoded, None for the one that it does not give."""
    if codec.kind == "human":
        return found
    return (found, None) if codec.kind == "feature" else (None, found)


def _decoded_frame(codec, options: Namespace):
    """The features of one frame of a sequence."""
    if not hasattr(codec, "decode_frame"):
        raise InputError(f"--frame: expected an .fcm file of diff_fchm or vvc_feature, {codec.name}"
                         " has no random access by frame")  # fmt: skip
    try:
        return codec.decode_frame(options.bitstream, options.frame)
    except IndexError as error:
        raise InputError(f"{options.bitstream}: --frame: {error}") from error


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
    import numpy as np

    layers = {name: layer.numpy() for name, layer in features.layers.items()}
    sizes = {"source_size": features.source_size, "input_size": features.input_size}
    with path.open("wb") as file:
        np.savez_compressed(file, **layers, **sizes)
