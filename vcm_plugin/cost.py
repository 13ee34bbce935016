# SPDX-License-Identifier: BSD-3-Clause
"""What does a codec cost? Arithmetic, parameters and peak memory; seconds are in the journal."""

from __future__ import annotations

import math
import resource
import sys
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from vcm_plugin.codecs import Codec


def measure(codec: Codec, arguments: tuple, rate_point: str, pixels: int) -> dict[str, Any]:
    """The cost of a codec on one picture of `pixels` source pixels; arguments: those of `encode`.

    encode_kmac, decode_kmac: thousand multiply-accumulates of convolutions and matrix products
    per source pixel, counted by torch as they run (integer networks too); None where all work is
    done outside torch. parameters: None for a codec without weights. peak_memory_bytes: of this
    process up to now, and of the largest encoder process that it started.
    """
    with FlopCounterMode(display=False) as encoding:
        data = codec.encode(*arguments)
    with FlopCounterMode(display=False) as decoding:
        codec.decode(data)
    parameters = getattr(codec, "parameters", None)
    return {
        "rate_point": rate_point,
        "encode_kmac": _kmac(encoding, pixels) if parameters else None,
        "decode_kmac": _kmac(decoding, pixels) if parameters else None,
        "parameters": parameters,
        "peak_memory_bytes": _peak_memory(),
    }


def _kmac(counter: FlopCounterMode, pixels: int) -> float:
    return counter.get_total_flops() / 2 / 1000 / pixels  # torch counts 2 for a multiply-add


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return math.trunc(unit * sum(usage.ru_maxrss for usage in usages))
