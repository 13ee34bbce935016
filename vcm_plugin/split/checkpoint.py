# SPDX-License-Identifier: BSD-3-Clause
"""Which weights a checkpoint file holds, read without running any code that it may carry.

.safetensors, .pth and .pt (torch's weights-only reader) hold tensors; .pkl is Detectron2's pickle
of numpy arrays, for which safe_pickle rebuilds arrays from their bytes and refuses all else. The
weights may stand under "model" or "state_dict", and their names may begin with "module.", as
training on several GPUs leaves them; Detectron2's checkpointer takes these off too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from vcm_plugin.errors import InputError, brief, one_line
from vcm_plugin.files import refuse_other_downloads
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
    """Read a Detectron2 checkpoint: .pth, .pt, .pkl or .safetensors; half precision is widened.

    Raises InputError where the file is unreadable, carries code, or holds no weights.
    """
    path = Path(path).expanduser()
    readers = {
        ".pth": _read_pth, ".pt": _read_pth, ".pkl": read_pickle, ".safetensors": _read_safetensors
    }  # fmt: skip
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise InputError(f"{path}: expected a checkpoint named {', '.join(readers)}")
    try:
        with path.open("rb") as file:
            refuse_other_downloads(file.read(512), path, "a checkpoint")
            file.seek(0)
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            file.seek(0)
            content = readers[suffix](file)
    except OSError as error:
        raise InputError(f"{path}: checkpoint not readable: {error.strerror}") from error
    except InputError:
        raise
    except Exception as error:  # a damaged or hostile file fails in many ways
        raise InputError(
            f"{path}: expected a checkpoint of plain arrays, found {_fault(error)}; "
            "copy it again, or save the state_dict alone, with torch.save or safetensors"
        ) from error
    return Checkpoint(_weights(content, path), digest.hexdigest(), path.name)


def fit_weights(
    expected: Mapping[str, torch.Tensor], checkpoint: Checkpoint
) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint for a model that expects these names and shapes, all of them.

    Raises InputError that names the first tensors that are missing, left over or misshapen, or
    hold what is no number.
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
                f"{_wrapped(expected, found) or 'give the configuration that it was trained with'}"
            )
    unsound = [name for name in expected if not found[name].isfinite().all()]
    if unsound:
        raise InputError(
            f"{checkpoint.name}: the checkpoint is damaged: {unsound[0]} holds NaN or infinite "
            "weights; copy it again"
        )
    return {name: found[name] for name in expected}


def _weights(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, {"model": {...}}, {"state_dict": {...}} or {...}, as float32."""
    if isinstance(content, dict) and ("blobs" in content or content.get("matching_heuristics")):
        raise InputError(
            f"{path}: expected the weights of a detector under Detectron2's names, found a Caffe2 "
            "checkpoint or a bare backbone; load it in Detectron2 and save the model's state_dict"
        )
    model = _unwrapped(content, path)
    weights = {}
    for name, value in model.items():
        tensor = torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"{path}: {brief(name)}: expected a tensor, found {type(value).__name__}"
            )
        if not name.endswith("num_batches_tracked"):
            weights[name] = tensor.to(torch.float32)
    if weights and all(name.startswith("module.") for name in weights):
        return {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


def _unwrapped(content: Any, path: Path) -> dict:
    """The dict of tensors in a checkpoint; raises InputError where it is none of one network."""
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: expected a dict of tensors, found {type(content).__name__}")
    networks = [key for key, value in content.items() if isinstance(value, dict) and value]
    if networks and not any(isinstance(v, (np.ndarray, torch.Tensor)) for v in content.values()):
        raise InputError(
            f"{path}: expected the tensors of one network, found "
            f"{', '.join(str(key)[:30] for key in networks[:4])}; save the one to be tested alone, "
            "as in torch.save(checkpoint[NAME], FILE)"
        )
    return content


def _wrapped(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What to do where the tensors are there, under names that begin with something else."""
    ends = next(iter(expected), "")
    starts = [name.removesuffix(ends) for name in found if name.endswith("." + ends)]
    if len(starts) > 1:
        return f"it holds {' and '.join(starts[:3])}: save the weights of one of them alone"
    if starts:
        return f"their names begin with {starts[0]}: take that off and save them again"
    return ""


def _fault(error: Exception) -> str:
    """What is wrong with a file, without the advice of torch to load it with its code."""
    text = one_line(error)
    asked = re.findall(r"GLOBAL ([\w.]+)", text)
    if asked:
        return f"code beside them: the file asks to run {asked[0]}"
    if re.search(r"weights.only|unsafe|arbitrary code|pickle_module", text, re.IGNORECASE):
        return f"{type(error).__name__}: it is damaged or holds something else"
    return f"{type(error).__name__}: {text.partition('. ')[0]}"


def _read_pth(file: BinaryIO) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _read_safetensors(file: BinaryIO) -> Any:
    try:
        return load_safetensors(file.read())
    except SafetensorError as error:
        raise ValueError(error) from error
