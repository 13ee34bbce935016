# SPDX-License-Identifier: BSD-3-Clause
"""What do codecs share that reduce p2..p5 to a few channels, which VVC codes? (msfc, fctm_like)"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchors.packing import MAX_SAMPLE
from vcm_plugin import bitstream
from vcm_plugin.errors import InputError
from vcm_plugin.split_points import SPLIT_POINTS

if TYPE_CHECKING:
    import torch

    from vcm_plugin.features import FeaturePyramid

LAYERS = tuple(SPLIT_POINTS["fpn"])


def fpn_grid(
    features: FeaturePyramid, codec: str, weights: str, channels: int
) -> tuple[int, int] | None:
    """The grid for the header of a file. Raises InputError for features that networks of p2..p5
    with so many channels cannot take; weights: what their file is called."""
    if features.split_point != "fpn":
        raise InputError(
            f"{codec} codes the split point fpn, found {features.split_point}; set "
            "split_point: fpn, or use the codec vvc_feature"
        )
    shapes = {name: tuple(x.shape) for name, x in features.require_finite().layers.items()}
    grid, found = bitstream.compact_shapes(shapes, features.input_size)
    if found != (channels,):
        raise InputError(
            f"these {weights} weights are for {channels} channels, found "
            f"{' '.join(map(str, found))}; use the weights trained for this detector"
        )
    return grid


def relative_step(qps: torch.Tensor) -> torch.Tensor:
    """Step of VVC's quantiser in shares of the range of 10-bit samples.

    >>> import torch
    >>> relative_step(torch.tensor([22.0, 34.0])).mul(MAX_SAMPLE).tolist()
    [32.0, 128.0]
    """
    return 4.0 * ((qps - 4.0) / 6.0).exp2() / MAX_SAMPLE  # QP 4: a step of 1 in 8 bits


def standardised(
    layers: Mapping[str, torch.Tensor], mean: torch.Tensor, std: torch.Tensor
) -> dict[str, torch.Tensor]:
    """p2..p5 (N, C, h, w) -> their Z-scores; mean, std (4, C): of each channel."""
    return {name: (layers[name] - m) / s for name, m, s in _by_layer(mean, std)}


def unstandardised(
    scores: Mapping[str, torch.Tensor], mean: torch.Tensor, std: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What `standardised` made of p2..p5 -> p2..p5."""
    return {name: scores[name] * s + m for name, m, s in _by_layer(mean, std)}


def export(
    kind: str,
    model: Any,
    detector_sha256: str,
    trained: dict,
    path: Path,
    whole: Collection[str] = (),
) -> Path:
    """Write the weights file of a trained model: its kernels as 16-bit floats, vectors and those
    named in `whole` as they are."""
    from vcm_plugin.weights_file import halved, write_weights

    about = {
        "config": asdict(model.config),
        "detector_sha256": detector_sha256,
        "trained": trained,
    }
    return write_weights(path, kind, halved(model.state_dict(), whole), about)


def _by_layer(mean: torch.Tensor, std: torch.Tensor) -> Iterator[tuple]:
    rows = ([row.view(1, -1, 1, 1) for row in statistics] for statistics in (mean, std))
    return zip(LAYERS, *rows, strict=True)
