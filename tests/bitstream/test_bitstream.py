# SPDX-License-Identifier: BSD-3-Clause
"""Does an .fcm file come back as it was written, and is every other file refused in one line?"""

import math
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from vcm_plugin import bitstream
from vcm_plugin.bitstream import (
    Header,
    HumanPayload,
    MachinePayload,
    Unit,
    compact_shapes,
    describe,
    machine_bits,
    read,
    read_header,
    read_unit,
    round_float,
    write,
    write_header,
    write_unit,
)
from vcm_plugin.errors import BitstreamError
from vcm_plugin.split_points import SPLIT_POINTS

PICTURE = Header("diff_fchm", "fpn", (427, 640), (800, 1199), weights_id=0x1234ABCD)
VIDEO = replace(PICTURE, frames=3, frame_rate=(30000, 1001), detector_id=7)
ANCHOR = Header(
    "vvc_feature", "c2", (256, 320), (250, 310), (63, 78), (64, 128, 256, 512),
    value_range=(round_float(-23.0919, 32), round_float(20.2466, 32)), exact_range=True,
)  # fmt: skip
REDUCED = Header(
    "msfc", "fpn", (256, 320), (256, 320), value_range=(-4.0, 5.5), weights_id=0x1234ABCD
)
MACHINE = MachinePayload((-3.5, 4.0), 0.5, 0xDEADBEEF, b"latents")
HUMAN = HumanPayload(
    weights_id=7, step=0.5, seed=2**32 - 1, steps=5, start=300, checksum=1, data=b"more latents"
)


def units(frames: int, human: bool = True) -> list[Unit]:
    machine = [Unit("machine", i, MACHINE.to_bytes()) for i in range(frames)]
    return machine + [Unit("human", i, HUMAN.to_bytes()) for i in range(frames) if human]


@pytest.mark.parametrize("header", [PICTURE, VIDEO, ANCHOR, REDUCED])
def test_header_round_trip(header):
    data = write_header(header)
    assert read_header(data + b"units") == (header, len(data))


@pytest.mark.parametrize(
    "header, content",
    [
        (PICTURE, units(1, human=False)),
        (PICTURE, units(1)),
        (VIDEO, units(3)),
        (ANCHOR, [Unit("private", 0, b"")]),
        (REDUCED, [Unit("private", 0, b"VVC")]),
    ],
)
def test_file_round_trip(header, content):
    stream = read(write(header, content))
    assert stream.header == header and list(stream.units) == content


def test_payload_round_trips():
    assert MachinePayload.from_bytes(MACHINE.to_bytes()) == MACHINE
    assert HumanPayload.from_bytes(HUMAN.to_bytes()) == HUMAN


def test_bytes_of_a_picture_are_as_the_specification_says():
    header = bytes.fromhex("46434d 01 11 c0 ab03 8005 a006 af09 1234abcd")
    unit = bytes.fromhex("01 00 11 c300 4400 3800 deadbeef") + b"latents"
    expected = b"".join(part + struct.pack(">I", zlib.crc32(part)) for part in (header, unit))
    assert write(PICTURE, units(1, human=False)) == expected


def test_a_single_picture_costs_at_most_48_bytes():
    payload = replace(MACHINE, data=bytes(20000))
    data = write(PICTURE, [Unit("machine", 0, payload.to_bytes())])
    assert len(data) - 20000 == 41


def test_machine_bits_end_before_the_human_units():
    whole = write(VIDEO, units(3))
    machine = write(VIDEO, units(3, human=False))
    assert machine_bits(whole) == machine_bits(machine) == 8 * len(machine)
    assert whole.startswith(machine) and machine != whole


def test_cut_anywhere_else_is_refused():
    whole = write(VIDEO, units(3))
    machine = len(write(VIDEO, units(3, human=False)))
    for size in range(len(whole)):
        if size == machine:
            assert read(whole[:size]).machine_bytes == size
        else:
            with pytest.raises(BitstreamError) as caught:
                read(whole[:size])
            assert "\n" not in str(caught.value)


def test_every_flipped_bit_is_refused():
    whole = write(PICTURE, units(1))
    for bit in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            read(bytes(broken))


def test_one_frame_can_be_reached_without_reading_the_others():
    data = write(VIDEO, units(3))
    offset = read_header(data)[1] + 2 * len(write_unit(units(3)[0]))
    unit, _ = read_unit(data, offset)
    assert (unit.type, unit.frame) == ("machine", 2)


def refusal(data: bytes) -> str:
    with pytest.raises(BitstreamError) as caught:
        read(data)
    return str(caught.value)


def with_crc(part: bytes) -> bytes:
    return part + struct.pack(">I", zlib.crc32(part))


def test_refusals_say_what_was_expected_and_found():
    whole = write(PICTURE, units(1, human=False))
    header = write_header(PICTURE)
    assert "46 43 4d (FCM), found 89 50 4e" in refusal(b"\x89PNG\r\n")
    assert "an empty file" in refusal(b"")
    assert "expected .fcm version 1, found version 2" in refusal(b"FCM\2" + whole[4:])
    assert "unknown profile" in refusal(with_crc(b"FCM\1\xf1" + header[5:-4]))
    assert "payload needs 17 bytes" in refusal(whole[:-6]) and "found 15" in refusal(whole[:-6])
    assert "expected the machine unit of frame 0" in refusal(header)
    assert "found 1 more bytes" in refusal(write(PICTURE, units(1)) + b"\0")
    assert "unknown unit_type" in refusal(header + with_crc(b"\x0a\0\1x"))
    assert "shortest form" in refusal(header + b"\x01\x80\x00")
    assert "more than 5 bytes" in refusal(header + b"\x01" + b"\xff" * 9)
    human_first = header + write_unit(units(1)[1])
    assert "machine unit of frame 0 at byte 22, found a human unit" in refusal(human_first)


