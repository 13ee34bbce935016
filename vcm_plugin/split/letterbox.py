# SPDX-License-Identifier: BSD-3-Clause
"""How a picture gets into a network input of fixed size, and how boxes get back out of it.

The picture is scaled by one factor to fit, by area, and stands in the middle of a grey ground; of
an odd margin, the larger half is below or on the right. So JDE's code does it, with OpenCV.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

Size = tuple[int, int]


def letterbox(picture: np.ndarray, size: Size, fill: float) -> np.ndarray:
    """A picture, uint8 (H, W, 3), in a ground of `size` (height, width): float32, 0..255.

    fill: value of the ground.
    """
    height, width, top, left = placed(picture.shape[:2], size)
    # The ground is made in OpenCV's 8 bits there, in which 127.5 is 128.
    canvas = np.full((*size, 3), np.rint(fill), np.float32)
    canvas[top : top + height, left : left + width] = resize_by_area(picture, (height, width))
    return canvas


def placed(source: Size, size: Size) -> tuple[int, int, int, int]:
    """(height, width, top, left) of a picture of `source` in a ground of `size`.

    >>> placed((1080, 1920), (608, 1088))
    (608, 1081, 0, 3)
    """
    ratio = min(size[0] / source[0], size[1] / source[1])
    height, width = (max(1, round(n * ratio)) for n in source)
    return height, width, round((size[0] - height) / 2 - 0.1), round((size[1] - width) / 2 - 0.1)


def to_source(boxes: np.ndarray, source: Size, size: Size) -> np.ndarray:
    """Boxes (n, 4), x0 y0 x1 y1 in the ground -> in the picture; negative coordinates become 0.

    As JDE's code does it, margins are not rounded here.
    """
    gain = min(size[0] / source[0], size[1] / source[1])
    margins = [(n - m * gain) / 2 for n, m in zip(size[::-1], source[::-1])]
    return np.maximum((boxes - np.float32(margins * 2)) / np.float32(gain), 0.0)


def resize_by_area(picture: np.ndarray, size: Size) -> np.ndarray:
    """Scale uint8 (H, W, 3) to `size`, each sample the mean of what it covers, rounded.

    A direction that grows is interpolated as OpenCV's INTER_AREA does: samples keep their value as
    far as they reach, and mix where two meet.
    """
    if picture.shape[:2] == size:
        return picture
    rows, columns = (_weights(n, m) for n, m in zip(picture.shape[:2], size))
    found = rows @ picture.reshape(picture.shape[0], -1).astype(np.float32)
    found = found.reshape(size[0], picture.shape[1], 3).transpose(1, 0, 2)
    found = columns @ np.ascontiguousarray(found).reshape(picture.shape[1], -1)
    found = found.reshape(size[1], size[0], 3).transpose(1, 0, 2)
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


def _weights(inputs: int, outputs: int) -> csr_array:
    """(outputs, inputs): the share of each input sample in each output sample."""
    edges = np.arange(outputs + 1) * (inputs / outputs)
    first, last = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:] - 1e-9).astype(int)
    rows, columns, shares = [], [], []
    for row, (begin, end) in enumerate(zip(first, last)):
        for column in range(begin, min(end, inputs)):
            rows.append(row)
            columns.append(column)
            shares.append(min(edges[row + 1], column + 1) - max(edges[row], column))
    weights = csr_array((shares, (rows, columns)), shape=(outputs, inputs), dtype=np.float32)
    return csr_array(weights / weights.sum(axis=1)[:, None])
