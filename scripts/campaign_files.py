#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Does any damaged bitstream crash, hang or deceive a decoder?

For every profile and unit type sound files are made, and damaged at random: half of them at any
byte, half with all CRCs and lengths made right (tests/mutations.py). Each must be refused by a
BitstreamError of one line, or decode to the latents that it states, within SECONDS of processor
time and MEMORY beyond what the decoder needs when it starts. The real decoders run in worker
processes; of VVC streams every --vvc-th is really given to FFmpeg, the others end where it would
start. File N of a kind depends on seed, kind and N only.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import re
import resource
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from vcm_plugin.errors import InputError

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "anchors")]  # tiny real codecs

SECONDS = 5.0  # of processor time, of one file
MEMORY = 512 << 20  # bytes of address space, of one file
SILENCE = 600.0  # seconds of wall time without a file done: the worker hangs
STARTING = -1  # in place of the number of a file
GROWTH = 256 << 20  # bytes that a worker may have grown by over all files before a new one starts
PLACES = {  # where a refusal happened, by its words; elsewhere it is the syntax
    "CRC": "CRC-32",
    "entropy decoder": "entropy-coded data|have the checksum",
    "FFmpeg": "VVC stream is truncated or corrupt",
}


class AtFfmpeg(Exception):
    """A stream has reached the place where FFmpeg would be started."""


class TooSlow(BaseException):
    """A file takes too long; no `except` of the code under test may stop it."""


@dataclass
class Kind:
    """Sound files of a kind and its decoder, which raises or returns; `whole`: with FFmpeg."""

    files: list[bytes]
    decode: Callable[[bytes, bool], None]
    is_fcm: bool = True
    pieces: set[bytes] = field(default_factory=set)


