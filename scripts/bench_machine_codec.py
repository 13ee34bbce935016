#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Time, arithmetic and memory of diff_fchm beside vvc_feature, in one run with the same threads.

    scripts/bench_machine_codec.py           the bundled VFCN on pictures of the mini-CTC val split
    scripts/bench_machine_codec.py --large   256 channels, R50-FPN features of an 800 x 1200 picture

--large takes random weights, of the detector and of VFCN (sizes of vfcn_R_50_FPN_coco.yaml): they
do for timing, and their bits, printed beside, are those of no trained model.

Seconds are those of the processor, of this process and of those it starts, so that other work on
the machine counts little; with one thread they are wall time on a machine at rest. Printed are
medians over the pictures: encode and decode at every rate point; the shares of entropy coder,
exact networks and float networks; the seconds over those that the multiply-accumulates take at the
measured GEMM rate; and how many times as long vvc_feature takes, picture by picture and in the
sweep over all rate points with one analysis, with and without the start of the VVC processes.
"""

import argparse
import functools
import resource
import statistics
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import yaml
from PIL import Image

from vcm_plugin.conditions import model_path
from vcm_plugin.ctc import complexity
from vcm_plugin.ctc.codecs import codec_rate_points, load_condition, make_codec, override
from vcm_plugin.diff_fchm.machine.codec import MachineCodec, export
from vcm_plugin.diff_fchm.machine.config import LEVELS, VfcnConfig
from vcm_plugin.diff_fchm.machine.folded import FoldedVfcn
from vcm_plugin.diff_fchm.machine.vfcn import Vfcn
from vcm_plugin.entropy import rans
from vcm_plugin.entropy.contexts import IntegerContexts, Sums
from vcm_plugin.entropy.networks import EntropyNetworks
from vcm_plugin.environment import cfg_folder, describe_device, make_deterministic
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split import load_split_model
from vcm_plugin.split.config import load_config
from vcm_plugin.split.torchvision import build_rcnn, to_detectron2_state_dict
from vcm_plugin.testsets import minictc
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.testsets.pictures import read_picture

LARGE_SIZE, LARGE_MODEL = (800, 1200), "faster_rcnn_R_50_FPN_3x"
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
        codec, scales = random_codec(features[0]), [f"{s:g}" for s in LARGE_SCALES]
    else:
        features = trained_features(condition, options.pictures)
        codec = make_codec("diff_fchm", condition)
        scales = codec_rate_points("diff_fchm", condition)
    print(f"{describe_device('cpu')}, {options.threads} threads, {len(features)} pictures, network "
          f"input {features[0].input_size}, {codec.config.channels} channels")  # fmt: skip
    rans.PATIENCE = 0  # compile now, not after some pictures
    for _ in range(2):
        codec.decode(codec.encode(features[0], "1"))
    ours = sum(timed_point(codec, features, s) for s in scales)
    swept = statistics.median(
        timed(lambda given=x: list(codec.encode_sweep(given, scales)))[1] for x in features
    ) + sum(timed_decode(codec, features, s) for s in scales)
    print_parts(codec, features)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print_floor(codec, features)
    print(f"peak memory of the process, detector included: {peak:.2f} GiB")
    anchor = make_codec("vvc_feature", condition)
    qps = codec_rate_points("vvc_feature", condition)
    theirs = sum(timed_point(anchor, features, qp) for qp in qps)
    print_ratios(anchor, theirs / len(qps), ours / len(scales), swept / len(scales))


def timed_point(codec, features: list[FeaturePyramid], rate_point: str) -> float:
    """Median seconds of encode + decode at one rate point."""
    pixels = int(np.prod(features[0].input_size))
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


def timed_decode(codec, features: list[FeaturePyramid], rate_point: str) -> float:
    """Median seconds of decode at one rate point."""
    files = [codec.encode(pyramid, rate_point) for pyramid in features]
    return statistics.median(timed(codec.decode, data)[1] for data in files)


def print_parts(codec: MachineCodec, features: list[FeaturePyramid]) -> None:
    """Shares of the parts in encode and decode at s = 1."""
    parts = {
        "entropy coder": [(rans.Encoder, "add"), (rans.Encoder, "finish"), (rans.Decoder, "take")],
        "exact networks": [
            (EntropyNetworks, "of_z"), (EntropyNetworks, "psi"),
            (IntegerContexts, "begin"), (Sums, "of"), (Sums, "know"),
        ],
        "float networks": [
            (FoldedVfcn, "analysis"), (codec.networks.h_a, "forward"), (FoldedVfcn, "synthesis"),
        ],
    }  # fmt: skip
    calls = {"encode": lambda x: codec.encode(x, "1"), "decode": codec.decode}
    total, seconds = 0.0, dict.fromkeys(parts, 0.0)
    for name, call in calls.items():
        rows = []
        for pyramid in features:
            given = pyramid if name == "encode" else codec.encode(pyramid, "1")
            with ExitStack() as stack:
                spent = {part: stack.enter_context(timing(where)) for part, where in parts.items()}
                whole = timed(call, given)[1]
            rows.append([whole, *(sum(x) for x in spent.values())])
        medians = dict(zip(("whole", *parts), map(statistics.median, zip(*rows))))
        shown = ", ".join(f"{part} {medians[part]:.4f} s" for part in parts)
        print(f"{name} {medians['whole']:.3f} s, of it {shown}")
        total += medians["whole"]
        seconds = {part: seconds[part] + medians[part] for part in parts}
    shares = ", ".join(f"{part} {100 * x / total:.1f} %" for part, x in seconds.items())
    print(f"encode + decode: {shares}, rest {100 * (1 - sum(seconds.values()) / total):.1f} %")


def print_floor(codec: MachineCodec, features: list[FeaturePyramid]) -> None:
    """kMAC per pixel of encoder and decoder, and their seconds over those of a GEMM."""
    data = codec.encode(features[0], "1")
    layer = codec.decode_latents(data)
    octaves = codec.octaves(layer.payload.value_range)
    grid = layer.latents.y.shape[1:]
    # the contexts take mm in float32 (where it is exact), all other exact products are addmm
    counted = complexity.count(codec.coder.decode, layer.payload.data, grid, octaves)
    double = counted.by_operation["addmm"]
    pixels = int(np.prod(features[0].input_size))
    rates = {kind: gemm_rate(kind) for kind in ("float32", "float64")}
    for name, call, arguments in (
        ("encoder", codec.encode, (features[0], "1")),
        ("decoder", codec.decode, (data,)),
    ):
        seconds = statistics.median(timed(call, *arguments)[1] for _ in features)
        macs = {"float32": products(call, *arguments) - double, "float64": double}
        floor = sum(n / rates[kind] for kind, n in macs.items())
        parts = ", ".join(
            f"{n / pixels / 1e3:.2f} kMAC per pixel in {kind} ({rates[kind] / 1e9:.1f} GMAC/s)"
            for kind, n in macs.items()
        )
        print(f"{name}: {parts}; {seconds:.3f} s, {seconds / floor:.2f} times the {floor:.3f} s of "
              "these at the GEMM rate")  # fmt: skip


def print_ratios(anchor, theirs: float, ours: float, swept: float) -> None:
    """Seconds of a rate point over those of the anchor."""
    planes = [np.zeros((32, 32), np.uint16)]
    start = statistics.median(
        timed(lambda: anchor.encoder.decode(anchor.encoder.encode(planes, 32)))[1] for _ in range(3)
    )
    print(f"encode + decode of a rate point, mean over the rate points: diff_fchm {ours:.3f} s, in "
          f"a sweep {swept:.3f} s; vvc_feature ({anchor.preset}) {theirs:.3f} s, of which a "
          f"picture of 32 x 32 takes {start:.3f} s, too")  # fmt: skip
    for name, seconds in (("with", theirs), ("without", theirs - start)):
        print(f"vvc_feature {name} the start of its processes: {seconds / ours:.2f} times as long "
              f"picture by picture, {seconds / swept:.2f} in the sweep")  # fmt: skip


def products(function, *arguments) -> float:
    """Multiply-accumulates of the convolutions and matrix products of a call."""
    counted = complexity.count(function, *arguments).by_operation
    return sum(counted.get(name, 0.0) for name in ("conv", "addmm", "mm", "matmul"))


@contextmanager
def timing(functions: list[tuple[object, str]]):
    """Replace functions by ones that note their seconds, in the list that is yielded."""
    seconds: list[float] = []

    def noting(function):
        @functools.wraps(function)
        def noted(*arguments, **named):
            found, spent = timed(function, *arguments, **named)
            seconds.append(spent)
            return found

        return noted

    with ExitStack() as stack:
        for owner, name in functions:
            function = noting(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, function))
        yield seconds


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
    layers = [features.layers[name] for name in LEVELS]
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


def timed(function, *arguments, **named):
    """The result of a call, and its seconds of processor, in this process and those it started."""
    began = _seconds()
    result = function(*arguments, **named)
    return result, _seconds() - began


def _seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
