#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""IVN against other ways to many rates, trained with the same budget on the same data; one plot.

    scripts/bench_variable_rate.py -o runs/variable_rate

Every model has the networks of VFCN, but the last: ivn_robust (s log-uniform in training),
ivn_plain (s = 1 only, as published), p2_only (ivn_robust without the fusion of p3..p5), gain_units
(trained gain and inverse-gain vectors, 8 levels), lambda (one model for each of four rates, each
with the whole budget), msfc (reduction to 64 channels on the grid of p5, coded by VVC). No detector
losses in training. Judged on pictures of the mini-CTC val split by real files: box and mask AP, and
the signal-to-noise ratio of the features (mean over p2..p5, in dB). Training takes the range of a
batch, a codec that of its picture, so s is some 0.23 octaves smaller in the test, for all alike.
What is trained already in the output folder is not trained again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from vcm_plugin.conditions import TestCondition, model_path
from vcm_plugin.ctc.codecs import load_condition, make_codec, override
from vcm_plugin.diff_fchm.machine.vfcn import GAIN_OCTAVES
from vcm_plugin.files import read_json, write_json
from vcm_plugin.metrics import coco_ap
from vcm_plugin.metrics.bd_rate import bd_rate
from vcm_plugin.metrics.rate import bpp
from vcm_plugin.split import load_split_model
from vcm_plugin.testsets.coco import CocoDataset
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.testsets.pictures import read_picture

SCRIPTS = Path(__file__).parent
SCALES = [round(2.0**octave, 4) for octave in GAIN_OCTAVES.tolist()]
LAMBDA = 0.003  # at s = 1; a model for s alone has LAMBDA / s^2
SINGLE = (0.4, 0.8, 1.6, 3.2)
QPS = (17, 22, 27, 30, 33, 36)
ONE_RATE = ["--scales", "1", "1", "--variant", "plain"]
ALL_RATES = ["--scales", "0.25", "4"]
TRAINED = {
    "ivn_robust": ALL_RATES,
    "ivn_plain": ONE_RATE,
    "p2_only": [*ALL_RATES, "--no-fuse"],
    "gain_units": [*ALL_RATES, "--variant", "gain"],
    **{f"lambda_{s:g}": [*ONE_RATE, "--lmbda", f"{LAMBDA / s**2:g}"] for s in SINGLE},
}
CURVES = ("ivn_robust", "ivn_plain", "p2_only", "gain_units", "lambda", "msfc")
METRICS = {"box_ap": "box AP (%)", "mask_ap": "mask AP (%)", "feature_snr": "feature SNR (dB)"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder; resumed")
    parser.add_argument("--cache", type=Path, help="folder for the training features")
    parser.add_argument("--iterations", type=int, default=700)
    parser.add_argument("--limit", type=int, help="only the first N pictures of the val split")
    options = parser.parse_args()
    for name, settings in TRAINED.items():
        train("train_vfcn.py", ["vfcn_rival"], options, name, settings)
    train("train_msfc.py", ["msfc_rival"], options, "msfc", [])
    condition = override(load_condition("minictc"), {"minictc": "val", "limit": options.limit})
    points = options.output / "points.json"
    test = {"iterations": options.iterations, "limit": options.limit}
    kept = read_json(points) if points.is_file() else {}
    if kept.get("test") == test:
        curves = kept["curves"]
    else:
        curves = measured(condition, options.output)
    write_json(points, {"test": test, "curves": curves})
    print_table(curves)
    plot(curves, options.output / "variable_rate.png")


def train(script: str, what: list[str], options, name: str, settings: list[str]) -> None:
    folder = options.output / name
    note = folder / "iterations.txt"
    if note.is_file() and note.read_text() == str(options.iterations):
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, SCRIPTS / script, *what, "-o", folder, "--iterations"]
    command += [str(options.iterations), *settings]
    command += ["--cache", options.cache] if options.cache else []
    print(f"training {name}", flush=True)
    with (folder / "log.txt").open("w") as log:
        if subprocess.run(command, stdout=log, stderr=log).returncode:
            sys.exit(f"training {name} failed, see {log.name}")
    note.write_text(str(options.iterations))


