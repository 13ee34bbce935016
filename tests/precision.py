# SPDX-License-Identifier: BSD-3-Clause
"""All that makes float32 products less precise, switched on: what exact networks must not mind."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def less_precise() -> Iterator[None]:
    """Every switch of torch that makes float32 products faster and less precise."""
    conv, matmul = torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul
    before = torch.get_float32_matmul_precision(), conv.fp32_precision, matmul.fp32_precision
    try:
        torch.set_float32_matmul_precision("medium")
        conv.fp32_precision = matmul.fp32_precision = "bf16"
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        conv.fp32_precision, matmul.fp32_precision = before[1:]
