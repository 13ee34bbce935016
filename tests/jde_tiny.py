# SPDX-License-Identifier: BSD-3-Clause
"""A narrow JDE network with random weights, its checkpoint, its cfg file, and moving frames."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import yaml

from vcm_plugin.environment import cfg_folder
from vcm_plugin.split.jde_checkpoint import to_jde_state_dict
from vcm_plugin.split.jde_config import JdeConfig, load_jde_config
from vcm_plugin.split.jde_network import BLOCKS, BRANCHES, JdeNetwork, by_anchor
from vcm_plugin.split.letterbox import letterbox

FULL = load_jde_config(cfg_folder() / "models" / "jde_1088x608.yaml")
# JDE's own input, anchors and tracker, so that the harness takes it; anything but its width.
NARROW = replace(FULL, stem=4, stages=(4, 8, 16, 24, 32), embedding=16)
SMALL = replace(NARROW, input_size=(96, 160))


def moving_frames(count: int, size=(180, 320), seed=0) -> list[np.ndarray]:
    """Frames with bright blocks that move, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 80, (*size, 3))
    places, speeds = rng.uniform(0, 1, (6, 2)) * size, rng.uniform(-4, 4, (6, 2))
    extents, colours = rng.integers(20, 60, (6, 2)), rng.integers(80, 256, (6, 3))
    frames = []
    for number in range(count):
        frame = ground.copy()
        for place, speed, extent, colour in zip(places, speeds, extents, colours):
            top, left = (np.abs(place + number * speed) % (np.array(size) - 20)).astype(int)
            frame[top : top + extent[0], left : left + extent[1]] = colour
        frames.append(frame.astype(np.uint8))
    return frames


def random_network(config: JdeConfig, frames: list[np.ndarray], boxes: int = 30) -> JdeNetwork:
    """Random weights, statistics of these frames, and biases that leave some confident boxes."""
    torch.manual_seed(0)
    network = JdeNetwork(config.sizes()).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all that is seen
    x = np.stack([letterbox(f, tuple(config.input_size), config.pixel_fill) for f in frames[:2]])
    x = torch.from_numpy(x).permute(0, 3, 1, 2) / 255.0
    with torch.no_grad():
        network(x)
        network.eval()
        for start, (out, _) in zip(BRANCHES, network(x[:1])):
            bias = network.layers[str(start + 6)].bias
            margin = by_anchor(out)[..., 5] - by_anchor(out)[..., 4]  # of confidence 0.5
            bias[4::6] += margin.flatten().topk(boxes).values[-1]
    return network


def write_checkpoint(network: JdeNetwork, path: Path) -> Path:
    torch.save({"model": to_jde_state_dict(network)}, path)
    return path


def write_model(config: JdeConfig, path: Path) -> Path:
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    path.write_text(yaml.safe_dump(values))
    return path


def write_darknet(network: JdeNetwork, path: Path) -> Path:
    """darknet's file of weights, written convolution by convolution."""
    parts = [np.array([0, 2, 0, 0, 0], "<i4").tobytes()]
    for key in sorted(network.layers, key=int):
        layer = network.layers[key]
        conv = layer if isinstance(layer, torch.nn.Conv2d) else layer[0]
        first = [conv.bias] if conv is layer else [
            layer[1].bias, layer[1].weight, layer[1].running_mean, layer[1].running_var
        ]  # fmt: skip
        parts += [x.detach().numpy().astype("<f4").tobytes() for x in (*first, conv.weight)]
    path.write_bytes(b"".join(parts))
    return path


def write_cfg(config: JdeConfig, path: Path) -> Path:
    """The network as a cfg file of darknet, which the authors' code is built from."""
    height, width = config.input_size
    blocks = [
        f"[net]\nwidth={width}\nheight={height}\nembedding_dim={config.embedding}\nchannels=3\n"
    ]

    def conv(filters, size, stride=1, normalised=True):
        norm, act = ("batch_normalize=1\n", "leaky") if normalised else ("", "linear")
        blocks.append(
            f"[convolutional]\n{norm}filters={filters}\nsize={size}\nstride={stride}\npad=1\n"
            f"activation={act}\n"
        )

    conv(config.stem, 3)
    for channels, count in zip(config.stages, BLOCKS):
        conv(channels, 3, 2)
        for _ in range(count):
            conv(channels // 2, 1)
            conv(channels, 3)
            blocks.append("[shortcut]\nfrom=-3\nactivation=linear\n")
    anchors = ",".join(map(str, config.anchors))
    for level, beside in ((2, None), (1, 61), (0, 36)):
        channels = config.stages[2 + level]
        if beside:
            blocks.append("[route]\nlayers = -7\n")
            conv(channels // 2, 1)
            blocks += ["[upsample]\nstride=2\n", f"[route]\nlayers = -1, {beside}\n"]
        for _ in range(3):
            conv(channels // 2, 1)
            conv(channels, 3)
        conv(24, 1, normalised=False)
        blocks.append("[route]\nlayers = -3\n")
        conv(config.embedding, 3, normalised=False)
        blocks.append("[route]\nlayers = -3, -1\n")
        mask = ",".join(str(4 * level + n) for n in range(4))
        blocks.append(f"[yolo]\nmask = {mask}\nanchors = {anchors}\nclasses=1\nnum=12\n")
    path.write_text("\n".join(blocks))
    return path
