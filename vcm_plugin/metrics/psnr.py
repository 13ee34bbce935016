# SPDX-License-Identifier: BSD-3-Clause
"""How large is the error of a picture, in dB?"""

import math

import numpy as np

from vcm_plugin.errors import InputError


def psnr(reference: np.ndarray, test: np.ndarray, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB over all samples; infinite for equal pictures."""
    if reference.shape != test.shape or reference.size == 0:
        raise InputError(
            f"PSNR needs two pictures of one shape, found {reference.shape} and {test.shape}"
        )
    mse = float(np.mean((reference.astype(np.float64) - test.astype(np.float64)) ** 2))
    return math.inf if mse == 0 else 10 * math.log10(peak**2 / mse)
