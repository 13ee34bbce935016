# SPDX-License-Identifier: BSD-3-Clause
"""What each command of `vcm-plugin` does with its options; only these functions print."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vcm_plugin.bitstream import BitstreamError
from vcm_plugin.conditions import TestCondition, load_condition, override
from vcm_plugin.errors import InputError

# torch, and all that needs it, is imported where it is used: info and report do without.

DEMO_ANCHORS = ("vvc_feature", "vvc_remote")
DEMO_PROPOSAL = "diff_fchm"
DEMO_CONDITION, DEMO_HUMAN = "minictc", "minictc_human"
DEMO_HUMAN_POINT, DEMO_PICTURES = "2.8+1", 4


def demo(options: Namespace) -> None:
    """Both anchors and the proposal on the built-in test set, then the report."""
    condition = override(load_condition(options.condition), {"limit": options.limit})
    codecs = DEMO_ANCHORS
    if condition.diff_fchm_weights:
        codecs += (DEMO_PROPOSAL,)
    else:
        print(f"{condition.name}: no diff_fchm_weights, so only the anchors are run")
    runs = [options.output / codec for codec in codecs]
    for codec, folder in zip(codecs, runs, strict=True):
        _run_test(condition, codec, folder, options)
    report = options.output / "report"
    _write_report(runs, list(DEMO_ANCHORS), report, ["csv", "json", "png", "svg"])
    if options.condition == DEMO_CONDITION:
        from vcm_plugin.human_demo import write_human_demo

        human = override(load_condition(DEMO_HUMAN), {"limit": options.limit})
        folder = options.output / "human"
        shown = write_human_demo(human, DEMO_HUMAN_POINT, DEMO_PICTURES, folder, options.device)
        print(f"human:  {shown}")


def run(options: Namespace) -> None:
    """One codec over a test condition."""
    from vcm_plugin.codecs import codec_entry

    entry = codec_entry(options.codec)
    if options.preset and not entry.preset:
        raise InputError(f"codec {options.codec} has no presets: leave out --preset")
    changes = {
        "images": options.images and str(options.images.absolute()),
        "annotations": options.annotations and str(options.annotations.absolute()),
        "minictc": options.split,
        "limit": options.limit,
        "tasks": options.tasks and tuple(options.tasks),
        entry.qps: options.qps and tuple(options.qps),
    }
    if options.preset:
        changes[entry.preset] = options.preset
    condition = override(_condition(options), changes)
    folder = options.output or Path("runs") / condition.name / options.codec
    result = _run_test(condition, options.codec, folder, options)
    _print_points(result)
    print(f"results: {folder / 'result.json'}")


def report(options: Namespace) -> None:
    """Tables, BD-rates and plots of run folders."""
    from vcm_plugin.report import ViewerOptions

    viewer = ViewerOptions(options.viewer_pictures, _data_root(options))
    _write_report(options.runs, options.anchor, options.output, options.format, viewer)


def proposal(options: Namespace) -> None:
    """An input document in MPEG form."""
    from vcm_plugin.proposal import write_proposal

    unfilled = write_proposal(options.config, options.output)
    print(f"proposal: {options.output}")
    if unfilled:
        print(f"not filled in, and listed at its end: {', '.join(unfilled)}")


def package(options: Namespace) -> None:
    """A run and its anchors as one zip."""
    from vcm_plugin.package import make_package

    manifest = make_package(options.run, options.anchor, options.output)
    size = options.output.stat().st_size
    print(f"{options.output}: {len(manifest['files'])} files, {size / (1 << 20):.1f} MiB")


def crosscheck(options: Namespace) -> int:
    """A package -> a verdict; returns its exit code."""
    from vcm_plugin.crosscheck import CheckOptions, crosscheck, write_crosscheck
    from vcm_plugin.crosscheck.findings import EXIT_CODES, OK, STEPS
    from vcm_plugin.report import require

    require("docx")
    for path in options.weights:
        if not path.is_file():
            raise InputError(f"{path}: expected a file of weights, found none")
    check_options = CheckOptions(
        tuple(options.weights), _data_root(options), options.encode, options.threads,
        options.jobs, options.device,
    )  # fmt: skip
    with _progress() as progress:
        check = crosscheck(options.package, check_options, progress)
    write_crosscheck(check, options.output)
    for finding in check.findings:
        if finding.status != OK:
            where = " ".join(word for word in (finding.run, finding.rate_point) if word)
            print(f"{finding.step} {finding.status}: {where}: {finding.text}")
    if check.first_failure:
        step = check.first_failure.step
        print(f"first failing step: {step} ({STEPS[step][0]})")
        print(f"ask the proponent {STEPS[step][1]}")
    print(f"{options.package}: {check.verdict}")
    return EXIT_CODES[check.verdict]


def encode(options: Namespace) -> None:
    """One picture -> one bitstream."""
    from vcm_plugin.codecs import codec_entry, human_codec, split_rate_point
    from vcm_plugin.datasets import read_picture
    from vcm_plugin.metrics import bpp
    from vcm_plugin.results import write_bytes

    condition = _condition(options)
    if options.human and options.codec != "diff_fchm":
        raise InputError(f"codec {options.codec}: leave out --human, which is for diff_fchm")
    human = human_codec(condition, options.device) if options.human else None
    codec = human.machine if human else codec_entry(options.codec).make(condition)
    source = picture = read_picture(options.picture)
    pixels = source.shape[0] * source.shape[1]
    if codec.kind != "picture":
        source = _model(condition, options).nn_part1(source)
    if human:
        data = _encode_human(human, picture, source, options)
    elif codec.kind == "human":
        data = codec.encode(picture, source, *split_rate_point(options.rate_point))
    else:
        data = codec.encode(source, options.rate_point)
    write_bytes(options.output, data)
    bits = 8 * len(data)
    print(f"{options.output}: {bits} bits, {bpp(bits, pixels):.4f} bits per pixel")


def decode(options: Namespace) -> None:
    """One bitstream -> the detections in its picture."""
    from PIL import Image

    from vcm_plugin.codecs import codec_entry, codec_of, human_codec
    from vcm_plugin.environment import make_deterministic
    from vcm_plugin.results import write_json

    data = _read(options.bitstream)
    condition = _condition(options)
    with _naming(options.bitstream):
        name = codec_of(data)
    if options.human and name != "diff_fchm":
        raise InputError(f"{options.bitstream} is of codec {name}: leave out --human")
    human = human_codec(condition, options.device) if options.human else None
    codec = human.machine if human else codec_entry(name).make(condition)
    if options.picture and codec.kind == "feature":
        raise InputError(f"{options.bitstream} holds features, no picture: leave out --picture")
    make_deterministic(condition.threads_per_job)  # the same features with a picture and without
    with _naming(options.bitstream):
        features, picture = _decoded(human or codec, data)
    model = _model(condition, options)
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


def _decoded(codec, data: bytes) -> tuple:
    """Features and picture of a bitstream, None for the one that its codec does not give."""
    found = codec.decode(data)
    if codec.kind == "human":
        return found
    return (found, None) if codec.kind == "feature" else (None, found)


def info(options: Namespace) -> None:
    """What the header of a bitstream says, in words."""
    from vcm_plugin.codecs import describe_bitstream

    with _naming(options.bitstream):
        lines = describe_bitstream(_read(options.bitstream))
    print("\n".join(lines))


def doctor(_: Namespace) -> None:
    """What is installed and what each missing thing disables."""
    from vcm_plugin.doctor import examine

    for finding in examine():
        print(finding)


def _run_test(condition: TestCondition, codec: str, folder: Path, options: Namespace) -> dict:
    """Run a test with progress bars."""
    from vcm_plugin import ctc

    run_options = ctc.RunOptions(
        jobs=options.jobs,
        device=options.device,
        data_root=_data_root(options),
        keep_going=options.keep_going,
        check_expected=not options.no_expected,
        overwrite=options.overwrite,
        feature_cache_bytes=int(options.feature_cache * (1 << 30)),
    )
    with _progress(f"{codec}: ") as progress:
        result = ctc.run(condition, codec, folder, run_options, progress)
    for skipped in result["skipped"]:
        print(f"vcm-plugin: skipped, unreadable: {skipped['file_name']}", file=sys.stderr)
    return result


def _data_root(options: Namespace) -> Path | None:
    root = getattr(options, "data_root", None) or os.environ.get("VCM_DATA")
    return Path(root) if root else None


@contextmanager
def _progress(prefix: str = "") -> Iterator:
    """A function progress(stage, done, total) that draws a bar for each stage."""
    with _progress_bars() as bars:
        shown = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in shown:
                shown[stage] = bars.add_task(f"{prefix}{stage}", total=total)
            bars.update(shown[stage], completed=done, total=total)

        yield progress


def _progress_bars():
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:<26}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )


def _write_report(
    runs: list[Path], anchors: list[str], output: Path, formats: list[str], viewer=None
) -> None:
    from vcm_plugin.report import rd_table_text, write_report

    print(rd_table_text(write_report(runs, anchors, output, formats, viewer=viewer)))
    print(f"report: {output}")
    for plot in sorted(output.glob("*.png")) if "png" in formats else []:
        print(f"plot:   {plot}")


def _print_points(result: dict) -> None:
    from vcm_plugin.metrics import bpp

    names = [n for n in result["uncompressed"]["accuracy"] if n.endswith(("_ap", "_ap50"))]
    seen = [n for n in ("psnr", "ssim", "vmaf") if n in result["points"][0].get("human_vision", {})]
    rows = [("rate point", "bpp", *(name.replace("_", " ") for name in [*names, *seen]))]
    for point in [*result["points"], {"rate_point": "uncompressed", **result["uncompressed"]}]:
        rate = f"{bpp(point['bits'], point['pixels']):.4f}" if "bits" in point else ""
        values = [point["accuracy"][n] for n in names]
        values += [point["human_vision"][n] for n in seen if "human_vision" in point]
        rows.append((point["rate_point"], rate, *(f"{value:.2f}" for value in values)))
    print(f"{result['condition']}, {result['codec']}: accuracy in percent")
    for row in rows:
        print(f"{row[0]:<12}" + "".join(f"{cell:>11}" for cell in row[1:]))


def _condition(options: Namespace) -> TestCondition:
    """The test condition with the detector that was asked for in place of its own."""
    changes = {
        "model": options.model,
        "weights": options.weights,
        "class_names": options.classes and tuple(options.classes),
        "runtime": options.runtime,
        "diff_fchm_human_weights": getattr(options, "human_weights", None),
        "diff_fchm_human_prior": getattr(options, "human_prior", None),
    }
    return override(load_condition(options.condition), changes)


def _model(condition: TestCondition, options: Namespace):
    from vcm_plugin.environment import make_deterministic
    from vcm_plugin.inference import load_model

    make_deterministic(condition.threads_per_job)
    return load_model(condition, options.device)


def _encode_human(codec, picture, features, options: Namespace) -> bytes:
    """A file with both layers, and a line about their sizes."""
    from vcm_plugin.bitstream import machine_bits
    from vcm_plugin.human.human_codec import Sampling

    sampling = Sampling(steps=options.human_steps, seed=options.human_seed)
    data = codec.encode(picture, features, options.rate_point, options.human_rate_point, sampling)
    machine = machine_bits(data)
    print(f"machine layer {machine} bits, human layer {8 * len(data) - machine} bits")
    return data


def _named(detections, condition: TestCondition) -> list[dict]:
    """COCO results with the names of the classes of the detector."""
    from vcm_plugin.tasks import to_coco

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


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the name of a bitstream before the errors that its bytes cause."""
    try:
        yield
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a bitstream, found: {error.strerror}") from error