def test_a_huge_length_allocates_nothing():
    header = write_header(PICTURE)
    message = refusal(header + b"\x01\x00" + b"\xff\xff\xff\xff\x0f" + bytes(100))
    assert "payload needs 4294967295 bytes" in message and "found 100" in message


def test_huge_layers_are_refused():
    anchor = {"value_range": (0.0, 1.0), "channels": (65535,)}
    with pytest.raises(BitstreamError, match="at most"):
        Header("vvc_feature", "r2", (64, 64), (60000, 60000), **anchor)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"profile": "other"}, "one of the profiles"),
        ({"split_point": "p7"}, "split points"),
        ({"weights_id": None}, "needs a weights id"),
        ({"value_range": (0.0, 1.0)}, "no value range"),
        ({"channels": (1, 2)}, "channel counts"),
        ({"frames": 2}, "frame rate"),
        ({"grid": (10, 10)}, "does not cover"),
    ],
)
def test_headers_that_make_no_sense(change, message):
    with pytest.raises(BitstreamError, match=message):
        replace(PICTURE, **change)
    if "profile" not in change and "value_range" not in change:
        with pytest.raises(BitstreamError, match=message):
            replace(REDUCED, **change)


def test_a_reduced_layer_needs_its_range():
    with pytest.raises(BitstreamError, match="msfc needs a value range"):
        replace(REDUCED, value_range=None)
    with pytest.raises(BitstreamError, match="low < high"):
        replace(REDUCED, value_range=(1.0, 1.0))


def test_the_writer_refuses_what_the_reader_would():
    with pytest.raises(BitstreamError, match="expected 1 machine units"):
        write(PICTURE, units(1)[1:])
    with pytest.raises(BitstreamError, match="no 16-bit float; use round_float"):
        replace(MACHINE, rate_point=0.3).to_bytes()
    with pytest.raises(BitstreamError, match="low < high"):
        replace(MACHINE, value_range=(1.0, 1.0)).to_bytes()
    with pytest.raises(BitstreamError, match="steps from 1 to 50"):
        replace(HUMAN, steps=0).to_bytes()
    with pytest.raises(BitstreamError, match="checksum from 0 to 4294967295"):
        replace(MACHINE, checksum=-1).to_bytes()


def test_a_float_that_is_not_finite_is_refused():
    payload = bytearray(MACHINE.to_bytes())
    payload[2:4] = b"\x7c\x00"
    with pytest.raises(BitstreamError, match="finite range_high"):
        MachinePayload.from_bytes(bytes(payload))


def test_rounding_to_floats_of_the_bitstream():
    for value in (-23.0919, 20.2466, 1e-9, -1e-9, 0.0, 1.0, 3.14159e-5, 65504.0, -777.77):
        down, up = (round_float(value, towards=side) for side in ("down", "up"))
        assert down <= value <= up
        assert round_float(value) in (down, up)
        assert round_float(down) == down and round_float(up) == up
        assert up - down <= max(abs(value) * 2**-10, 2**-24)
    assert round_float(0.1, 32) == struct.unpack("f", struct.pack("f", 0.1))[0]
    for value in (70000.0, math.inf, math.nan):
        with pytest.raises(BitstreamError, match="does not fit a 16-bit float"):
            round_float(value)


def test_shapes_are_sent_only_where_they_do_not_follow():
    regular = {"p2": (256, 200, 304), "p3": (256, 100, 152), "p4": (256, 50, 76),
               "p5": (256, 25, 38)}  # fmt: skip
    assert compact_shapes(regular, (800, 1199)) == (None, (256,))
    assert PICTURE.shapes(256) == regular
    odd = {"c2": (64, 63, 78), "c3": (128, 32, 39), "c4": (256, 16, 20), "c5": (512, 8, 10)}
    assert compact_shapes(odd, (250, 310)) == (ANCHOR.grid, ANCHOR.channels)
    assert ANCHOR.shapes() == odd
    with pytest.raises(BitstreamError, match="no split point"):
        compact_shapes({"x": (1, 1, 1)}, (1, 1))


def test_layers_agree_with_the_feature_pyramid():
    features = pytest.importorskip("vcm_plugin.features")
    assert SPLIT_POINTS == features.SPLIT_POINTS


def test_files_in_words():
    text = "\n".join(describe(write(VIDEO, units(3))))
    assert "profile diff_fchm" in text and "3 frames at 29.97 per second" in text
    assert "rate point 0.5" in text and "seed 4294967295" in text
    text = "\n".join(describe(write(ANCHOR, [Unit("private", 0, bytes(99))])))
    assert "one picture" in text and "layer c5: 512 x 8 x 10" in text
    assert "-23.0919 .. 20.2466" in text and "private unit of frame 0: 99 bytes" in text


def test_the_page_and_the_docstring_are_those_of_the_tables():
    page = Path(__file__).parents[2] / "docs/bitstream.md"
    assert page.read_text(encoding="utf-8") == bitstream.document(), (
        "write the result of vcm_plugin.bitstream.document() to docs/bitstream.md"
    )
    assert bitstream.syntax() in bitstream.__doc__


def test_no_torch_is_needed():
    code = "import sys, vcm_plugin.bitstream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
