# SPDX-License-Identifier: BSD-3-Clause
"""What CompressAI-Vision hands to a codec, and how it names its rate points."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from vcm_plugin import environment
from vcm_plugin.ctc import codecs
from vcm_plugin.errors import InputError
from vcm_plugin.rate_points import SCALE

KNOWN_VERSION = "1.1.14"  # of CompressAI-Vision, that this file was tested with
# What its pipelines hand to a codec, read off the functions that do it.
CONTRACT = {
    "_compress": "self codec x codec_output_dir bitstream_name filename remote_inference",
    "_decompress": "self codec bitstream codec_output_dir filename org_img_size remote_inference "
    "vcm_mode output10b",
}


def one_line(function: Callable) -> Callable:
    """The function, ending the program with one line on bad input, as our command line does.

    The harness catches no InputError: Hydra would print a trace.
    """

    @functools.wraps(function)
    def ending(*arguments, **named):
        try:
            return function(*arguments, **named)
        except InputError as error:
            raise SystemExit(f"vcm-plugin: error: {error}") from error

    return ending


def check_contract() -> None:
    """Raise InputError where the harness calls a codec in another way than this file answers."""
    from compressai_vision.pipelines.base import BasePipeline

    for name, expected in CONTRACT.items():
        method = getattr(BasePipeline, name, None)
        found = "nothing" if method is None else " ".join(inspect.signature(method).parameters)
        if found != expected:
            raise InputError(f"{expected_harness()}: {name} takes ({found}), expected ({expected})")


def folder_qp(codec: str, rate_point: Any, qp: Any) -> int:
    """The integer that the harness names a folder by; the higher, the fewer bits.

    It is the QP of VVC; for diff_fchm 32 + 6 log2 s (rate_points.qp_of_scale).
    """
    return codecs.integer_qp(codec, named_rate_point(codec, rate_point, qp))


def named_rate_point(codec: str, rate_point: Any, qp: Any) -> str:
    """The rate point of the configuration, which gives it itself or by its integer."""
    if (rate_point is None) == (qp is None):
        found = "none" if qp is None else f"{rate_point} and {qp}"
        raise InputError(
            f"codec.encoder_config: expected one of rate_point and qp, found {found}; give "
            "++codec.encoder_config.rate_point=..."
        )
    given = qp if rate_point is None else rate_point
    grammar = codecs.settings_class(codec).grammar
    if (qp is not None or grammar is not SCALE) and not isinstance(given, int):
        raise InputError(f"codec.encoder_config: expected an integer QP, found {given!r}")
    point = str(given) if qp is None else grammar.named(qp)
    grammar.parse(point)
    return point


def expected_harness() -> str:
    """The start of a message about a harness that is another one than this package knows."""
    found = environment.version("compressai-vision")
    return (
        f"expected CompressAI-Vision {KNOWN_VERSION} or one with the same codec contract, found "
        f"{found}"
    )
