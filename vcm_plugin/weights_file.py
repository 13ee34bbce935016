# SPDX-License-Identifier: BSD-3-Clause
"""How the weights of a learned codec are kept: one safetensors file with a description in JSON.

Those of the human layer are a folder as diffusers saves a pipeline.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from vcm_plugin.errors import InputError, one_line
from vcm_plugin.files import refuse_other_downloads, sha256_of_file


def read_weights(path: Path, kind: str) -> tuple[bytes, dict[str, torch.Tensor], dict]:
    """Bytes, tensors and description of a weights file; kind: of `vcm-plugin train` (vfcn, msfc,
    fctm_like, picture, transform ...). Raises InputError."""
    name = kind.upper()
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the {name} weights: {error.strerror}") from error
    refuse_other_downloads(data[:512], path, f"{name} weights")
    try:
        with safe_open(path, framework="pt") as file:
            described = file.metadata() or {}
        found = described.get("format", "no description of ours")
        if found != _format(kind):
            raise ValueError(found)
        tensors, about = load(data), json.loads(described[kind])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected {name} weights as scripts/train_{kind}.py exports them; found a "
            f"file of another kind, or a damaged one ({one_line(error)})"
        ) from error
    return data, tensors, about


@contextmanager
def fitting(path: Path, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Around what makes networks of a weights file's tensors and description: raises InputError
    where they do not fit each other, or a weight is not finite."""
    try:
        if not all(x.isfinite().all() for x in tensors.values()):
            raise InputError("a weight is NaN or infinite")
        yield
    except (InputError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: the weights file is damaged: {one_line(error)}; copy it again"
        ) from error


def halved(
    tensors: Mapping[str, torch.Tensor], whole: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """The tensors as 16-bit floats, but for vectors and those named in `whole`."""
    return {
        name: x.half() if x.ndim > 1 and name not in whole else x for name, x in tensors.items()
    }


def write_weights(path: Path, kind: str, tensors: dict[str, torch.Tensor], about: dict) -> Path:
    """Write a weights file; the same tensors and description give the same bytes."""
    tensors = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    described = {"format": _format(kind), kind: json.dumps(about, sort_keys=True)}
    data = save(tensors, described)
    end = 8 + int.from_bytes(data[:8], "little")  # the library orders the description at random
    header = json.dumps(json.loads(data[8:end]), separators=(",", ":"), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
    return path


def digest(path: Path) -> tuple[str, int]:
    """sha256 and bytes of a file, or of all files below a folder with their names."""
    if not path.is_dir():
        return sha256_of_file(path), path.stat().st_size
    whole, size = hashlib.sha256(), 0
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        found, length = digest(file)
        whole.update(f"{file.relative_to(path).as_posix()} {found}\n".encode())
        size += length
    return whole.hexdigest(), size


def _format(kind: str) -> str:
    return f"vcm-plugin {kind} 1"
