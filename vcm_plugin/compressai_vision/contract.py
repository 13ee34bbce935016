# SPDX-License-Identifier: BSD-3-Clause
"""What CompressAI-Vision hands to a codec, and how it names its rate points."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vcm_plugin import environment
from vcm_plugin.ctc import codecs
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json, write_json
from vcm_plugin.rate_points import SCALE

NAMES = ("diff_fchm", "vvc_feature", "vvc_remote")  # of the codecs that run in the harness
KNOWN_VERSION = "1.1.14"  # of CompressAI-Vision, that this file was tested with
# What its pipelines hand to a codec, read off the functions that do it.
CONTRACT = {
    "_compress": "self codec x codec_output_dir bitstream_name filename remote_inference",
    "_decompress": "self codec bitstream codec_output_dir filename org_img_size remote_inference "
    "vcm_mode output10b",
}
SETTINGS_FILE = "vcm_plugin.json"  # beside the results, which they belong to
# The columns of encoding and decoding time in its tables of pictures, which it sorts itself; those
# of sequences come as the codec gives them.
ENCODE_COLUMNS = ("feature_reduction", "conversion", "inner_codec")
DECODE_COLUMNS = ("inner_codec", "conversion", "feature_restoration")


def one_line(function: Callable) -> Callable:
    """The function, ending the job with one line on bad input, as our command line does.

    The harness catches no InputError: Hydra would print a trace.
    """

    @functools.wraps(function)
    def ending(*arguments, **named):
        try:
            return function(*arguments, **named)
        except InputError as error:
            raise _ending(f"vcm-plugin: error: {error}") from error

    return ending


def _ending(line: str) -> BaseException:
    """What ends the program with a line; of a sweep (--multirun), only this job."""
    if not _is_sweep():
        return SystemExit(line)
    from hydra.errors import CompactHydraException

    print(line, file=sys.stderr)  # Hydra repeats the first one at the end of the sweep
    return CompactHydraException(line)


def _is_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def leaving_no_folder(constructor: Callable) -> Callable:
    """The constructor of a codec; where it refuses, the folders made for its results are removed.

    The harness makes them before it makes the codec. Folders that something lies in stay.
    """

    @functools.wraps(constructor)
    def constructing(*arguments, **named):
        try:
            return constructor(*arguments, **named)
        except InputError:
            folder = Path(named.get("output_dir") or "")
            inner = folder.rglob("*") if named.get("output_dir") else ()
            for path in [*sorted(filter(Path.is_dir, inner), reverse=True), folder]:
                with suppress(OSError):  # something lies in it
                    path.rmdir()
            raise

    return constructing


def in_order(seconds: Mapping[str, float], columns: Iterable[str]) -> dict[str, float]:
    """The seconds of the stages that the harness has columns for, in its order."""
    return {name: seconds[name] for name in columns if name in seconds}


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Put the name of a bitstream before the errors that it causes."""
    try:
        yield
    except InputError as error:
        text = str(error)
        raise InputError(text if str(file) in text else f"{file}: {text}") from error


def require_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise InputError where a folder of the harness holds what other settings gave.

    The harness names its folder by an integer, which other settings may share, and where it finds
    a table there it shows that one.
    """
    path, stated = folder / SETTINGS_FILE, json.loads(json.dumps(settings, sort_keys=True))
    found = read_json(path) if path.is_file() else stated
    keys = sorted({*stated, *(found if isinstance(found, dict) else {})})
    other = [
        key for key in keys if not isinstance(found, dict) or found.get(key) != stated.get(key)
    ]
    if other:
        raise InputError(
            f"{folder} holds results of another {', '.join(other)}; name this run with "
            "++codec.experiment=_NAME, or delete that folder"
        )


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make a folder of the harness that of these settings. Raises InputError as require_folder."""
    require_folder(folder, settings)
    if not (folder / SETTINGS_FILE).is_file():
        write_json(folder / SETTINGS_FILE, json.loads(json.dumps(settings, sort_keys=True)))


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

    It is the QP of VVC; for diff_fchm 32 + 6 log2 s (rate_points.qp_of_scale). Hydra asks for it
    with codec.type, which the harness's example configurations set to a codec of its own.
    """
    if codec not in NAMES:
        raise InputError(
            f"codec.type: expected the name that stands after codec=, one of {', '.join(NAMES)}, "
            f"found {codec}: the example configurations set it; add ++codec.type=NAME"
        )
    return codecs.integer_qp(codec, named_rate_point(codec, rate_point, qp))


def resolved_qp(codec: str, rate_point: Any, qp: Any) -> int | str:
    """folder_qp, where Hydra asks for it; in a sweep, "refused" for a rate point that is none.

    What is raised there comes out of Hydra as a trace. The constructor of the codec, which is asked
    next, says in one line what is wrong, and takes the folder away.
    """
    try:
        return folder_qp(codec, rate_point, qp)
    except InputError:
        if codec not in NAMES or not _is_sweep():
            raise
        return "refused"


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
