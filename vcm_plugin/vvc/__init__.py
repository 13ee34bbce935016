# SPDX-License-Identifier: BSD-3-Clause
"""VVC: encoders and decoders, what lies in a stream, and the planes of a picture.

VVenC and Vtm both have encode(planes, qp) -> bytes, decode(bytes) -> planes and
identity(luma_only); encode_batch and decode_batch do the same for some pictures of one size that
are independent of each other, encode_frames and decode_frames for the pictures of a sequence, one
after the other. VTM's executables are the user's (vtm_setup.py). Planes are uint16 arrays of 10-bit
samples: (luma,) is coded as 4:0:0, (luma, cb, cr) as 4:2:0. QP is the QP of the (only, intra)
slice. `coded_size` says which sizes can be coded.
"""

from vcm_plugin.vvc.frames import counted, intra_period
from vcm_plugin.vvc.planes import Planes, check_planes, coded_size
from vcm_plugin.vvc.vtm import Vtm
from vcm_plugin.vvc.vvenc import PRESETS, VVenC, vvenc_versions

__all__ = [
    "PRESETS",
    "Planes",
    "VVenC",
    "Vtm",
    "check_planes",
    "coded_size",
    "counted",
    "intra_period",
    "vvenc_versions",
]
