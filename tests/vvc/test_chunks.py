# SPDX-License-Identifier: BSD-3-Clause
"""Do chunks of a sequence hold the frames they say, and do their streams become one?"""

import threading

import numpy as np
import pytest
from test_vvc import smooth

from vcm_plugin.errors import BitstreamError
from vcm_plugin.process import ProcessError
from vcm_plugin.vvc import VVenC
from vcm_plugin.vvc.chunks import MARGIN, CodedChunk, joined, side_by_side, write_chunks
from vcm_plugin.vvc.stream import all_intra, is_intra, moved, order_bits, raw_nal_units

PAN = smooth(64, 160)
FRAMES = [(np.ascontiguousarray(PAN[:, 2 * n : 2 * n + 64]),) for n in range(9)]


@pytest.fixture(scope="module", params=[False, True], ids=["random access", "low delay"])
def units(request):
    """The access units of nine frames that VVenC coded with inter prediction."""
    return list(VVenC(low_delay=request.param).encode_frames(FRAMES, 32, 32))


@pytest.mark.parametrize("count", [1, 2, 8, 9, 10, 12, 13, 14, 16, 17, 18, 25, 40])
def test_a_chunk_goes_from_one_intra_picture_to_the_next(tmp_path, count):
    period, frames = 8, [bytes([n]) * 3 for n in range(count)]
    chunks = list(write_chunks(tmp_path, frames, period))
    starts = range(0, max(1, count - 1), period)
    assert [chunk.first for chunk in chunks] == list(starts)
    for chunk in chunks:
        last = min(chunk.first + period, count - 1)
        assert chunk.frames == last - chunk.first + 1
        begin, end = max(0, chunk.first - MARGIN), min(last + MARGIN, count - 1)
        assert chunk.skip == chunk.first - begin
        assert chunk.path.read_bytes() == b"".join(frames[begin : end + 1])


def test_a_chunk_is_given_out_before_the_frames_after_it_are_asked_for(tmp_path):
    asked = []
    frames = (asked.append(n) or bytes([n]) for n in range(100))
    chunk = next(write_chunks(tmp_path, frames, 8))
    assert chunk.frames == 9 and len(asked) == 9 + MARGIN


def test_no_frames_no_chunks(tmp_path):
    assert list(write_chunks(tmp_path, [], 8)) == []


def test_work_runs_side_by_side_and_comes_back_in_order():
    meeting = threading.Barrier(3, timeout=30)  # passed only where three run at a time

    def work(n):
        meeting.wait()
        return n * n

    assert list(side_by_side(work, range(6), 3)) == [n * n for n in range(6)]


def test_no_more_work_is_asked_for_than_runs():
    asked = []
    items = (asked.append(n) or n for n in range(9))
    results = side_by_side(lambda n: n, items, 2)
    assert next(results) == 0 and asked == [0, 1]
    assert list(results) == list(range(1, 9))


def test_work_that_fails_says_so():
    def work(n):
        if n == 2:
            raise ProcessError("the encoder failed")
        return n

    with pytest.raises(ProcessError, match="the encoder failed"):
        list(side_by_side(work, range(50), 2))


def test_pictures_that_are_moved_decode_alike(units):
    bits = order_bits(units[0])
    for offset in (5, 96):
        later = [moved(unit, offset, bits) for unit in units]
        assert later != units and [moved(unit, -offset, bits) for unit in later] == units
        assert [moved(unit, 1 << bits, bits) for unit in units] == units
        decoded = VVenC().decode_frames(later)
        for (a,), (b,) in zip(VVenC().decode_frames(units), decoded, strict=True):
            assert np.array_equal(a, b)


def test_every_place_in_the_order_keeps_the_stream_free_of_start_codes(units):
    """The order count may bring zero bytes, which need an escape."""
    bits = order_bits(units[0])
    for offset in range(1 << bits):
        for unit in units:
            later = moved(unit, offset, bits)
            assert [kind for kind, _ in raw_nal_units(later)] == [k for k, _ in raw_nal_units(unit)]
            assert moved(later, -offset, bits) == unit


def test_joined_streams_decode_as_one(units):
    """A first chunk of one picture, as if it were the last of 16: the next one takes it over."""
    bits = order_bits(units[0])
    first = CodedChunk(0, moved(units[0], 16, bits), "picture", "picture")
    second = CodedChunk(16, b"".join(units), "picture", "another")
    stream = list(joined([first, second]))
    assert len(stream) == 9 and stream[0] == first.stream
    for (a,), (b,) in zip(VVenC().decode_frames(units), VVenC().decode_frames(stream), strict=True):
        assert np.array_equal(a, b)


def test_chunks_that_do_not_meet_in_one_picture_are_refused(units):
    first = CodedChunk(0, units[0], "picture", "picture")
    second = CodedChunk(16, b"".join(units), "another picture", "")
    with pytest.raises(ProcessError, match="intra picture at frame 16 alike.*rate control"):
        list(joined([first, second]))


def test_a_stream_without_parameter_sets_has_no_order():
    with pytest.raises(BitstreamError, match="no sequence parameter set"):
        order_bits(b"\0\0\1\0\1\x80\x80")


def test_all_intra_or_not(units):
    assert not all_intra(units) and is_intra(units[0])
    assert all_intra(list(VVenC().encode_frames(FRAMES[:4], 32)))
    # With random access the next intra picture may come second, as VTM has it.
    assert not all_intra([units[0], units[0], units[1]])
