# SPDX-License-Identifier: BSD-3-Clause
"""Which weights a checkpoint file holds, read without running any code that it may carry.

.safetensors and .pth (torch's weights-only reader) hold tensors; .pkl is Detectron2's pickle of
numpy arrays, for which a reader below rebuilds arrays from their bytes and refuses all else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from vcm_plugin.errors import InputError
from vcm_plugin.safe_pickle import read_pickle

# Entries of Detectron2 checkpoints that are no weights: they follow from the configuration.
_DERIVED = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.", "anchor_generator.")


@dataclass(frozen=True)
class Checkpoint:
    """Weights under Detectron2's names, float32 on the CPU, and the sha256 of their file."""

    weights: dict[str, torch.Tensor]
    sha256: str
    name: str


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a Detectron2 checkpoint: .pth, .pkl or .safetensors; half precision is widened.

    Raises InputError where the file is unreadable, carries code, or holds no weights.
    """
    path = Path(path).expanduser()
    readers = {".pth": _read_pth, ".pkl": read_pickle, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise InputError(f"{path}: expected a checkpoint named {', '.join(readers)}")
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            file.seek(0)
            content = readers[path.suffix](file)
    except OSError as error:
        raise InputError(f"{path}: checkpoint not readable: {error.strerror}") from error
    except Exception as error:  # a damaged or hostile file fails in many ways
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{path}: expected a checkpoint of plain arrays, found {type(error).__name__}: "
            f"{reason}; save the state_dict alone, with torch.save or safetensors"
        ) from error
    return Checkpoint(_weights(content, path), digest.hexdigest(), path.name)


def fit_weights(
    expected: Mapping[str, torch.Tensor], checkpoint: Checkpoint
) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint for a model that expects these names and shapes, all of them.

    Raises InputError that names the first tensors that are missing, left over or misshapen.
    """
    found = {k: v for k, v in checkpoint.weights.items() if not k.startswith(_DERIVED)}
    wrong = [
        f"{name} is {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    for what, names in (("misshapen", wrong), ("missing", missing), ("unexpected", unexpected)):
        if names:
            listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise InputError(
                f"{checkpoint.name}: the checkpoint does not fit the detector's configuration: "
                f"{len(names)} tensors are {what}: {listed}; "
                "give the configuration that it was trained with"
            )
    return {name: found[name] for name in expected}


def _weights(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, {"model": {...}} or {...}, as float32."""
    if isinstance(content, dict) and ("blobs" in content or content.get("matching_heuristics")):
        raise InputError(
            f"{path}: expected the weights of a detector under Detectron2's names, found a Caffe2 "
            "checkpoint or a bare backbone; load it in Detectron2 and save the model's state_dict"
        )
    model = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(model, dict) or not model:
        raise InputError(f"{path}: expected a dict of tensors, found {type(model).__name__}")
    weights = {}
    for name, value in model.items():
        tensor = torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise InputError(f"{path}: {name}: expected a tensor, found {type(value).__name__}")
        if not name.endswith("num_batches_tracked"):
            weights[name] = tensor.to(torch.float32)
    return weights


def _read_pth(file: BinaryIO) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _read_safetensors(file: BinaryIO) -> Any:
    try:
        return load_safetensors(file.read())
    except SafetensorError as error:
        raise ValueError(error) from error
