# SPDX-License-Identifier: BSD-3-Clause
"""What exact networks must not mind: threads, kernels, and less precise float32 products."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def threads_and_kernels() -> Iterator[None]:
    """In each turn of this loop torch has another number of threads or other kernels."""
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            for mkldnn in (True, False):
                torch.set_num_threads(count)
                with torch.backends.mkldnn.flags(enabled=mkldnn):
                    yield
    finally:
        torch.set_num_threads(threads)


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
