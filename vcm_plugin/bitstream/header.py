# SPDX-License-Identifier: BSD-3-Clause
"""What the sequence header of an .fcm file says, and its bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vcm_plugin.bitstream.bits import read_elements, write_elements
from vcm_plugin.bitstream.syntax import (
    MAGIC,
    MAX_INPUT_PIXELS,
    MAX_SAMPLES,
    NO_SPLIT,
    PACKED,
    PICTURES,
    PROFILES,
    SEQUENCE_HEADER,
    SPLIT_CODES,
    VERSION,
    code_of,
)
from vcm_plugin.errors import BitstreamError
from vcm_plugin.split_points import SPLIT_POINTS, derived_grid


@dataclass(frozen=True)
class Timing:
    """How many frames a file has, and frames per second as (numerator, denominator).

    >>> Timing(97, (50, 1))
    Timing(frames=97, frame_rate=(50, 1))
    """

    frames: int
    frame_rate: tuple[int, int]


@dataclass(frozen=True)
class Header:
    """The sequence header of an .fcm file.

    grid: (height, width) of the first layer; None where it follows from input_size.
    channels: none (they follow from weights_id), one for all layers, or one per layer.
    frame_rate: frames per second as (numerator, denominator); None for a single picture.
    value_range: values of the samples 0 and 1023 (profiles vvc_feature, msfc and fctm_like);
    exact_range stores them as 32-bit floats. They must be such floats before they are used: see
    round_float.
    """

    profile: str
    split_point: str
    source_size: tuple[int, int]
    input_size: tuple[int, int]
    grid: tuple[int, int] | None = None
    channels: tuple[int, ...] = ()
    frames: int = 1
    frame_rate: tuple[int, int] | None = None
    weights_id: int | None = None
    detector_id: int | None = None
    value_range: tuple[float, float] | None = None
    exact_range: bool = False

    def __post_init__(self):
        splits = SPLIT_CODES.values()
        if self.profile not in PROFILES.values() or self.split_point not in splits:
            raise BitstreamError(
                f"expected one of the profiles {', '.join(PROFILES.values())} and of the split "
                f"points {', '.join(splits)}; found {self.profile!r} and {self.split_point!r}"
            )
        if self.profile in PICTURES or self.split_point == NO_SPLIT:
            self._check_picture()
            return
        weighted = self.profile != "vvc_feature"
        counts = (0, 1, len(self.strides)) if weighted else (1, len(self.strides))
        if len(self.channels) not in counts:
            raise BitstreamError(
                f"profile {self.profile}, split point {self.split_point}: expected "
                f"{' or '.join(map(str, counts))} channel counts, found {len(self.channels)}"
            )
        packed = code_of(PROFILES, self.profile) in PACKED
        if weighted and self.weights_id is None:
            raise BitstreamError(f"profile {self.profile} needs a weights id in the header")
        if (self.value_range is not None) != packed:
            needed = "a value range" if packed else "no value range"
            raise BitstreamError(f"profile {self.profile} needs {needed} in the header")
        if packed and not self.value_range[0] < self.value_range[1]:
            raise BitstreamError(f"expected a value range low < high, found {self.value_range}")
        if self.frame_rate is None and self.frames != 1:
            raise BitstreamError(f"{self.frames} frames need a frame rate")
        self._check_grid()

    def _check_picture(self):
        """Raise BitstreamError unless this is the header of a picture alone."""
        alone = self.profile in PICTURES and self.split_point == NO_SPLIT
        layers = self.grid or self.channels or self.detector_id is not None or self.value_range
        one = self.frames == 1 and self.frame_rate is None and self.weights_id is not None
        if not alone or layers or not one or self.input_size != self.source_size:
            raise BitstreamError(
                f"profile {self.profile}, split point {self.split_point}: expected "
                f"{NO_SPLIT if self.profile in PICTURES else 'layers'}; a profile of pictures has "
                "a weights id, one frame, no layers, and the source's size as network input"
            )

    def _check_grid(self):
        first = next(iter(self.strides.values()))
        if self.grid and any(
            g * first < n for g, n in zip(self.grid, self.input_size, strict=True)
        ):
            raise BitstreamError(
                f"a first layer of {self.grid} at stride {first} does not cover the network "
                f"input of {self.input_size}"
            )
        samples = sum(math.prod(s) for s in self.shapes(max(self.channels, default=1)).values())
        if samples > MAX_SAMPLES:
            raise BitstreamError(f"expected at most {MAX_SAMPLES} features, found {samples}")

    @property
    def strides(self) -> dict[str, int]:
        """Layer name -> stride to the padded network input, in bitstream order."""
        return SPLIT_POINTS.get(self.split_point, {})

    def shapes(
        self, channels: int | tuple[int, ...] | None = None
    ) -> dict[str, tuple[int, int, int]]:
        """Layer name -> (channels, height, width); `channels`, one or one per layer, where the
        weights id says them."""
        if self.split_point == NO_SPLIT:
            return {}
        told = channels if isinstance(channels, tuple) else (channels,)
        counts = self.channels or told
        if counts == (None,):
            raise BitstreamError("the header leaves the channel count to its weights id: pass it")
        counts = counts * (len(self.strides) // len(counts))
        first = next(iter(self.strides.values()))
        base = [n * first for n in self.grid or derived_grid(self.input_size, first)]
        return {
            name: (count, -(-base[0] // stride), -(-base[1] // stride))
            for count, (name, stride) in zip(counts, self.strides.items(), strict=True)
        }

    def require_picture(self) -> None:
        """Raise BitstreamError where the file holds a sequence."""
        if self.frames != 1:
            raise BitstreamError(
                f"expected one picture, found a sequence of {self.frames} frames: decode it frame "
                "by frame, or with --frame N"
            )

    def require_weights(
        self,
        profile: str,
        weights_id: int,
        channels: int | tuple[int, ...],
        split_point: str = "fpn",
    ) -> None:
        """Raise BitstreamError unless a learned codec of this split point can decode the file.

        weights_id, channels: of the weights that the codec has, and of the layers they are for.
        """
        self._require_made_by(profile, split_point, weights_id)
        if self.channels or self.detector_id is not None:
            raise BitstreamError(
                "expected channels and detector to follow from the weights id, found them in the "
                "header"
            )
        name, (_, height, width) = next(iter(self.shapes(channels).items()))
        _require_size(self.strides[name] ** 2 * height * width)

    def require_picture_weights(self, profile: str, weights_id: int, stride: int) -> None:
        """Raise BitstreamError unless a learned picture codec can decode the file.

        weights_id: of the weights that the codec has. stride: its sides are padded to multiples.
        """
        self._require_made_by(profile, NO_SPLIT, weights_id)
        _require_size(math.prod(-(-n // stride) * stride for n in self.source_size))

    def _require_made_by(self, profile: str, split_point: str, weights_id: int) -> None:
        if (self.profile, self.split_point) != (profile, split_point):
            raise BitstreamError(
                f"expected a file of profile {profile}, split point {split_point}; found profile "
                f"{self.profile}, split point {self.split_point}: decode it with the codec that "
                "wrote it"
            )
        if self.weights_id != weights_id:
            raise BitstreamError(
                f"the file was made with the weights {self.weights_id:08x}, these are "
                f"{weights_id:08x}; decode it with the weights that it names"
            )


def _require_size(pixels: int) -> None:
    if pixels > MAX_INPUT_PIXELS:
        raise BitstreamError(
            f"expected a network input of at most {MAX_INPUT_PIXELS} pixels, found {pixels}"
        )


def compact_shapes(
    shapes: Mapping[str, Sequence[int]], input_size: tuple[int, int]
) -> tuple[tuple[int, int] | None, tuple[int, ...]]:
    """The header's `grid` and `channels` for given layer shapes, as short as they can be.

    >>> compact_shapes({"r2": (256, 200, 304)}, (800, 1199))
    (None, (256,))
    """
    split_point = next((k for k, v in SPLIT_POINTS.items() if list(v) == list(shapes)), None)
    if split_point is None:
        raise BitstreamError(f"no split point has the layers {', '.join(shapes)}")
    first = next(iter(SPLIT_POINTS[split_point]))
    grid = tuple(shapes[first][1:])
    channels = tuple(shape[0] for shape in shapes.values())
    return (
        None if grid == derived_grid(input_size, SPLIT_POINTS[split_point][first]) else grid,
        channels[:1] if len(set(channels)) == 1 else channels,
    )


def write_header(header: Header) -> bytes:
    """The bytes of the sequence header."""
    values = {
        "magic": MAGIC,
        "version": VERSION,
        "profile": code_of(PROFILES, header.profile),
        "split_point": code_of(SPLIT_CODES, header.split_point),
        "picture_flag": int(header.frame_rate is None),
        "weights_flag": int(header.weights_id is not None),
        "detector_flag": int(header.detector_id is not None),
        "grid_flag": int(header.grid is not None),
        "channel_counts": len(header.channels),
        "exact_range_flag": int(header.exact_range),
        "frame_count": header.frames,
        "weights_id": header.weights_id,
        "detector_id": header.detector_id,
        "layer_channels": header.channels,
    }
    values["source_height"], values["source_width"] = header.source_size
    values["input_height"], values["input_width"] = header.input_size
    values["grid_height"], values["grid_width"] = header.grid or (None, None)
    values["rate_numerator"], values["rate_denominator"] = header.frame_rate or (None, None)
    prefix = "exact_" if header.exact_range else ""
    low, high = header.value_range or (None, None)
    values |= {f"{prefix}range_low": low, f"{prefix}range_high": high}
    return write_elements(SEQUENCE_HEADER, values)


def read_header(data: bytes) -> tuple[Header, int]:
    """The sequence header and the number of its bytes."""
    values, size = read_elements(SEQUENCE_HEADER, data, 0, "the sequence header")
    prefix = "exact_" if values["exact_range_flag"] else ""
    low, high = values.get(f"{prefix}range_low"), values.get(f"{prefix}range_high")
    picture = values["picture_flag"]
    header = Header(
        profile=PROFILES[values["profile"]],
        split_point=SPLIT_CODES[values["split_point"]],
        source_size=(values["source_height"], values["source_width"]),
        input_size=(values["input_height"], values["input_width"]),
        grid=(values["grid_height"], values["grid_width"]) if values["grid_flag"] else None,
        channels=tuple(values["layer_channels"]),
        frames=1 if picture else values["frame_count"],
        frame_rate=None if picture else (values["rate_numerator"], values["rate_denominator"]),
        weights_id=values.get("weights_id"),
        detector_id=values.get("detector_id"),
        value_range=None if low is None else (low, high),
        exact_range=bool(values["exact_range_flag"]),
    )
    return header, size
