#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Time, arithmetic and memory of diff_fchm beside vvc_feature, in one run with the same threads.

    scripts/bench_machine_codec.py           the bundled VFCN on pictures of the mini-CTC val split
    scripts/bench_machine_codec.py --large   256 channels, R50-FPN features of an 800 x 1200 picture

--large takes random weights, of the detector and of VFCN (sizes of vfcn_R_50_FPN_coco.yaml): they
do for timing, and their bits, printed beside, are those of no trained model. Prints medians over
the pictures for every rate point, the sums over the rate points and their ratio, MACs per pixel of
the network input, the seconds that these take at the measured GEMM rate, and peak memory.
"""

import argparse
import resource
import statistics
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from vcm_plugin.conditions import model_path
from vcm_plugin.ctc import complexity
from vcm_plugin.ctc.codecs import codec_rate_points, load_condition, make_codec, override
from vcm_plugin.diff_fchm.machine.codec import MachineCodec, export
from vcm_plugin.diff_fchm.machine.config import VfcnConfig
from vcm_plugin.diff_fchm.machine.vfcn import LAYERS, Vfcn
from vcm_plugin.environment import cfg_folder, make_deterministic
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split import load_split_model
from vcm_plugin.split.config import load_config
from vcm_plugin.split.torchvision import build_rcnn, to_detectron2_state_dict
from vcm_plugin.testsets import minictc
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.testsets.pictures import read_picture

LARGE_SIZE, LARGE_MODEL = (800, 1200), "faster_rcnn_R_50_FPN_3x"
PRODUCTS = {"conv": "float32", "matmul": "float64"}  # the entropy networks multiply in float64
LARGE_SCALES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # as many as the anchor has QPs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--pictures", type=int, default=8, help="of the mini-CTC (%(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="with --large (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    make_deterministic(options.threads)
    condition = override(load_condition("minictc"), {"threads_per_job": options.threads})
    if options.large:
        features = [large_features()] * options.repeat
        codec, scales = random_codec(features[0]), LARGE_SCALES
    else:
        features = trained_features(condition, options.pictures)
        codec, scales = make_codec("diff_fchm", condition), condition.require("diff_fchm_scales")
    pixels = int(np.prod(features[0].input_size))
    print(f"{len(features)} pictures, network input {features[0].input_size}, "
          f"{codec.config.channels} channels, {options.threads} threads")  # fmt: skip
    codec.decode(codec.encode(features[0], "1"))  # warm up
    ours = sum(timed_point(codec, features, f"{s:g}", pixels) for s in scales)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print_arithmetic(codec, features[0])
    print(f"peak memory of the process, detector included: {peak:.2f} GiB")
    anchor = make_codec("vvc_feature", condition)
    theirs = sum(
        timed_point(anchor, features, f"{qp:g}", pixels)
        for qp in condition.require("vvc_feature_qps")
    )
    print(f"sum over {len(scales)} rate points of diff_fchm: {ours:.3f} s; over "
          f"{len(codec_rate_points('vvc_feature', condition))} of vvc_feature ({anchor.preset}): "
          f"{theirs:.3f} s; {theirs / ours:.2f} times as long")  # fmt: skip


def timed_point(codec, features: list[FeaturePyramid], rate_point: str, pixels: int) -> float:
    """Median seconds of encode + decode at one rate point."""
    encode, decode, sizes = [], [], []
    for pyramid in features:
        data, seconds = timed(codec.encode, pyramid, rate_point)
        encode.append(seconds)
        decode.append(timed(codec.decode, data)[1])
        sizes.append(8 * len(data) / pixels)
    medians = [statistics.median(values) for values in (encode, decode, sizes)]
    print(f"{codec.name:<12}{rate_point:>6}  encode {medians[0]:7.3f} s  decode {medians[1]:7.3f} s"
          f"  {medians[2]:7.4f} bits per pixel of the network input")  # fmt: skip
    return medians[0] + medians[1]


def print_arithmetic(codec: MachineCodec, features: FeaturePyramid) -> None:
    """kMAC per pixel of encoder and decoder, and their seconds over those of a GEMM."""
    pixels = int(np.prod(features.input_size))
    data, encode_s = timed(codec.encode, features, "1")
    _, decode_s = timed(codec.decode, data)
    for name, counted, seconds in (
        ("encoder", complexity.count(codec.encode, features, "1"), encode_s),
        ("decoder", complexity.count(codec.decode, data), decode_s),
    ):
        macs = {kind: counted.by_operation[product] for product, kind in PRODUCTS.items()}
        floor = sum(n / gemm_rate(kind) for kind, n in macs.items())
        parts = ", ".join(f"{n / pixels / 1e3:.2f} in {kind}" for kind, n in macs.items())
        print(f"{name}: {parts} kMAC per pixel; {seconds:.3f} s, {seconds / floor:.1f} times the "
              f"{floor:.3f} s of these MACs at the GEMM rate")  # fmt: skip


def trained_features(condition, count: int) -> list[FeaturePyramid]:
    dataset = open_test_set(override(condition, {"minictc": "val"}))
    weights = condition.weights_path()
    model = load_split_model(model_path(condition.model), weights, runtime="torchvision")
    return [model.nn_part1(read_picture(p.path)) for p in dataset.pictures[:count]]


def large_features() -> FeaturePyramid:
    """Features of a drawn picture from a randomly initialised R50-FPN, scaled to p2's spread 1."""
    torch.manual_seed(0)
    config = load_config(model_path(LARGE_MODEL))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save({"model": to_detectron2_state_dict(build_rcnn(config))}, path)
        model = load_split_model(config, path, runtime="torchvision")
    picture, _ = minictc.draw_picture(1)
    resized = Image.fromarray(picture).resize(LARGE_SIZE[::-1], Image.Resampling.BICUBIC)
    found = model.nn_part1(np.asarray(resized))
    layers = {name: x / found.layers["p2"].std() for name, x in found.layers.items()}
    return replace(found, layers=layers)


