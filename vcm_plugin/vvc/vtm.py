# SPDX-License-Identifier: BSD-3-Clause
"""How pictures of 10 bits become a VVC byte stream and pictures again: VTM."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vcm_plugin.errors import BitstreamError
from vcm_plugin.process import ProcessError, run
from vcm_plugin.vvc import vtm_setup
from vcm_plugin.vvc.chunks import Chunk, CodedChunk, joined, side_by_side, write_chunks
from vcm_plugin.vvc.frames import of_one_size, once
from vcm_plugin.vvc.planes import Planes, check_planes, samples_of, split_planes
from vcm_plugin.vvc.stream import PictureFormat, all_intra, parameter_sets, read_format


@dataclass(frozen=True)
class Part:
    """Which frames of a file are coded and how, as the command line says it; one picture without.

    decoded: where the encoder writes what its stream decodes to.
    """

    skip: int | str
    frames: int | str
    intra_period: int | str
    frame_rate: str
    decoded: Path | str


@dataclass(frozen=True)
class Vtm:
    """The executables of VTM and its configurations, at paths that the user gives.

    The command line is that of the common test conditions. config: VTM's folder cfg, or a file.
    low_delay: of sequences with inter prediction, pictures are coded in the order of display.
    version: the only one that is taken, such as "23.3"; None: any. processes: encoders that run at
    a time for one sequence; the stream does not depend on it.
    """

    encoder: Path
    decoder: Path
    config: Path
    low_delay: bool = False
    version: str | None = None
    processes: int = 1

    @classmethod
    def from_environment(cls, low_delay: bool = False, version: str | None = None) -> Vtm:
        """Paths and processes as the environment has them (vtm_setup.py)."""
        return cls(*vtm_setup.paths(), low_delay, version, vtm_setup.processes())

    def encode(self, planes: Sequence[np.ndarray], qp: int) -> bytes:
        """The VVC byte stream of one picture."""
        height, width = check_planes(planes, qp)
        usable, _ = self._usable("all-intra")
        with tempfile.TemporaryDirectory(prefix="vcm-vtm-") as folder:
            source, stream = Path(folder, "in.yuv"), Path(folder, "out.bin")
            _write(source, b"".join(map(samples_of, planes)))
            command = usable.encode_command(source, stream, height, width, qp, len(planes) == 1)
            run(command, repair=vtm_setup.ENCODER_REPAIR)
            return _output(stream, "VTM's encoder").read_bytes()

    def encode_batch(self, pictures: Iterable[Sequence[np.ndarray]], qp: int) -> list[bytes]:
        """The VVC byte stream of each of some pictures of one size; VTM starts once for each, which
        is little beside its work."""
        return [self.encode(planes, qp) for planes in of_one_size(pictures, qp)]

    def encode_frames(
        self, frames: Iterable[Sequence[np.ndarray]], qp: int, intra_period: int = 1,
        frame_rate: tuple[int, int] = (1, 1),
    ) -> Iterator[bytes]:  # fmt: skip
        """The access units of a sequence in decoding order: one after the other, a VVC stream.

        intra_period 1: every picture as `encode` codes it, its parameter sets sent once.
        Otherwise an intra picture every so many frames, and inter prediction between them.
        frame_rate: frames and seconds; by it VTM decides when to adapt its luma mapping.
        """
        frames = of_one_size(frames, qp)
        if intra_period == 1:
            return once(side_by_side(lambda one: self.encode(one, qp), frames, self.processes))
        return self._inter_frames(frames, qp, intra_period, frame_rate)

    def _inter_frames(
        self, frames: Iterator[Planes], qp: int, period: int, frame_rate: tuple[int, int]
    ) -> Iterator[bytes]:
        first = next(frames, None)
        if first is None:
            return
        usable, _ = self._usable(self._structure(True))
        form = (*first[0].shape, qp, len(first) == 1)
        rate = ":".join(map(str, frame_rate[: 1 + (frame_rate[1] != 1)]))
        raw = (b"".join(map(samples_of, f)) for f in itertools.chain([first], frames))

        def coded(chunk: Chunk) -> CodedChunk:
            part = Part(chunk.skip, chunk.frames, period, rate, chunk.path.with_suffix(".rec"))
            command = usable.encode_command(chunk.path, chunk.path.with_suffix(".bin"), *form, part)
            return _coded(chunk, command)

        with tempfile.TemporaryDirectory(prefix="vcm-vtm-") as folder:
            chunks = write_chunks(Path(folder), raw, period)
            yield from joined(side_by_side(coded, chunks, self.processes))

    def encode_command(
        self, source: Path | str, stream: Path | str, height: int | str, width: int | str,
        qp: int | str, luma_only: bool, part: Part | None = None,
    ) -> list[str]:  # fmt: skip
        """The command line of the test conditions, as CompressAI-Vision has it, for a picture or a
        part of a sequence; chroma format 420 for three planes."""
        one = part or Part(0, 1, 1, "1", os.devnull)
        command = f"-wdt {width} -hgt {height} -fr {one.frame_rate} -ts 1 -v 6"
        command += f" --Level={'5.1' if part else '6.2'} --IntraPeriod={one.intra_period}"
        command += f" --InputChromaFormat={'400' if luma_only else '420'}"
        command += " --InputBitDepth=10 --InternalBitDepth=10 --ConformanceWindowMode=1 -dph 0"
        command += " --DecodingRefreshType=1"
        files = ["-i", str(source), "-c", str(self.config), "-q", str(qp), "-o", str(one.decoded)]
        skip = [f"--FrameSkip={part.skip}"] if part else []
        output = [f"--BitstreamFile={stream}", *skip, f"--FramesToBeEncoded={one.frames}"]
        return [str(self.encoder), *files, *command.split(), *output]

    def decode(self, data: bytes) -> Planes:
        """The planes of a stream of one picture."""
        picture = read_format(data)
        with tempfile.TemporaryDirectory(prefix="vcm-vtm-") as folder:
            stream = Path(folder, "out.bin")
            _write(stream, data)
            return split_planes(self._decoded(stream).read_bytes(), picture)

    def decode_batch(self, streams: Sequence[bytes]) -> list[Planes]:
        """The planes of each of some streams of one picture."""
        return [self.decode(data) for data in streams]

    def decode_frames(self, units: Iterable[bytes]) -> Iterator[Planes]:
        """The planes of each picture of a sequence in the order of display.

        units: access units in decoding order. Raises BitstreamError where one is not decodable.
        All-intra, each is decoded as it is asked for; else all of them are, into a temporary file.
        """
        units = iter(units)
        first = list(itertools.islice(units, 3))
        picture = read_format(b"".join(first[:1]))
        units = itertools.chain(first, units)
        if not all_intra(first):
            yield from self._inter_planes(units, picture)
            return
        sets = parameter_sets(first[0])
        yield self.decode(next(units))
        yield from side_by_side(lambda unit: self.decode(sets + unit), units, self.processes)

    def _inter_planes(self, units: Iterable[bytes], picture: PictureFormat) -> Iterator[Planes]:
        with tempfile.TemporaryDirectory(prefix="vcm-vtm-") as folder:
            stream, sizes = Path(folder, "out.bin"), []
            with stream.open("wb") as file:
                sizes.extend(map(file.write, units))
            output = self._decoded(stream)
            size = -(-output.stat().st_size // len(sizes))
            with output.open("rb") as file:
                for _ in sizes:
                    yield split_planes(file.read(size), picture)

    def _decoded(self, stream: Path) -> Path:
        """The file of samples that VTM's decoder makes of a stream, beside it."""
        output = stream.with_name("dec.yuv")
        try:
            run(
                [self.decoder, "-b", stream, "-o", output, "-d", "10"],
                repair=vtm_setup.DECODER_REPAIR,
            )
        except ProcessError as error:
            if error.exit_status is None:
                raise
            raise BitstreamError(f"the VVC stream is truncated or corrupt: {error}") from None
        return _output(output, "VTM's decoder")

    def identity(self, luma_only: bool, random_access: bool = False) -> dict:
        """What determines the stream: VTM's version, its configuration, and the command."""
        structure = self._structure(random_access)
        usable, version = self._usable(structure)
        placeholder = Vtm(Path("EncoderAppStatic"), Path(), Path("CONFIG"))
        part = Part("SKIP", "FRAMES", "PERIOD", "FPS", "DECODED") if random_access else None
        command = placeholder.encode_command("IN", "OUT", "H", "W", "QP", luma_only, part)
        return {
            "encoder": f"VTM {version}",
            "structure": structure,
            "config_sha256": vtm_setup.sha256(usable.config),
            "chroma_format": "4:0:0" if luma_only else "4:2:0",
            "command": " ".join(command),
        }

    def _structure(self, random_access: bool) -> str:
        if not random_access:
            return "all-intra"
        return "low delay" if self.low_delay else "random access"

    def _usable(self, structure: str) -> tuple[Vtm, str]:
        """This VTM with the configuration of a structure, and its version.

        Raises ProcessError where executables and configuration do not belong together.
        """
        config = vtm_setup.configuration(self.config, structure)
        version = vtm_setup.version(self.encoder, self.decoder, config, self.version)
        return dataclasses.replace(self, config=config), version


def _coded(chunk: Chunk, command: Sequence[str]) -> CodedChunk:
    """Code a chunk by a command that writes beside its samples, and remove all of them."""
    run(command, repair=vtm_setup.ENCODER_REPAIR)
    stream = _output(chunk.path.with_suffix(".bin"), "VTM's encoder")
    decoded = _output(chunk.path.with_suffix(".rec"), "VTM's encoder")
    size = decoded.stat().st_size // chunk.frames
    with decoded.open("rb") as file:
        first = file.read(size)
        file.seek(-size, os.SEEK_END)
        ends = (hashlib.sha256(one).hexdigest() for one in (first, file.read()))
        coded = CodedChunk(chunk.first, stream.read_bytes(), *ends)
    for path in (chunk.path, stream, decoded):
        path.unlink()
    return coded


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ProcessError(f"could not write a file for VTM: {error}") from None


def _output(path: Path, program: str) -> Path:
    if not path.is_file():
        raise ProcessError(f"{program} ended without an error, but wrote no file")
    return path
