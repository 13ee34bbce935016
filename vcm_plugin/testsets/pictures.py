# SPDX-License-Identifier: BSD-3-Clause
"""How a picture file is read: as Detectron2 reads it, in RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vcm_plugin.errors import InputError, one_line

_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # orientations that swap the sides


class PictureError(InputError):
    """A picture that cannot be read: the one bad input that `--keep-going` passes over."""


def read_picture(path: Path) -> np.ndarray:
    """Read a picture as Detectron2's `read_image` does, in RGB: uint8 (H, W, 3).

    EXIF orientation is applied; grey, palette, RGBA and 16-bit pictures become 8-bit RGB as Pillow
    converts them (16-bit samples are cut at 255, in Detectron2 too). Raises PictureError, which
    names the file, where it is unreadable or truncated, and InputError where there is none.
    """
    try:
        with Image.open(path) as image:
            upright = _upright(image)
            return np.ascontiguousarray(np.asarray(upright.convert("RGB")))
    except Exception as error:  # Pillow's decoders raise many kinds
        raise _unreadable(path, error) from error


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture by the header of its file. Raises PictureError.

    An orientation that stands behind the pixels, as in some PNG files, is not seen.
    """
    try:
        with Image.open(path) as image:
            behind = image.format == "PNG" and "exif" not in image.info
            turned = not behind and _orientation(image) in _TURNED
            return image.size if turned else image.size[::-1]
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    """PictureError; a file that is not there is no PictureError: test sets are opened only where
    all pictures are, so it is a worker of a cluster that does not see them."""
    reason = getattr(error, "strerror", None) or one_line(error)  # without the path once more
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: expected a picture, found: {reason}; give the right path")
    return PictureError(
        f"{path}: expected a readable picture, found: {reason}; repair or remove the file"
    )


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says."""
    try:
        image.getexif()
    except Exception:  # broken EXIF data: Detectron2 takes the picture as it is
        return image
    for key in ("exif", "Raw profile type exif"):  # Pillow would write it again, which may fail
        image.info.pop(key, None)
    return ImageOps.exif_transpose(image)


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # broken EXIF data: Detectron2 takes the picture as it is
        return None