def random_codec(features: FeaturePyramid) -> MachineCodec:
    """The codec of random_vfcn."""
    with tempfile.TemporaryDirectory() as folder:
        return MachineCodec(random_vfcn(features, "0" * 64, Path(folder) / "random.safetensors"))


def random_vfcn(features: FeaturePyramid, detector_sha256: str, path: Path) -> Path:
    """Write VFCN for 256 channels with random weights, latents of about one step at s = 1."""
    torch.manual_seed(0)
    recipe = yaml.safe_load((cfg_folder() / "training/vfcn_R_50_FPN_coco.yaml").read_text())
    sizes = {f.name: recipe[f.name] for f in fields(VfcnConfig) if f.name in recipe}
    model = Vfcn(VfcnConfig(**sizes | {"slices": tuple(sizes["slices"])}))
    layers = [features.layers[name] for name in LAYERS]
    model.mean.copy_(torch.stack([x.mean((1, 2)) for x in layers]))
    model.std.copy_(torch.stack([x.std((1, 2)) for x in layers]))
    low, high = (f(torch.stack([f(x) for x in layers])) for f in (torch.amin, torch.amax))
    model.typical_width.fill_((high - low).item())
    with torch.no_grad():
        ranges = torch.tensor([[low, high]])
        normal = {k: (x[None] - low) / (high - low) for k, x in features.layers.items()}
        spread = model.analysis(normal, ranges).std()
        for layer in (model.g_a.y, model.g_a.detail):
            layer.weight /= spread
    return export(model, detector_sha256, ["1"], {}, path)


def gemm_rate(kind: str) -> float:
    """MACs per second of a matrix product of 1024 in this type."""
    a = torch.randn(1024, 1024).to(getattr(torch, kind))
    return 1024**3 / min(timed(torch.mm, a, a)[1] for _ in range(6))


def timed(function, *arguments):
    began = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - began


if __name__ == "__main__":
    main()
