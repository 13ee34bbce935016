# SPDX-License-Identifier: BSD-3-Clause
"""In which precision does a training run fastest on this machine?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from vcm_plugin.training.schedules import Schedule

AnySchedule = TypeVar("AnySchedule", bound=Schedule)
# Instructions for products of bfloat16, by torch's names. A CPU without them computes bfloat16 by
# way of float32: 4 iterations of VFCN take 104 s of an AVX2 CPU, and 38 s in float32.
BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "sve_bf16")
BF16_CAPABILITY = (8, 0)  # of a GPU; torch's own test counts emulation, too


def settled(
    schedule: AnySchedule, report: Callable[[str], None] = lambda line: None
) -> AnySchedule:
    """The schedule with the precision of this machine for "auto", which is reported."""
    if schedule.mixed_precision != "auto":
        return schedule
    precision, reason = of_this_machine()
    report(f"mixed precision: {precision}, {reason}")
    return replace(schedule, mixed_precision=precision)


def of_this_machine() -> tuple[str, str]:
    """-> accelerate's name of a precision, and why it is chosen."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if torch.cuda.get_device_capability() >= BF16_CAPABILITY:
            return "bf16", f"which {name} computes in"
        return "no", f"float32: {name} has no bfloat16"
    if not hasattr(torch.cpu, "get_capabilities"):
        return "no", f"float32: torch {torch.__version__} does not tell what this CPU has"
    capabilities = torch.cpu.get_capabilities()
    found = [name for name in BF16_INSTRUCTIONS if capabilities.get(name)]
    if found:
        return "bf16", f"this CPU has {found[0]}"
    return "no", "float32: this CPU has no instructions for bfloat16, and no GPU is here"