def main() -> int:
    """Run the campaigns; the exit code is 1 where a file was found that breaks a decoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000, metavar="N", help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first")
    parser.add_argument("--vvc", type=int, default=100, metavar="K", help="FFmpeg for every K-th")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--minutes", type=float, default=1e9, metavar="M", help="at most, a kind")
    options = parser.parse_args()
    faults = total = 0
    for kind in options.kinds:
        counts = campaign(kind, options)
        faults, total = faults + counts["faults"], total + counts["files"]
    print(f"seed {options.seed}: {total} files, {faults} faults")
    return 1 if faults else 0


def campaign(kind: str, options: argparse.Namespace) -> collections.Counter:
    """All files of one kind, in one worker after the other."""
    counts: collections.Counter = collections.Counter()
    number, end, started = options.first, options.first + options.files, time.time()
    until = started + 60 * options.minutes
    while number < end and time.time() < until:
        number = one_worker(kind, number, end, until, options, counts)
    slowest = counts.pop("slowest", 0)
    details = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    print(f"{kind}: seed {options.seed}, files {options.first} to {number - 1}: {details}; slowest "
          f"{slowest / 1e3:.2f} s; {time.time() - started:.0f} s", flush=True)  # fmt: skip
    return counts + collections.Counter(files=number - options.first)


def one_worker(kind, first, end, until, options, counts: collections.Counter) -> int:
    """Let a worker decode from file `first` on; the number of the file to go on with."""
    at = multiprocessing.Value("q", STARTING, lock=False)
    ours, theirs = multiprocessing.Pipe(duplex=False)
    arguments = (kind, first, end, until, options.seed, options.vvc, at, theirs)
    process = multiprocessing.Process(target=work, args=arguments)
    process.start()
    theirs.close()
    seen, since = STARTING, time.time()
    while process.is_alive() and time.time() - since < SILENCE:
        if ours.poll(1.0):
            break
        if at.value != seen or seen == STARTING:  # a crowded machine may start it slowly
            seen, since = at.value, time.time()
    done = None
    try:
        if ours.poll(0):
            done = ours.recv()
    except EOFError:
        pass
    if done is None:
        process.kill()
        process.join()
        if at.value == STARTING:
            sys.exit(f"{kind}: no decoder could be started")
        report(kind, options.seed, at.value, f"the worker hung or died, {process.exitcode}")
        counts.update({"faults": 1})
        return at.value + 1
    process.join()
    number, found = done
    slowest = max(counts["slowest"], found.pop("slowest", 0))
    counts.update(found)
    counts["slowest"] = slowest
    return number


def report(kind: str, seed: int, number: int, fault: str) -> None:
    print(f"{kind}: seed {seed}, file {number}: FAULT: {fault}"[:1000], flush=True)


def work(kind, first, end, until, seed, every, at, pipe) -> None:
    """Decode damaged files until all are done, the time is up or this process has grown; sends the
    counts."""
    from vcm_plugin.entropy import rans

    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        rans.PATIENCE = 0  # compiled from the start
        made = KINDS[kind](Path(name))
        for data in made.files:  # whatever is loaded or compiled once
            made.decode(data, True)
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + MEMORY,) * 2)
        signal.signal(signal.SIGPROF, too_slow)
        counts: collections.Counter = collections.Counter()
        grown, number = resident() + GROWTH, first
        while number < end and time.time() < until and (number % 1000 or resident() < grown):
            at.value = number
            fault = one_file(made, kind, seed, number, every, counts)
            if fault:
                counts["faults"] += 1
                report(kind, seed, number, fault)
            number += 1
        pipe.send((number, counts))


def one_file(made: Kind, kind: str, seed: int, number: int, every: int, counts) -> str:
    """What is wrong with how file `number` ended; "" where nothing is."""
    data, is_sealed = damaged(made, kind, seed, number)
    whole = number % every < 2  # one of either half
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        made.decode(data, whole)
    except (AtFfmpeg, InputError) as error:
        return refused(error, counts)
    except (Exception, TooSlow) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        milliseconds = round(1e3 * (time.process_time() - started))
        counts["slowest"] = max(counts["slowest"], milliseconds)
    counts["decoded"] += 1
    if made.is_fcm and not is_sealed and not set(pieces_of(data)) <= made.pieces:
        return "decoded, though its bytes were damaged"
    return ""


def refused(error: Exception, counts: collections.Counter) -> str:
    if isinstance(error, AtFfmpeg):
        counts["led up to FFmpeg"] += 1
        return ""
    text = str(error)
    counts["refused"] += 1
    for place, words in PLACES.items():
        if re.search(words, text):
            counts[f"refused by the {place}"] += 1
    if "was ended by SIG" in text:
        counts["refused since FFmpeg crashed"] += 1
    return "" if "\n" not in text and len(text) < 1000 else f"a refusal of many lines: {text!r}"


def damaged(made: Kind, kind: str, seed: int, number: int) -> tuple[bytes, bool]:
    """File `number`, and whether its CRCs were made right."""
    from mutations import mutated_bytes, mutated_vvc, sealed

    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
    data = made.files[rng.integers(len(made.files))]
    if number % 2 == 0:
        return mutated_bytes(data, rng, made.files), False
    return (sealed if made.is_fcm else mutated_vvc)(data, rng, made.files), True


def pieces_of(data: bytes) -> list[bytes]:
    """Header and units of a sound file, as bytes."""
    from vcm_plugin import bitstream

    reader = bitstream.FrameReader(data)
    ends = [*reader.starts, len(data)]
    return [data[: ends[0]], *(data[a:b] for a, b in zip(ends, ends[1:]))]


def too_slow(*_) -> None:
    raise TooSlow(f"more than {SECONDS:g} s of processor time")


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# --- the kinds ------------------------------------------------------------------------------


def machine(folder: Path) -> Kind:
    """Pictures of diff_fchm: machine units alone."""
    codec = tiny_machine()
    golden = [path.read_bytes() for path in sorted(GOLDEN.glob("tiny_s[0-9]*.fcm"))]
    return fcm([*golden, codec.encode(features(seed=3), "1"), codec.encode(features((1, 1)), "2")],
               lambda data, _: codec.decode_latents(data))  # fmt: skip


def machine_bundled(folder: Path) -> Kind:
    """Pictures of diff_fchm with the weights of the package."""
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec
    from vcm_plugin.environment import PACKAGE

    codec = MachineCodec(PACKAGE / "weights" / "minictc_vfcn.safetensors")
    files = [path.read_bytes() for path in sorted(GOLDEN.glob("minictc_s*.fcm"))]
    return fcm(files, lambda data, _: codec.decode_latents(data))


def human(folder: Path) -> Kind:
    """Pictures with the auxiliary latents of diff_fchm_human."""
    from hvcn_tiny import picture, tiny_codec

    codec = tiny_codec(folder, machine=tiny_machine())
    return painted(codec, picture)


def human_paper(folder: Path) -> Kind:
    """The same in the paper profile."""
    from hvcn_tiny import PAPER, picture, tiny_codec

    return painted(tiny_codec(folder, PAPER, tiny_machine()), picture)


def painted(codec, picture: Callable) -> Kind:
    """Files of a latent layer at three rates."""
    files = [codec.encode(picture(seed=n), features(seed=n), "1", q)
             for n, q in enumerate(("0.25", "1", "4"))]  # fmt: skip
    return fcm(files, lambda data, _: codec.decode_latents(data))


def picture(folder: Path) -> Kind:
    """Pictures with an auxiliary picture of diff_fchm_picture."""
    from hvcn_tiny import picture
    from restorer_tiny import tiny_picture_codec

    codec = tiny_picture_codec(folder, tiny_machine())
    files = [codec.encode(picture(seed=n), features(seed=n), "1", point)
             for n, point in enumerate(("37", "30@50", "44@75"))]  # fmt: skip
    codec.encoder = sparing(codec.encoder)

    def decode(data: bytes) -> None:
        found, restored = codec.decode(data)
        assert restored.shape == (*found.source_size, 3)

    return fcm(files, choosing(decode))


def learned_picture(folder: Path) -> Kind:
    """Pictures with a learned picture of diff_fchm_learned."""
    from hvcn_tiny import picture
    from restorer_tiny import golden_learned_codec

    codec = golden_learned_codec(GOLDEN)
    golden = [path.read_bytes() for path in sorted(GOLDEN.glob("tiny_learned_qp*.fcm"))]
    files = [codec.encode(picture(seed=n), features(seed=n), "1", qp)
             for n, qp in enumerate(("21", "33", "45"))]  # fmt: skip
    return fcm([*golden, *files], lambda data, _: codec.decode_latents(data))


def machine_sequence(folder: Path) -> Kind:
    """Sequences of diff_fchm, read frame by frame and at random."""
    codec = tiny_machine()
    files = [sequence(folder, codec, point) for point in ("0.5", "2")]

    def decode(path: Path) -> None:
        for layer in codec.read_layers(path):
            assert layer.latents.checksum() == layer.payload.checksum
        codec.decode_frame(path, 2)

    return fcm(files, of_paths(folder, decode))


def inter_sequence(folder: Path) -> Kind:
    """Sequences of diff_fchm with intra and inter frames, read frame by frame and at random."""
    from inter_tiny import moving

    from vcm_plugin.diff_fchm.machine.codec import MachineCodec

    codec = MachineCodec(GOLDEN / "tiny.vfcn", inter=GOLDEN / "tiny.inter")
    files = [(GOLDEN / "tiny_sequence.fcm").read_bytes()]
    files += [sequence(folder, codec, point, moving(6)) for point in ("0.5", "2")]

    def decode(path: Path) -> None:
        for _ in codec.read_layers(path):  # raises where a checksum is not that of the latents
            pass
        codec.decode_frame(path, 2)

    return fcm(files, of_paths(folder, decode))


def private(folder: Path) -> Kind:
    """Pictures of vvc_feature."""
    codec = sparing_feature_codec()
    files = [codec.encode(features(seed=n), qp) for n, qp in enumerate(("22", "37", "47"))]
    return fcm(files, choosing(codec.decode))


def private_sequence(folder: Path) -> Kind:
    """Sequences of vvc_feature, all-intra and with inter prediction."""
    files = [sequence(folder, sparing_feature_codec((-9.0, 9.0), inter), "37")
             for inter in (False, True)]  # fmt: skip
    codec = sparing_feature_codec()
    return fcm(files, of_paths(folder, lambda path: list(codec.decode_frames(path))))


def msfc(folder: Path) -> Kind:
    """Pictures of msfc."""
    from test_msfc import tiny_weights

    from anchors.msfc import MsfcCodec

    codec = MsfcCodec(tiny_weights(folder / "msfc.safetensors"))
    codec.inner = sparing_feature_codec()
    files = [codec.encode(features(seed=n), qp) for n, qp in enumerate(("22", "37"))]
    return fcm(files, choosing(codec.decode))


def fctm_like(folder: Path) -> Kind:
    """Pictures of fctm_like."""
    from fctm_like_tiny import tiny_weights

    from anchors.fctm_like import FctmLikeCodec, Tools

    weights = tiny_weights(folder / "fctm_like.safetensors")
    codecs = [FctmLikeCodec(weights, tools=Tools(zscore=zscore)) for zscore in (False, True)]
    files = [codec.encode(features(seed=n), "22") for n, codec in enumerate(codecs)]
    codecs[0].encoder = sparing(codecs[0].encoder)
    return fcm(files, choosing(codecs[0].decode))


def fctm_like_sequence(folder: Path) -> Kind:
    """Sequences of fctm_like, all-intra and with low delay."""
    from fctm_like_tiny import tiny_weights

    from anchors.fctm_like import FctmLikeCodec

    weights = tiny_weights(folder / "fctm_like.safetensors")
    codecs = [FctmLikeCodec(weights, low_delay=low_delay) for low_delay in (False, True)]
    files = [sequence(folder, codec, "22") for codec in codecs]
    codecs[0].encoder = sparing(codecs[0].encoder)
    return fcm(files, of_paths(folder, lambda path: list(codecs[0].decode_frames(path))))


def latents(folder: Path) -> Kind:
    """Pictures of picture_learned."""
    from picture_tiny import picture

    from anchors.picture_learned import PictureLearnedCodec

    codec = PictureLearnedCodec(GOLDEN / "tiny.picture")
    golden = [path.read_bytes() for path in sorted(GOLDEN.glob("tiny_picture_qp*.fcm"))]
    files = [codec.encode(picture(size), qp) for size, qp in (((1, 1), "30"), ((70, 33), "21"))]
    return fcm([*golden, *files], lambda data, _: codec.decode_latents(data))


def heads(folder: Path) -> Kind:
    """Pictures of latent_scalable, with their enhancement and without, and of multi_head."""
    from heads_tiny import golden_codecs
    from picture_tiny import picture

    from anchors.picture_heads import LatentScalableCodec
    from vcm_plugin.bitstream import read_header

    codecs = golden_codecs(GOLDEN)
    names = sorted(path for name in codecs for path in GOLDEN.glob(f"tiny_{name}_qp*.fcm"))
    alone = LatentScalableCodec(codecs["latent_scalable"].head, both=False)
    files = [
        alone.encode(picture((70, 33)), "30"),
        codecs["multi_head"].encode(picture((1, 1)), "30"),
    ]

    def decode(data: bytes, _: bool) -> None:
        profile = read_header(data)[0].profile
        codecs.get(profile, codecs["latent_scalable"]).decode_latents(data)

    return fcm([*(path.read_bytes() for path in names), *files], decode)


def raw_vvc(folder: Path) -> Kind:
    """Pictures of vvc_remote: no .fcm file, so no CRC; half have damaged NAL units."""
    from hvcn_tiny import picture

    codec = sparing_remote_codec()
    sizes = ((64, 96), (61, 90), (122, 180))
    files = [codec.encode(picture(size), point)
             for size, point in zip(sizes, ("37", "32", "40@50"))]  # fmt: skip
    return Kind(files, choosing(codec.decode), is_fcm=False)


KINDS: dict[str, Callable[[Path], Kind]] = {
    "machine": machine,
    "machine_bundled": machine_bundled,
    "human": human,
    "human_paper": human_paper,
    "auxiliary_picture": picture,
    "learned_picture": learned_picture,
    "machine_sequence": machine_sequence,
    "inter_sequence": inter_sequence,
    "private": private,
    "private_sequence": private_sequence,
    "msfc": msfc,
    "fctm_like": fctm_like,
    "fctm_like_sequence": fctm_like_sequence,
    "latents": latents,
    "heads": heads,
    "raw_vvc": raw_vvc,
}


# --- what the kinds share -------------------------------------------------------------------

GOLDEN = ROOT / "tests" / "golden"
WHOLE = {"now": True}  # whether the file at hand is given to FFmpeg


def fcm(files: list[bytes], decode: Callable[[bytes, bool], object]) -> Kind:
    pieces = {piece for data in files for piece in pieces_of(data)}
    return Kind(files, decode, pieces=pieces)


def choosing(decode: Callable) -> Callable:
    """The decoder of a codec that asks WHOLE whether FFmpeg shall be started."""

    def with_choice(data, whole: bool) -> None:
        WHOLE["now"] = whole
        decode(data)

    return with_choice


def of_paths(folder: Path, decode: Callable[[Path], object]) -> Callable:
    """The decoder of bytes that writes them into a file first."""
    path = folder / "sequence.fcm"

    def of_bytes(data: bytes) -> None:
        path.write_bytes(data)
        decode(path)

    return choosing(of_bytes)


def features(size: tuple[int, int] = (61, 90), seed: int = 1):
    from vfcn_tiny import pyramid

    return pyramid(size, seed=seed)


def tiny_machine():
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec

    return MachineCodec(GOLDEN / "tiny.vfcn")


def sequence(folder: Path, codec, point: str, frames=()) -> bytes:
    """A file of these frames, or of four that have nothing in common."""
    from vcm_plugin.bitstream import Timing

    path = folder / "made.fcm"
    frames = list(frames) or [features(seed=n) for n in range(4)]
    with path.open("wb") as file:
        codec.encode_frames(iter(frames), point, Timing(len(frames), (30, 1)), file)
    return path.read_bytes()


def sparing(encoder):
    """The same VVenC, whose decoder starts FFmpeg for some of the files only."""
    from vcm_plugin.vvc import VVenC
    from vcm_plugin.vvc.stream import read_format

    class Sparing(VVenC):
        def decode_batch(self, streams):
            if WHOLE["now"]:
                return super().decode_batch(streams)
            read_format(streams[0])
            raise AtFfmpeg

        def decode_frames(self, units):
            if WHOLE["now"]:
                yield from super().decode_frames(units)
                return
            read_format(b"".join(units))
            raise AtFfmpeg

    return Sparing(encoder.preset, encoder.threads, encoder.parameters, encoder.perceptual)


def sparing_feature_codec(value_range=None, inter: bool = False):
    from anchors.vvc_feature import VvcFeatureCodec

    class SparingFeatureCodec(VvcFeatureCodec):
        @cached_property
        def encoder(self):
            return sparing(super().encoder)

    return SparingFeatureCodec(value_range=value_range, random_access=inter)


def sparing_remote_codec():
    from anchors.vvc_remote import VvcRemoteCodec

    class SparingRemoteCodec(VvcRemoteCodec):
        @cached_property
        def encoder(self):
            return sparing(super().encoder)

    return SparingRemoteCodec()


if __name__ == "__main__":
    sys.exit(main())
