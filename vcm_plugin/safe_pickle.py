# SPDX-License-Identifier: BSD-3-Clause
"""Which arrays does a pickle hold? They are read out of it, and nothing in it is executed."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np


def read_pickle(file: BinaryIO) -> Any:
    """Unpickle numpy arrays and plain containers; Python 2 pickles too, hence latin1."""
    return _materialise(_ArrayUnpickler(file, encoding="latin1").load())


def read_object_array(file: BinaryIO) -> list[np.ndarray]:
    """The arrays of a one-dimensional .npy array of arrays; no code of its pickle is run.

    Raises ValueError or pickle.UnpicklingError where it is something else.
    """
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0
    }.get(version)  # fmt: skip
    if read_header is None:
        raise ValueError(f"a .npy file of version {version}")
    shape, fortran, dtype = read_header(file)
    if not dtype.hasobject:
        count = int(np.prod(shape))
        array = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
        return list(array.reshape(shape, order="F" if fortran else "C"))
    found = _ArrayUnpickler(file, encoding="latin1").load()
    if not isinstance(found, _Stub) or not isinstance(found.state, tuple):
        raise pickle.UnpicklingError(f"expected an array of arrays, found {type(found).__name__}")
    arrays = [_array(item) for item in found.state[4]]
    if len(shape) != 1 or not all(isinstance(array, np.ndarray) for array in arrays):
        raise pickle.UnpicklingError("expected one array for each frame")
    return arrays


class _Stub:
    """Stands for one array or one data type while a pickle is read; nothing of numpy runs."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, None

    def __setstate__(self, state):
        self.state = state


class _ArrayUnpickler(pickle.Unpickler):
    """Builds plain containers and stubs of arrays; any other name in the pickle is refused."""

    def __init__(self, file: BinaryIO, *, encoding: str):
        super().__init__(file, encoding=encoding)

        # New classes for each file: a pickle may set attributes on the classes that it can name.
        class Array(_Stub):
            pass

        class Dtype(_Stub):
            pass

        class Dict(OrderedDict):
            pass

        def encode(text: str, codec: str) -> bytes:
            if codec != "latin1":
                raise pickle.UnpicklingError(f"bytes encoded as {codec}")
            return text.encode("latin1")

        self.allowed = {("numpy", "ndarray"): Array, ("numpy", "dtype"): Dtype}
        for package in ("numpy.core", "numpy._core"):
            self.allowed[(f"{package}.multiarray", "_reconstruct")] = Array
        self.allowed[("collections", "OrderedDict")] = Dict
        self.allowed[("_codecs", "encode")] = encode

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.allowed[(module, name)]
        except KeyError:
            raise pickle.UnpicklingError(f"the file asks to run {module}.{name}") from None


def _materialise(value: Any) -> Any:
    """Turn the stubs of a pickle's two outer levels of dicts into arrays."""
    if not isinstance(value, dict):
        raise pickle.UnpicklingError(f"expected a dict of arrays, found {type(value).__name__}")
    inner = value.get("model")
    if isinstance(inner, dict):
        return {**value, "model": {name: _array(entry) for name, entry in inner.items()}}
    return {name: _array(entry) for name, entry in value.items()}


def _array(value: Any) -> Any:
    """An array from the stub of numpy's pickle: (version, shape, dtype, Fortran order, bytes)."""
    if not isinstance(value, _Stub):
        return value
    _, shape, dtype, fortran, data = value.state
    code, order = dtype.arguments[0], dtype.state[1]
    if code not in ("f2", "f4", "f8", "i1", "u1", "i2", "i4", "i8") or order not in "<>|=":
        raise pickle.UnpicklingError(f"an array of type {order}{code}")
    raw = data.encode("latin1") if isinstance(data, str) else data
    array = np.frombuffer(raw, np.dtype(order + code)).reshape(shape, order="F" if fortran else "C")
    return array.astype(array.dtype.newbyteorder("="))
