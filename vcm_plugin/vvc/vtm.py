# SPDX-License-Identifier: BSD-3-Clause
"""How one 10-bit picture becomes a VVC byte stream and a picture again: VTM."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.process import ProcessError, run
from vcm_plugin.vvc.frames import intra_frames
from vcm_plugin.vvc.planes import Planes, check_planes, samples_of, split_planes
from vcm_plugin.vvc.stream import (
    parameter_sets,
    read_format,
)

VTM_PATHS = ("VCM_VTM_ENCODER", "VCM_VTM_DECODER", "VCM_VTM_CONFIG")


@dataclass(frozen=True)
class Vtm:
    """The executables of VTM and its all-intra configuration, at paths that the user gives.

    The command line is that of the common test conditions; no VTM was at hand to run it.
    """

    encoder: Path
    decoder: Path
    config: Path

    @classmethod
    def from_environment(cls) -> Vtm:
        """Paths from VCM_VTM_ENCODER, VCM_VTM_DECODER and VCM_VTM_CONFIG."""
        missing = [name for name in VTM_PATHS if not os.environ.get(name)]
        if missing:
            raise ProcessError(
                f"VTM is not configured: set {', '.join(missing)} to the paths of "
                "EncoderAppStatic, DecoderAppStatic and encoder_intra_vtm.cfg"
            )
        return cls(*(Path(os.environ[name]) for name in VTM_PATHS))

    def encode(self, planes: Sequence[np.ndarray], qp: int) -> bytes:
        """The VVC byte stream of one picture."""
        height, width = check_planes(planes, qp)
        with tempfile.TemporaryDirectory(prefix="vcm-vtm-") as folder:
            source, stream = Path(folder, "in.yuv"), Path(folder, "out.bin")
            try:
                source.write_bytes(b"".join(map(samples_of, planes)))
            except OSError as error:
                raise ProcessError(f"could not write a picture for VTM: {error}") from None
            command = self.encode_command(source, stream, height, width, qp, len(planes) == 1)
            run(command, repair="set VCM_VTM_ENCODER to the path of EncoderAppStatic")
            return _read_output(stream, "VTM's encoder")

    def encode_frames(
        self, frames: Iterable[Sequence[np.ndarray]], qp: int, intra_period: int = 1
    ) -> Iterator[bytes]:
        """The access units of a sequence, every picture an intra picture."""
        if intra_period != 1:
            raise InputError("VTM codes sequences all-intra here: set vvc_random_access to false")
        return intra_frames(self, frames, qp)

    def decode_frames(self, units: Iterable[bytes]) -> Iterator[Planes]:
        """The planes of each picture of an all-intra sequence."""
        units = iter(units)
        first = next(units, b"")
        sets = parameter_sets(first)
        yield self.decode(first)
        for unit in units:
            yield self.decode(sets + unit)

    def encode_command(
        self, source: Path | str, stream: Path | str, height: int | str, width: int | str,
        qp: int | str, luma_only: bool,
    ) -> list[str]:  # fmt: skip
        """The command line of CTC.md for one picture; chroma format 420 for three planes."""
        command = f"-q {qp} -o {os.devnull} -wdt {width} -hgt {height} -fr 1 -ts 1 -v 6"
        command += " --Level=6.2 --IntraPeriod=1 --InputChromaFormat="
        command += "400" if luma_only else "420"
        command += " --InputBitDepth=10 --InternalBitDepth=10 --ConformanceWindowMode=1 -dph 0"
        command += " --DecodingRefreshType=1"
        files = ["-i", str(source), "-c", str(self.config)]
        output = [f"--BitstreamFile={stream}", "--FramesToBeEncoded=1"]
        return [str(self.encoder), *files, *command.split(), *output]

    def decode(self, data: bytes) -> Planes:
        """The planes of a stream of one picture."""
        picture = read_format(data)
        with tempfile.TemporaryDirectory(prefix="vcm-vtm-") as folder:
            stream, output = Path(folder, "out.bin"), Path(folder, "dec.yuv")
            try:
                stream.write_bytes(data)
            except OSError as error:
                raise ProcessError(f"could not write a stream for VTM: {error}") from None
            try:
                run(
                    [self.decoder, "-b", stream, "-o", output, "-d", "10"],
                    repair="set VCM_VTM_DECODER to the path of DecoderAppStatic",
                )
            except ProcessError as error:
                if error.exit_status is None:
                    raise
                raise BitstreamError(f"the VVC stream is truncated or corrupt: {error}") from None
            return split_planes(_read_output(output, "VTM's decoder"), picture)

    def identity(self, luma_only: bool, random_access: bool = False) -> dict:
        """What determines the stream: digests of encoder and configuration, and the command."""
        names = {"encoder": self.encoder, "config": self.config}
        placeholder = Vtm(Path("EncoderAppStatic"), Path(), Path("CONFIG"))
        command = placeholder.encode_command("IN", "OUT", "H", "W", "QP", luma_only)
        return {
            "encoder": "VTM",
            **{f"{name}_sha256": _sha256(path) for name, path in names.items()},
            "chroma_format": "4:0:0" if luma_only else "4:2:0",
            "command": " ".join(command),
        }


def _read_output(path: Path, program: str) -> bytes:
    if not path.is_file():
        raise ProcessError(f"{program} ended without an error, but wrote no file")
    return path.read_bytes()


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ProcessError(
            f"{path} of VTM cannot be read ({error.strerror}); correct VCM_VTM_ENCODER, "
            "VCM_VTM_DECODER and VCM_VTM_CONFIG"
        ) from None
