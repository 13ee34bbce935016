# SPDX-License-Identifier: BSD-3-Clause
"""What do a codec and a detector cost? Arithmetic, parameters, memory; seconds are in the journal.

What is counted is what runs: a call of `encode` or `decode` is traced from its first operation to
its last. Convolutions and matrix products count multiply-accumulates, an elementwise operation one
for each of its outputs; what moves data, compares or rounds counts nothing, as in fvcore itself. An
operation that neither fvcore nor this file knows makes the count unknown: it is reported by its
name and never counted as zero.

A detector cannot be traced (what it computes depends on what it finds), so torch counts the
convolutions and matrix products of NN-Part1 and NN-Part2 as they run, and nothing else of them.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vcm_plugin.ctc.codecs import Codec
from vcm_plugin.ctc.coding import Source, decode, encode
from vcm_plugin.ctc.results import Complexity

if TYPE_CHECKING:
    import numpy as np

    from vcm_plugin.ctc.detector import SplitModel

ELEMENTWISE = (
    "add", "add_", "sub", "rsub", "mul", "mul_", "div", "neg", "exp", "exp2", "log2", "pow",
    "reciprocal", "rsqrt", "sin", "cos", "sigmoid", "silu", "leaky_relu", "addcmul",
)  # fmt: skip
REDUCTIONS = ("avg_pool2d", "mean", "std", "sum")
# fvcore itself passes over views, clamp, floor, ReLU, max and most comparisons.
MOVES_DATA = ("im2col", "pad", "pixel_shuffle", "pixel_unshuffle", "unflatten", "frexp",
              "lift_fresh", "numpy_T", "movedim", "repeat_interleave", "numel", "as_strided",
              "index_select", "repeat", "fill_", "randn", "clone")  # fmt: skip
COMPARES = ("abs", "ne", "lt", "all", "any", "amin", "amax", "aminmax", "round", "floor_",
            "__rshift__")  # fmt: skip
NO_FVCORE = "n/a: pip install fvcore"


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of a call, by operation; unknown: how often those without a count."""

    by_operation: Mapping[str, float]
    unknown: Mapping[str, int]

    @property
    def total(self) -> float:
        """Of all operations; NaN where one of them has no count."""
        return float("nan") if self.unknown else float(sum(self.by_operation.values()))


def measure(codec: Codec, source: Source, rate_point: str, pixels: int) -> Complexity:
    """The cost of a codec on one picture of `pixels` source pixels.

    Its peak memory: of this process up to now, and of the largest encoder process it started.
    """
    data = encode(codec, source, rate_point)
    decode(codec, data)
    memory = _peak_memory()  # before tracing takes its own
    parameters = getattr(codec, "parameters", None)
    return Complexity(
        rate_point,
        _kmac(pixels, encode, codec, source, rate_point) if parameters else None,
        _kmac(pixels, decode, codec, data) if parameters else None,
        parameters,
        memory,
    )


def of_detector(model: SplitModel, picture: np.ndarray, pixels: int) -> tuple[float, float]:
    """kMAC per source pixel of NN-Part1 and of NN-Part2 of an uncompressed picture, uint8 (H, W,
    3); NN-Part2 does the more, the more it finds."""
    features = model.nn_part1(picture)
    first = _products(model.nn_part1, picture) / 1000 / pixels
    return first, _products(model.nn_part2, features) / 1000 / pixels


def count(function: Callable, *arguments: Any) -> Macs:
    """The multiply-accumulates of a call; raises ImportError where fvcore is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # fvcore decorates with torch.jit.script
        from fvcore.nn import FlopCountAnalysis
        from fvcore.nn.jit_handles import elementwise_flop_counter

        call = _Call(function, arguments).eval()
        analysis = FlopCountAnalysis(call, (torch.zeros(()),))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        handles = {name: elementwise_flop_counter(0, 1) for name in ELEMENTWISE}
        handles |= {name: elementwise_flop_counter(1, 0) for name in REDUCTIONS}
        handles |= dict.fromkeys((*MOVES_DATA, *COMPARES)) | {"matmul": _matmul}
        handles["addmm_"] = _addmm_in_place
        for name, handle in handles.items():
            analysis.set_op_handle(f"aten::{name}", handle)
        return Macs(dict(analysis.by_operator()), dict(analysis.unsupported_ops()))


class _Call(nn.Module):
    """A call as the module that fvcore traces; its argument is there because a trace wants one."""

    def __init__(self, function: Callable, arguments: tuple):
        super().__init__()
        self.function, self.arguments = function, arguments

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        with _KeepAll() as mode:
            self.function(*self.arguments)
        return [x, *mode.kept]


class _KeepAll(TorchFunctionMode):
    """Makes a trace keep every operation, also those whose results leave torch for numpy.

    kept: an empty tensor made of each result; without these, the trace drops the operations whose
    results it does not return. Sizes stay the integers that they are without a trace.
    """

    def __init__(self):
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.Tensor.size, torch.Tensor.shape.__get__):
            return torch.Size(map(int, result)) if isinstance(result, torch.Size) else int(result)
        self.kept += [x.new_zeros(0) for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        return result


def _matmul(inputs: list, outputs: list) -> int:
    """Of a product whose factors may be batches; fvcore leaves out the batch of the second."""
    return math.prod(outputs[0].type().sizes()) * inputs[0].type().sizes()[-1]


def _addmm_in_place(inputs: list, outputs: list) -> int:
    """Of a product that is added to what is there, which fvcore does not know."""
    return math.prod(outputs[0].type().sizes()) * inputs[1].type().sizes()[-1]


def _products(function: Callable, *arguments: Any) -> float:
    """Multiply-accumulates of the convolutions and matrix products of a call."""
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops() / 2  # torch counts 2 for a multiply-add


def _kmac(pixels: int, function: Callable, *arguments: Any) -> float | str:
    try:
        macs = count(function, *arguments)
    except ImportError:
        return NO_FVCORE
    if macs.unknown:
        return f"n/a: no count of {', '.join(sorted(macs.unknown))}"
    return macs.total / 1000 / pixels


def _peak_memory() -> int:
    """Bytes of this process and its children at their peaks; of this process alone on Windows."""
    if sys.platform == "win32":
        import psutil  # which accelerate brings

        return psutil.Process().memory_info().peak_wset
    import resource  # not there on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return math.trunc(unit * sum(usage.ru_maxrss for usage in usages))
