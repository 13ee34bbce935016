# SPDX-License-Identifier: BSD-3-Clause
"""Which VTM is this? Versions of its executables, and the configuration of a coding structure.

Executables and configurations are the user's, named by VCM_VTM_ENCODER, VCM_VTM_DECODER and
VCM_VTM_CONFIG. The last is VTM's folder cfg, or one file for runs of one coding structure.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
import re
from pathlib import Path

from vcm_plugin.errors import InputError
from vcm_plugin.process import ProcessError, run, usable_cpus

VTM_PATHS = ("VCM_VTM_ENCODER", "VCM_VTM_DECODER", "VCM_VTM_CONFIG")
ENCODER_REPAIR = "set VCM_VTM_ENCODER to the path of EncoderAppStatic"
DECODER_REPAIR = "set VCM_VTM_DECODER to the path of DecoderAppStatic"
# Low delay is that of FCTM's inner codec: I and P slices.
CONFIGURATIONS = {
    "all-intra": "encoder_intra_vtm.cfg",
    "random access": "encoder_randomaccess_vtm.cfg",
    "low delay": "encoder_lowdelay_P_vtm.cfg",
}
# Where VTM's sources say their version, seen from a file of its folder cfg.
VERSION_FILE = Path("..", "source", "Lib", "CommonLib", "version.h")


def paths() -> tuple[Path, Path, Path]:
    """Encoder, decoder and configuration; ProcessError where one of them is not named."""
    missing = [name for name in VTM_PATHS if not os.environ.get(name)]
    if missing:
        raise ProcessError(
            f"VTM is not configured: set {', '.join(missing)} to the paths of EncoderAppStatic, "
            "DecoderAppStatic and VTM's folder cfg"
        )
    encoder, decoder, config = (Path(os.environ[name]) for name in VTM_PATHS)
    return encoder, decoder, config


def processes() -> int:
    """How many encoders of one sequence run at a time: VCM_VTM_PROCESSES, else as many as there are
    CPUs, and one where this process itself is one of several jobs."""
    text = os.environ.get("VCM_VTM_PROCESSES", "")
    if not text:
        return 1 if multiprocessing.parent_process() else usable_cpus()
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"expected VCM_VTM_PROCESSES to be 1 or more, found {text!r}: correct it")
    return int(text)


def configuration(config: Path, structure: str) -> Path:
    """The configuration of a coding structure: of CONFIGURATIONS in a folder, or the file itself.

    Raises ProcessError where it cannot be read, or is of another structure.
    """
    path = config / CONFIGURATIONS[structure] if config.is_dir() else config
    found = structure_of(_text(path))
    if found != structure:
        raise ProcessError(
            f"expected a configuration of VTM for {structure}, found one for {found} in "
            f"{path.name}: set VCM_VTM_CONFIG to VTM's folder cfg, or to its "
            f"{CONFIGURATIONS[structure]}"
        )
    return path


def structure_of(text: str) -> str:
    """The coding structure of a configuration's text, by the order of its pictures.

    >>> structure_of("Frame1: B 8 1" + chr(10) + "Frame2: B 4 4"), structure_of("GOPSize : 1")
    ('random access', 'all-intra')
    """
    order = [int(place) for place in re.findall(r"^Frame\d+\s*:\s*[BPI]\s+(\d+)", text, re.M)]
    if not order:
        return "all-intra"
    return "low delay" if order == sorted(order) else "random access"


def sha256(path: Path) -> str:
    """Of a configuration. Raises ProcessError where it cannot be read."""
    return hashlib.sha256(_text(path).encode("utf-8", "surrogateescape")).hexdigest()


def version(encoder: Path, decoder: Path, config: Path, wanted: str | None) -> str:
    """The version of VTM that both executables say they are, such as "23.3".

    Raises ProcessError where they differ, where the configuration lies in the sources of another
    version, or where another one is wanted.
    """
    found = banner_version(_banner(encoder, ENCODER_REPAIR), "Encoder", encoder.name)
    decodes = banner_version(_banner(decoder, DECODER_REPAIR), "Decoder", decoder.name)
    require_version(found, decodes, "its decoder", "VCM_VTM_DECODER")
    require_version(found, source_version(config), "its configuration", "VCM_VTM_CONFIG")
    require_version(found, wanted, "the test condition", "vtm_version")
    return found


def banner_version(log: str, kind: str, name: str) -> str:
    """The version in what an executable of VTM (kind "Encoder" or "Decoder") prints first.

    >>> banner_version("VVCSoftware: VTM Encoder Version 23.3 [Linux][GCC 12.2.0]", "Encoder", "")
    '23.3'
    """
    found = re.search(rf"VTM {kind} Version ([^\[\n]+)", log)
    if found is None:
        raise ProcessError(
            f"expected VTM's {kind.lower()}, found {name}, which does not say so when it starts: "
            f"set VCM_VTM_{kind.upper()} to the path of {kind}AppStatic"
        )
    return found[1].strip()


def source_version(config: Path) -> str | None:
    """The version of the sources of VTM that a configuration lies in; None where it lies alone."""
    folder = config if config.is_dir() else config.parent
    try:
        text = (folder / VERSION_FILE).read_text("utf-8", "replace")
    except OSError:
        return None
    found = re.search(r'VTM_VERSION\s+"([^"]+)"', text)
    return found and found[1]


def require_version(encoder: str, other: str | None, whose: str, repair: str) -> None:
    """Raise ProcessError where something is of another version of VTM than its encoder."""
    if other not in (None, encoder):
        raise ProcessError(
            f"expected one version of VTM, found {encoder} of its encoder and {other} of {whose}: "
            f"correct VCM_VTM_ENCODER or {repair}"
        )


@functools.lru_cache
def _banner(program: Path, repair: str) -> str:
    """What an executable prints where it is asked for help, which it counts as a failure."""
    done = run([program, "--help"], repair=repair, statuses=(0, 1))
    return done.stdout.decode("utf-8", "replace")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ProcessError(
            f"{path} of VTM cannot be read ({error.strerror}); correct VCM_VTM_CONFIG"
        ) from None
