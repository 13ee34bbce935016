# SPDX-License-Identifier: BSD-3-Clause
"""Which measures of decoded pictures are there, and is more of each better?"""

# Measures of decoded pictures (vcm_plugin.metrics.pictures), and whether a higher value is better.
PAIR_METRICS = {
    "psnr": True, "psnr_y": True, "psnr_u": True, "psnr_v": True, "psnr_yuv": True,
    "ssim": True, "ms_ssim": True, "vmaf": True, "vmaf_neg": True, "vif": True, "gmsd": False,
    "haarpsi": True, "lpips": False, "dists": False,
}  # fmt: skip
SET_METRICS = {"kid_detector": False, "fid": False, "kid": False}
