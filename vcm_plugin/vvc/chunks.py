# SPDX-License-Identifier: BSD-3-Clause
"""How is a sequence coded in chunks side by side, and how do their streams become one?

A chunk goes from one intra picture to the next, both included, as the test conditions have it:

    frames    0 ............ P ............ 2P ...
    chunk 0   IDR .. inter .. CRA
    chunk 1                  IDR .. inter .. CRA

So every inter picture is coded with all that it would have in one pass. In the joined stream the
CRA of a chunk stands for the IDR of the next one, which is left out, and the pictures after it are
moved to their places. That is exact where both decode to the same picture; `joined` holds that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vcm_plugin.process import ProcessError
from vcm_plugin.vvc.stream import access_units, adaptation_sets, is_intra, moved, order_bits

# Frames before and after a chunk that its encoder may look at: its temporal filter takes as many.
MARGIN = 4
Item, Result = TypeVar("Item"), TypeVar("Result")


@dataclass(frozen=True)
class Chunk:
    """Some frames of a sequence in a file of raw samples.

    first: number of its first frame in the sequence. skip: frames that lie before it in the file.
    frames: how many are coded, the intra picture of the next chunk included; others may follow.
    """

    path: Path
    first: int
    skip: int
    frames: int


@dataclass(frozen=True)
class CodedChunk:
    """The stream of a chunk; first_picture, last_picture: digests of what these decode to."""

    first: int
    stream: bytes
    first_picture: str
    last_picture: str


def write_chunks(folder: Path, frames: Iterable[bytes], period: int) -> Iterator[Chunk]:
    """Frames of raw samples as files of one intra period, each given out when it is complete.

    No more than one frame is held. The files are the receiver's to remove.
    """
    assert period > MARGIN
    begun: deque[int] = deque()  # first frames of the chunks that are not complete
    number = -1
    for number, raw in enumerate(frames):
        if (number + MARGIN) % period == 0 or number == 0:
            begun.append(-(-number // period) * period)
        for first in begun:
            _append(_file(folder, first), raw)
        if begun[0] + period + MARGIN == number:
            yield _chunk(folder, begun.popleft(), period)
    for first in begun:
        if first < number or first == 0 == number:
            yield _chunk(folder, first, min(period, number - first))


def side_by_side(
    work: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """The results of some work, in order; so many run at a time, and no further item is asked for.

    The work is to wait for a program: it runs in threads.
    """
    running: deque = deque()
    pool = ThreadPoolExecutor(processes)
    try:
        for item in items:
            running.append(pool.submit(work, item))
            if len(running) == processes:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def joined(chunks: Iterable[CodedChunk]) -> Iterator[bytes]:
    """The access units of the stream that the streams of all chunks make.

    Raises ProcessError where two chunks have not coded the picture between them alike.
    """
    last = bits = intra = None
    for chunk in chunks:
        units = list(access_units(chunk.stream))
        if last is None:
            bits = order_bits(chunk.stream)
        else:
            replaced = units.pop(0)
            _require_same(last, chunk, adaptation_sets(intra) == adaptation_sets(replaced))
            units = [moved(unit, chunk.first, bits) for unit in units]
        yield from units
        last, intra = chunk, next(filter(is_intra, reversed(units)), b"")


def _require_same(last: CodedChunk, chunk: CodedChunk, same_sets: bool) -> None:
    if chunk.first_picture != last.last_picture or not same_sets:
        raise ProcessError(
            f"expected that the encoder codes the intra picture at frame {chunk.first} alike at "
            "the end of one chunk and at the start of the next, found two pictures: take a "
            "configuration of the test conditions, without rate control"
        )


def _append(path: Path, raw: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(raw)
    except OSError as error:
        raise ProcessError(f"could not write a frame for the encoder: {error}") from None


def _file(folder: Path, first: int) -> Path:
    return folder / f"{first}.yuv"


def _chunk(folder: Path, first: int, more: int) -> Chunk:
    """The chunk of a first frame and so many more."""
    return Chunk(_file(folder, first), first, min(first, MARGIN), 1 + more)
