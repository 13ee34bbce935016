#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Time, arithmetic and memory of diff_fchm: a weights file, or random weights for 256 channels.

    scripts/bench_machine_codec.py --weights FILE.vfcn --input 256 320
    scripts/bench_machine_codec.py --input 800 1199          (R50-FPN size, random weights)

Prints, for every rate point, seconds of encode, latent decoding and synthesis, then MACs per pixel
of the network input, the seconds that those MACs take at the measured GEMM rate, and peak memory.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from vcm_plugin.datasets import read_picture
from vcm_plugin.entropy import IntegerConv
from vcm_plugin.features import SPLIT_POINTS, FeaturePyramid
from vcm_plugin.machine_codec import MachineCodec, export
from vcm_plugin.split import load_split_model
from vcm_plugin.vfcn import Vfcn, VfcnConfig

LARGE = VfcnConfig(
    channels=256,
    width8=128,
    width16=192,
    latents=192,
    slices=(16, 32, 48, 96),
    hyper_width=96,
    hyper_latents=32,
    context_width=96,
)


def main() -> None:
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    codec = MachineCodec(options.weights) if options.weights else random_codec()
    if options.picture:
        detector = load_split_model(options.model, options.detector)
        features = detector.nn_part1(read_picture(options.picture))
    else:
        features = noise(tuple(options.input), codec.config.channels)
    pixels = features.input_size[0] * features.input_size[1]
    counts = count_macs(codec)
    codec.decode(codec.encode(features, "1"))  # warm up
    total = 0.0
    for rate_point in options.rate_points:
        counts.clear()
        data, encode_s = timed(codec.encode, features, rate_point)
        encode_macs = dict(counts)
        counts.clear()
        layer, latents_s = timed(codec.decode_latents, data)
        _, synthesis_s = timed(codec.synthesise, layer)
        total += encode_s + latents_s + synthesis_s
        print(
            f"s {rate_point}: {len(data)} bytes, encode {encode_s:.3f} s, latents {latents_s:.3f} "
            f"s, synthesis {synthesis_s:.3f} s"
        )
    print(f"sum over the rate points: {total:.3f} s, {options.threads} threads")
    for name, macs in (("encoder", encode_macs), ("decoder", counts)):
        floor = sum(n / gemm_rate(kind) for kind, n in macs.items())
        parts = ", ".join(f"{n / pixels / 1e3:.1f} in {kind}" for kind, n in macs.items())
        print(f"{name}: {parts} kMAC per pixel; at the GEMM rate {floor:.3f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print(f"peak memory of the process {peak:.2f} GiB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="VFCN weights; default: random, 256 channels")
    parser.add_argument("--input", type=int, nargs=2, default=(800, 1199), metavar=("H", "W"))
    parser.add_argument("--picture", type=Path, help="its real features in place of noise")
    parser.add_argument("--model", type=Path, help="Detectron2 YAML of the detector of --picture")
    parser.add_argument("--detector", type=Path, help="its checkpoint")
    parser.add_argument("--rate-points", nargs="+", default=["0.5", "1", "2", "4"])
    parser.add_argument("--threads", type=int, default=1)
    return parser


def random_codec() -> MachineCodec:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = export(Vfcn(LARGE), "0" * 64, ["1"], {}, Path(folder) / "random.vfcn")
        return MachineCodec(path)


def noise(input_size: tuple[int, int], channels: int) -> FeaturePyramid:
    generator = torch.Generator().manual_seed(0)
    height, width = (-(-n // 32) * 32 for n in input_size)
    layers = {
        name: torch.randn(channels, height // stride, width // stride, generator=generator)
        for name, stride in SPLIT_POINTS["fpn"].items()
    }
    return FeaturePyramid(layers, input_size, input_size)


def count_macs(codec: MachineCodec) -> dict[str, float]:
    """A dict that the convolutions add their MACs to, by the type that they multiply in."""
    counts: dict[str, float] = {}

    def add(module, inputs, output):
        weight = module.weight
        taps = weight.shape[1:].numel()
        kind = str(weight.dtype).removeprefix("torch.")
        counts[kind] = counts.get(kind, 0.0) + taps * output.numel()

    for network in (codec.model, codec.coder.networks):
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, IntegerConv)):
                module.register_forward_hook(add)
    return counts


def gemm_rate(kind: str) -> float:
    """MACs per second of a matrix product of 1024 in this type."""
    a = torch.randn(1024, 1024).to(getattr(torch, kind))
    _, first = timed(torch.mm, a, a)
    best = min(timed(torch.mm, a, a)[1] for _ in range(5))
    return 1024**3 / min(first, best)


def timed(function, *arguments):
    began = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - began


if __name__ == "__main__":
    main()
