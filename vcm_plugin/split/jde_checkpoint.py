# SPDX-License-Identifier: BSD-3-Clause
"""How the weights of a JDE network are read and written: the authors' .pt, and darknet's .weights.

No code of a file is run. A .pt (or .pth, .safetensors) holds tensors under the names of the
authors' PyTorch code: module_list.N.conv_N.weight, module_list.N.batch_norm_N.running_mean ...;
its classifier of training identities and weights of losses belong to no test and are passed over.
A .weights file is darknet's: five 32-bit integers, then of each convolution in order its biases, or
bias, weight, mean and variance of its normalisation, and its kernel, 32-bit floats, little-endian.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vcm_plugin.errors import InputError
from vcm_plugin.split.checkpoint import Checkpoint, fit_weights, read_checkpoint
from vcm_plugin.split.jde_network import JdeNetwork

HEADER_BYTES = 20
# Entries of the authors' checkpoints that no test needs: classifier, weights of the losses.
_SIZE = re.compile(r"(?<!\d)(\d{3,4})x(\d{3,4})(?!\d)")  # width x height, as the authors name files
_OF_TRAINING = re.compile(r"classifier\.|module_list\.\d+\.yolo_\d+\.|loss_")


def load_jde_weights(network: JdeNetwork, path: str | Path) -> str:
    """Load a checkpoint into a network; returns the sha256 of the file.

    Raises InputError where the file is unreadable, or of a network of other sizes.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() == ".weights":
        return _load_darknet(network, path)
    checkpoint = read_checkpoint(path)
    if not any(name.startswith("module_list.") for name in checkpoint.weights):
        raise InputError(
            f"{checkpoint.name}: expected the weights of a JDE network (module_list.0.conv_0.weight"
            f" ...), found {next(iter(checkpoint.weights))[:60]}; is it another detector's?"
        )
    own = {name: w for name, w in checkpoint.weights.items() if not _OF_TRAINING.match(name)}
    names = {jde_name(name): name for name in _weights_of(network)}
    expected = {jde: network.state_dict()[name] for jde, name in names.items()}
    fitted = fit_weights(expected, Checkpoint(own, checkpoint.sha256, checkpoint.name))
    network.load_state_dict({names[jde]: w for jde, w in fitted.items()}, strict=False)
    return checkpoint.sha256


def require_input_size(path: str | Path, size: tuple[int, ...]) -> None:
    """Raise InputError where a checkpoint is named after another input size than (height, width).

    The weights do not tell: the network takes any size, but anchors and accuracy belong to one.

    >>> require_input_size("jde.1088x608.uncertainty.pt", (608, 1088))
    """
    named = _SIZE.search(Path(path).name)
    if named and (int(named[2]), int(named[1])) != tuple(size):
        raise InputError(
            f"{path}: expected a checkpoint for the input size {size[1]}x{size[0]} (width x "
            f"height) of the model, found one named after {named[0]}; take the one of this size, "
            "or the model file whose input_size and anchors are of that one"
        )


def to_jde_state_dict(network: JdeNetwork) -> dict[str, torch.Tensor]:
    """The weights of a network under the names of the authors' code, rounded to 16 bits."""
    state = network.cpu().state_dict()
    return {jde_name(name): state[name].detach().half() for name in _weights_of(network)}


def jde_name(name: str) -> str:
    """A weight's name in the authors' code.

    >>> jde_name("layers.36.1.running_var"), jde_name("layers.81.bias")
    ('module_list.36.batch_norm_36.running_var', 'module_list.81.conv_81.bias')
    """
    _, number, *place, kind = name.split(".")
    module = "batch_norm" if place == ["1"] else "conv"
    return f"module_list.{number}.{module}_{number}.{kind}"


def _weights_of(network: JdeNetwork) -> list[str]:
    return [name for name in network.state_dict() if "num_batches" not in name]


def _load_darknet(network: JdeNetwork, path: Path) -> str:
    """Fill a network from darknet's file, convolution by convolution."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: checkpoint not readable: {error.strerror}") from error
    targets = [tensor for layer in _in_order(network) for tensor in _darknet_order(layer)]
    expected = HEADER_BYTES + 4 * sum(tensor.numel() for tensor in targets)
    if len(data) != expected:
        raise InputError(
            f"{path}: expected {expected} bytes, the darknet weights of this JDE network, found "
            f"{len(data)}; is it a bare backbone, or one for another cfg file?"
        )
    values, place = np.frombuffer(data, "<f4", offset=HEADER_BYTES), 0
    with torch.no_grad():
        for tensor in targets:
            own = values[place : place + tensor.numel()].reshape(tensor.shape)
            tensor.copy_(torch.from_numpy(own.astype(np.float32)))
            place += tensor.numel()
    return hashlib.sha256(data).hexdigest()


def _in_order(network: JdeNetwork) -> list[nn.Module]:
    return [network.layers[key] for key in sorted(network.layers, key=int)]


def _darknet_order(layer: nn.Module) -> list[torch.Tensor]:
    """The tensors of a convolution in the order of darknet's file."""
    if isinstance(layer, nn.Conv2d):
        return [layer.bias, layer.weight]
    norm = layer[1]
    return [norm.bias, norm.weight, norm.running_mean, norm.running_var, layer[0].weight]
