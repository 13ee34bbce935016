# SPDX-License-Identifier: BSD-3-Clause
"""How a sound file is damaged: its bytes at random, or what it says with every CRC made right.

Files of new unit types need nothing here: fields and payloads are found by the syntax tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from vcm_plugin.bitstream import bits
from vcm_plugin.bitstream.syntax import (
    AUXILIARY_PICTURE_PAYLOAD,
    CRC,
    ENHANCEMENT_PAYLOAD,
    HUMAN_PAYLOAD,
    LATENTS_PAYLOAD,
    LEARNED_PICTURE_PAYLOAD,
    MACHINE_PAYLOAD,
    SEQUENCE_HEADER,
    UNIT,
    UNIT_TYPES,
    Element,
)
from vcm_plugin.errors import BitstreamError
from vcm_plugin.vvc.stream import raw_nal_units

PAYLOADS = {  # unit type -> table of its payload; without one it is a VVC stream, or bytes
    "machine": MACHINE_PAYLOAD,
    "human": HUMAN_PAYLOAD,
    "auxiliary_picture": AUXILIARY_PICTURE_PAYLOAD,
    "learned_picture": LEARNED_PICTURE_PAYLOAD,
    "latents": LATENTS_PAYLOAD,
    "base": LATENTS_PAYLOAD,
    "enhancement": ENHANCEMENT_PAYLOAD,
}


def mutated_bytes(data: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """Bytes with flipped bits, a cut, a splice, changed, lost, doubled or zero bytes."""
    out = bytearray(data)
    if not out:
        return bytes(rng.bytes(int(rng.integers(1, 9))))
    kind, start = rng.integers(8), int(rng.integers(len(out)))
    length = int(rng.integers(1, 9))
    if kind == 0:
        for _ in range(rng.integers(1, 4)):
            out[rng.integers(len(out))] ^= 1 << rng.integers(8)
    elif kind == 1:
        del out[start:]
    elif kind == 2:
        other = others[rng.integers(len(others))]
        at = int(rng.integers(min(len(out), len(other)) + 1))
        out[at:] = other[at:]
    elif kind == 3:
        out[start : start + 4] = rng.bytes(4)
    elif kind == 4:
        del out[start : start + length]
    elif kind == 5:
        out[start:start] = out[start : start + length]
    elif kind == 6:
        out[start:start] = rng.bytes(length)
    else:
        end = min(start + length, len(out))
        out[start:end] = bytes(end - start)
    return bytes(out)


def mutated_vvc(stream: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """A VVC stream whose NAL units are lost, doubled, swapped, retyped or damaged inside."""
    nals = [raw for _, raw in raw_nal_units(stream)]
    if not nals or rng.integers(4) == 0:
        return mutated_bytes(stream, rng, others)
    at = int(rng.integers(len(nals)))
    kind = rng.integers(6)
    if kind == 0:
        del nals[at]
    elif kind == 1:
        nals.insert(at, nals[at])
    elif kind == 2:
        other = int(rng.integers(len(nals)))
        nals[at], nals[other] = nals[other], nals[at]
    elif kind == 3:  # the type is in the second byte of the header
        start = nals[at].index(b"\0\0\1") + 4
        nals[at] = nals[at][:start] + rng.bytes(1) + nals[at][start + 1 :]
    elif kind == 4:
        foreign = [raw for _, raw in raw_nal_units(others[rng.integers(len(others))])]
        nals[at] = foreign[rng.integers(len(foreign))] if foreign else b""
    else:  # short units, the parameter sets, are hit as often as the long one of the picture
        nals[at] = mutated_bytes(nals[at], rng, nals)
    return b"".join(nals)


def sealed(data: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """A file that says something else, with all CRCs and lengths right."""
    header, units = taken_apart(data)
    _, foreign = taken_apart(others[rng.integers(len(others))])
    for _ in range(rng.integers(1, 3)):
        kind = rng.integers(8)
        if kind == 0:
            header = other_values(SEQUENCE_HEADER, header, rng)
        elif kind == 1:
            units = other_units(units, foreign, rng)
        elif units:
            at = int(rng.integers(len(units)))
            units[at] = units[at] | {"payload": other_payload(units[at], foreign, rng)}
    parts = [_written(SEQUENCE_HEADER, header)]
    parts += [_written(UNIT, x | {"length": len(x["payload"])}) for x in units]
    return b"".join(parts)


def taken_apart(data: bytes) -> tuple[dict, list[dict]]:
    """The values of the sequence header and of each unit of a sound file."""
    header, offset = bits.read_elements(SEQUENCE_HEADER, data, 0, "")
    units = []
    while offset < len(data):
        values, offset = bits.read_elements(UNIT, data, offset, "")
        units.append(values)
    return header, units


def other_units(units: list[dict], foreign: list[dict], rng: np.random.Generator) -> list[dict]:
    """Units in another order, number, of another type or frame."""
    units = [dict(unit) for unit in units]
    if not units:
        return units
    at, kind = int(rng.integers(len(units))), rng.integers(6)
    if kind == 0:
        del units[at]
    elif kind == 1:
        units.insert(at, units[at])
    elif kind == 2:
        other = int(rng.integers(len(units)))
        units[at], units[other] = units[other], units[at]
    elif kind == 3:
        units[at]["unit_type"] = int(rng.choice(list(UNIT_TYPES)))
    elif kind == 4:
        units[at]["frame"] = int(rng.choice([0, 1, 2, 255, (1 << 24) - 1]))
    else:
        units[at] = dict(foreign[rng.integers(len(foreign))])
    return units


def other_payload(unit: dict, foreign: list[dict], rng: np.random.Generator) -> bytes:
    """Another payload: other fields, damaged bytes, or that of another file."""
    payload = unit["payload"]
    table = PAYLOADS.get(UNIT_TYPES[unit["unit_type"]])
    pool = [x["payload"] for x in foreign]
    if table is None:
        return mutated_vvc(payload, rng, pool)
    kind = rng.integers(4)
    if kind == 0:
        return mutated_bytes(payload, rng, pool)
    try:
        values, _ = bits.read_elements(table, payload, 0, "")
    except BitstreamError:  # a second mutation of the same unit
        return mutated_bytes(payload, rng, pool)
    if kind == 1:
        return _written(table, other_values(table, values, rng))
    change = mutated_vvc if values["data"].startswith(b"\0\0") else mutated_bytes
    return _written(table, values | {"data": change(values["data"], rng, [values["data"]])})


def other_values(table, values: dict, rng: np.random.Generator) -> dict:
    """The values with one field changed, and whatever that field makes necessary."""
    elements = [x for x in table if not x.descriptor.startswith("b(") and x is not CRC]
    changed = elements[rng.integers(len(elements))]
    values = dict(values)
    if changed.times:
        values[changed.times] = int(rng.integers(1, 8))
    else:
        values[changed.name] = _drawn(changed, values.get(changed.name), rng)
    for element in table:
        if element.times:
            found = list(values.get(element.name, ()))[: values[element.times]]
            missing = values[element.times] - len(found)
            values[element.name] = found + [_drawn(element, None, rng) for _ in range(missing)]
        elif element.name not in values and element is not CRC:
            values[element.name] = (
                b"" if element.descriptor[0] == "b" else _drawn(element, None, rng)
            )
    return values


def _drawn(element: Element, value, rng: np.random.Generator):
    """A value that the syntax allows: near the old one, at a limit, or any."""
    kind, size = element.descriptor[:-1].split("(")
    if kind == "float":
        drawn = rng.choice([0.0, -1.0, 1e-7, 3.5, 60000.0, (value or 1.0) * 1.25, rng.normal()])
        return bits.round_float(float(min(max(drawn, -65504.0), 65504.0)), int(size))
    if element.codes is not None:
        return int(rng.choice(list(element.codes)))
    high = min(element.high, (1 << int(size)) - 1) if kind == "u" else element.high
    near = element.low if value is None or isinstance(value, list) else value
    choices = [
        near + int(rng.integers(-2, 3)), near * 2, near ^ 1 << int(rng.integers(8)),
        element.low, high, int(2 ** rng.uniform(0, high.bit_length())),
    ]  # fmt: skip
    return int(min(max(choices[rng.integers(len(choices))], element.low), high))


def _written(table, values: dict) -> bytes:
    """The bytes of a table, also with values that its writer refuses: then with none at all."""
    try:
        return bits.write_elements(table, values)
    except (BitstreamError, KeyError):
        return b""


def refused_and_reached(
    files: Iterable[bytes], decode_latents: Callable, words: str
) -> tuple[int, int]:
    """How many damaged files are refused, and how many of these by the entropy decoder or by the
    checksum of what it made (`words`); all others must decode to the checksum that they state."""
    refused = reached = 0
    for data in files:
        try:
            layer = decode_latents(data)
        except BitstreamError as error:
            refused += 1
            reached += "entropy-coded" in str(error) or words in str(error)
        else:
            assert layer.latents.checksum() == layer.payload.checksum
    return refused, reached