def measured(condition: TestCondition, folder: Path) -> dict[str, list[dict]]:
    """Points of every curve, by rising rate."""
    dataset = open_test_set(condition)
    weights = condition.weights_path()
    model = load_split_model(model_path(condition.model), weights, runtime="torchvision")
    features = [model.nn_part1(read_picture(p.path)) for p in dataset.pictures]
    curves = {name: [] for name in CURVES}
    for name in (*TRAINED, "msfc"):
        codec = trained_codec(condition, folder, name)
        curve = name.split("_")[0] if name.startswith("lambda_") else name
        points = QPS if name == "msfc" else (1,) if curve == "lambda" else SCALES
        for point in points:
            found = measure(codec, str(point), model, features, dataset)
            curves[curve].append({"model": name, "rate_point": point, **found})
            print(f"{name} {point}: {found}", flush=True)
    return {name: sorted(found, key=lambda point: point["bpp"]) for name, found in curves.items()}


def trained_codec(condition: TestCondition, folder: Path, name: str):
    if name == "msfc":
        changes = {"msfc_weights": str((folder / "msfc" / "msfc.safetensors").absolute())}
        changes |= {"msfc_preset": condition.require("vvc_feature_preset")}
        return make_codec("msfc", override(condition, changes))
    weights = str((folder / name / "vfcn.safetensors").absolute())
    return make_codec("diff_fchm", override(condition, {"diff_fchm_weights": weights}))


def measure(codec, rate_point: str, model, features: list, dataset: CocoDataset) -> dict:
    """Rate and accuracy of one rate point over all pictures."""
    bits, found, snr = 0, [], []
    for picture, source in zip(dataset.pictures, features, strict=True):
        data = codec.encode(source, rate_point)
        bits += 8 * len(data)
        decoded = codec.decode(data)
        detections = model.nn_part2(decoded)
        found += coco_ap.to_coco(detections, picture.image_id, dataset.category_ids)
        snr.append([layer_snr(x, decoded.layers[name]) for name, x in source.layers.items()])
    accuracy = coco_ap.evaluate(dataset.coco, found, tasks=("box", "mask"))
    pixels = sum(p.height * p.width for p in dataset.pictures)
    return {
        "bpp": bpp(bits, pixels),
        "box_ap": accuracy["box_ap"],
        "mask_ap": accuracy["mask_ap"],
        "feature_snr": torch.tensor(snr).mean().item(),
    }


def layer_snr(source: torch.Tensor, decoded: torch.Tensor) -> float:
    """Variance of a layer over its mean squared error, in dB."""
    return (10 * torch.log10(source.var() / (source - decoded).square().mean())).item()


def print_table(curves: dict[str, list[dict]]) -> None:
    print(f"{'curve':<12}{'rate point':>12}{'bpp':>9}{'box AP':>9}{'mask AP':>9}{'SNR dB':>9}")
    for name, points in curves.items():
        for p in points:
            values = "".join(f"{p[metric]:9.2f}" for metric in METRICS)
            print(f"{name:<12}{p['rate_point']:>12}{p['bpp']:9.4f}{values}")
    print("\nBD-rate of ivn_robust against the others (after the monotone fit for AP)")
    for name in [name for name in CURVES if name != "ivn_robust"]:
        cells = []
        for metric, text in METRICS.items():
            pair = [[(p["bpp"], p[metric]) for p in curves[c]] for c in (name, "ivn_robust")]
            method = "pchip" if metric == "feature_snr" else "monotone"
            found = bd_rate(*pair, method)
            value = f"{found.percent:+.1f} %" if found.percent is not None else found.reason
            cells.append(f"{text.split(' (')[0]} {value}")
        print(f"{name:<12} {', '.join(cells)}")


def plot(curves: dict[str, list[dict]], path: Path) -> None:
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    for axes, (metric, text) in zip(figure.subplots(1, 2), list(METRICS.items())[::2]):
        for (name, points), marker in zip(curves.items(), "os^Dv*"):
            axes.plot([p["bpp"] for p in points], [p[metric] for p in points], marker=marker,
                      label=name, linewidth=1.4, markersize=5)  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel("rate (bits per pixel of the source picture, log scale)")
        axes.set_ylabel(text)
        axes.grid(True, color="#dddddd", linewidth=0.7)
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=150)
    print(f"plot: {path}")


if __name__ == "__main__":
    main()
