# SPDX-License-Identifier: BSD-3-Clause
"""How a picture file is read: as Detectron2 reads it, in RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vcm_plugin.errors import InputError


class PictureError(InputError):
    """A picture that cannot be read: the one bad input that `--keep-going` passes over."""


def read_picture(path: Path) -> np.ndarray:
    """Read a picture as Detectron2's `read_image` does, in RGB: uint8 (H, W, 3).

    EXIF orientation is applied; grey, palette, RGBA and 16-bit pictures become 8-bit RGB as Pillow
    converts them (16-bit samples are cut at 255, in Detectron2 too). Raises PictureError, which
    names the file, where it is unreadable or truncated.
    """
    try:
        with Image.open(path) as image:
            upright = _upright(image)
            return np.ascontiguousarray(np.asarray(upright.convert("RGB")))
    except Exception as error:  # Pillow's decoders raise many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(
            f"{path}: expected a readable picture, found: {reason}; repair or remove the file, "
            "or pass over it with --keep-going"
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says."""
    try:
        image.getexif()
    except Exception:  # broken EXIF data: Detectron2 takes the picture as it is
        return image
    for key in ("exif", "Raw profile type exif"):  # Pillow would write it again, which may fail
        image.info.pop(key, None)
    return ImageOps.exif_transpose(image)
