# SPDX-License-Identifier: BSD-3-Clause
"""How a source becomes a file and what comes out of one, for every kind of codec.

    feature   features -> file -> features             split inference
    picture   picture  -> file -> picture              remote inference: the whole network follows
    learned_picture    the same; its files are .fcm, not raw VVC streams
    heads     picture  -> file -> features, picture    neither end has NN-Part1
    human     both     -> file -> features, picture    one for the detector, one for a person

The only place that knows what a kind means; runner, command line, cross-check, CompressAI-Vision
adapter and benches call it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vcm_plugin.bitstream import Timing
from vcm_plugin.ctc.codecs import Codec
from vcm_plugin.errors import InputError
from vcm_plugin.rate_points import split_layers

if TYPE_CHECKING:
    from vcm_plugin.features import FeaturePyramid


@dataclass(frozen=True)
class Source:
    """A picture, uint8 RGB (H, W, 3), and its features, which picture codecs do without.

    analysed: what the codec makes of the features for all rate points alike, once it is made.
    """

    picture: np.ndarray
    features: FeaturePyramid | None = None
    analysed: Any = None


@dataclass(frozen=True)
class Decoded:
    """What a file holds: features, a picture uint8 RGB (H, W, 3), or both.

    machine_bits: those that the features needed, where others are for a person. picture: None, too,
    where a file of the kind `heads` was cut behind what the features need.
    """

    features: FeaturePyramid | None = None
    picture: np.ndarray | None = None
    machine_bits: int | None = None


@dataclass(frozen=True)
class Kind:
    """What a kind of codec takes and gives.

    suffix: of its files. takes_features: whether NN-Part1 comes before the encoder; otherwise it
    comes after the decoder, unless the file holds features: gives_features. gives_picture: whether
    there is a decoded picture to look at.
    """

    suffix: str
    takes_features: bool
    gives_picture: bool
    gives_features: bool
    encode: Callable[[Any, Sequence[Source], str], list[bytes]]
    decode: Callable[[Any, Sequence[bytes]], list[Decoded]]


def _encode_features(codec: Any, sources: Sequence[Source], point: str) -> list[bytes]:
    if not hasattr(codec, "code_analysed"):
        return _each(codec, "encode", [source.features for source in sources], point)
    analysed = (source.analysed or codec.analyse(source.features) for source in sources)
    return [codec.code_analysed(one, point)[0] for one in analysed]


def _encode_human(codec: Any, sources: Sequence[Source], point: str) -> list[bytes]:
    points = split_layers(point)
    return [codec.encode(source.picture, source.features, *points) for source in sources]


def _decode_human(codec: Any, files: Sequence[bytes]) -> list[Decoded]:
    return [Decoded(*codec.decode(data), codec.machine_bits(data)) for data in files]


def _each(codec: Any, method: str, items: Sequence[Any], *more: str) -> list[Any]:
    """What a codec makes of each item: of all of them at once where it can."""
    if hasattr(codec, f"{method}_batch"):
        return getattr(codec, f"{method}_batch")(items, *more)
    return [getattr(codec, method)(item, *more) for item in items]


_PICTURE = Kind(
    "vvc", False, True, False,
    lambda codec, sources, point: _each(codec, "encode", [s.picture for s in sources], point),
    lambda codec, files: [Decoded(picture=one) for one in _each(codec, "decode", files)],
)  # fmt: skip
KINDS = {
    "feature": Kind(
        "fcm", True, False, True,
        _encode_features,
        lambda codec, files: [Decoded(features=one) for one in _each(codec, "decode", files)],
    ),
    "picture": _PICTURE,
    "learned_picture": replace(_PICTURE, suffix="fcm"),
    "heads": replace(_PICTURE, suffix="fcm", gives_features=True, decode=_decode_human),
    "human": Kind("fcm", True, True, True, _encode_human, _decode_human),
}  # fmt: skip


def check_rate_points(codec: Codec, points: Iterable[str]) -> None:
    """Raise InputError for a rate point that the weights of a codec do not know, before it codes:
    its `check_rate_point`, where it has one."""
    for point in points if hasattr(codec, "check_rate_point") else ():
        codec.check_rate_point(point)


def kind_of(codec: Codec) -> Kind:
    """What a codec takes and gives."""
    return KINDS[codec.kind]


def encode(codec: Codec, source: Source, rate_point: str) -> bytes:
    """The file of one picture. Raises InputError for a source or rate point that it cannot code."""
    return encode_batch(codec, [source], rate_point)[0]


def encode_batch(codec: Codec, sources: Sequence[Source], rate_point: str) -> list[bytes]:
    """The file of each of some pictures of one size, the same bytes as by `encode`."""
    return kind_of(codec).encode(codec, sources, rate_point)


def analysed(codec: Codec, source: Source) -> Source:
    """The source with what a codec shares between rate points; `encode` goes on from there."""
    if source.features is None or not hasattr(codec, "code_analysed"):
        return source
    return replace(source, analysed=codec.analyse(source.features))


def decode(codec: Codec, data: bytes) -> Decoded:
    """What the file of one picture holds. Raises BitstreamError where it is damaged."""
    return decode_batch(codec, [data])[0]


def decode_batch(codec: Codec, files: Sequence[bytes]) -> list[Decoded]:
    """What each file of some pictures of one size holds, the same as by `decode`."""
    return kind_of(codec).decode(codec, files)


def require_sequences(codec: Codec) -> None:
    """Raise InputError where a codec codes pictures only."""
    if not hasattr(codec, "encode_frames"):
        raise InputError(
            f"codec {codec.name} codes pictures only, no sequences; take a test set of pictures, "
            "or a codec of sequences, such as diff_fchm, vvc_feature or vvc_remote"
        )


def encode_sequence(
    codec: Codec,
    pictures: Iterable[np.ndarray],
    features_of: Callable[[np.ndarray], FeaturePyramid],
    rate_point: str,
    timing: Timing,
    file: BinaryIO,
) -> list[int]:
    """Write the file of a sequence as its pictures come; the bytes of each frame.

    features_of: NN-Part1, called where the codec takes features.
    """
    require_sequences(codec)
    takes_features = kind_of(codec).takes_features
    frames = map(features_of, pictures) if takes_features else pictures
    return codec.encode_frames(frames, rate_point, timing, file)


def decode_sequence(codec: Codec, path: Path) -> Iterator[Decoded]:
    """What each frame of a file holds, decoded as it is asked for."""
    require_sequences(codec)
    takes_features = kind_of(codec).takes_features
    for frame in codec.decode_frames(path):
        yield Decoded(features=frame) if takes_features else Decoded(picture=frame)


def decode_frame(codec: Codec, path: Path, frame: int) -> Decoded:
    """What one frame of a file holds. Raises InputError where there is no such access."""
    if not hasattr(codec, "decode_frame"):
        raise InputError(
            f"--frame: expected an .fcm file of diff_fchm, vvc_feature or fctm_like, {codec.name} "
            "has no random access by frame; leave out --frame"
        )
    try:
        return Decoded(features=codec.decode_frame(path, frame))
    except IndexError as error:
        raise InputError(f"{path}: --frame: {error}") from error
