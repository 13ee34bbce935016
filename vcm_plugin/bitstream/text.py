# SPDX-License-Identifier: BSD-3-Clause
"""What a file holds, and what the syntax is, in words: `vcm-plugin info`, the specification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vcm_plugin.bitstream.file import Unit, read
from vcm_plugin.bitstream.payloads import (
    AuxiliaryPicturePayload,
    EnhancementPayload,
    FctmLikePayload,
    HumanPayload,
    LatentsPayload,
    LearnedPicturePayload,
    MachinePayload,
)
from vcm_plugin.bitstream.syntax import (
    NO_SPLIT,
    SYNTAX,
    VERSION,
    Element,
    accepted,
)


def describe(data: bytes) -> list[str]:
    """What a file holds, in words: one line for each fact."""
    stream = read(data)
    header = stream.header
    size = " x ".join(str(n) for n in header.source_size)
    net = " x ".join(str(n) for n in header.input_size)
    split = f", split point {header.split_point}"
    picture = header.split_point == NO_SPLIT
    lines = [
        f".fcm version {VERSION}, profile {header.profile}{'' if picture else split}",
        f"source {size}{'' if picture else f', network input {net}'} (height x width)",
    ]
    if header.frame_rate:
        numerator, denominator = header.frame_rate
        lines.append(f"{header.frames} frames at {numerator / denominator:g} per second")
    else:
        lines.append("one picture")
    for name, (count, height, width) in header.shapes(0).items():
        channels = count or "channels of the weights"
        lines.append(f"layer {name}: {channels} x {height} x {width} (channels x height x width)")
    for name in ("weights_id", "detector_id"):
        if getattr(header, name) is not None:
            lines.append(f"{name.replace('_', ' ')} {getattr(header, name):08x}")
    if header.value_range:
        lines.append("samples 0 .. 1023 stand for {:g} .. {:g}".format(*header.value_range))
    lines += _describe_order(stream.units)
    if header.profile == "fctm_like":
        lines += [_describe_channels(unit) for unit in stream.units]
    else:
        lines += [_describe_unit(unit) for unit in stream.units]
    lines.append(f"machine bits {8 * stream.machine_bytes}, total bits {8 * len(data)}")
    return lines


def _describe_order(units: Sequence[Unit]) -> list[str]:
    """In which order frames are coded and from which others; nothing where all are intra."""
    intra = [unit.frame for unit in units if unit.type == "machine"]
    inter = sum(unit.type == "inter" for unit in units)
    if not inter:
        return []
    shown = ", ".join(map(str, intra[:8])) + (", ..." if len(intra) > 8 else "")
    return [
        f"{len(intra)} intra frames ({shown}), {inter} inter frames",
        "frames are coded in the order in which they are shown, an inter frame from the two before "
        "it: structural delay 0 frames",
    ]


def _describe_unit(unit: Unit) -> str:
    line = f"{unit.type} unit of frame {unit.frame}: {len(unit.payload)} bytes"
    if unit.type == "machine":
        payload = MachinePayload.from_bytes(unit.payload)
        low, high = payload.value_range
        return (
            f"{line}, rate point {payload.rate_point:.4g}, range {low:g} .. {high:g}, "
            f"checksum {payload.checksum:08x}, {len(payload.data)} bytes of latents"
        )
    if unit.type == "inter":
        return f"{line} of latents, check {unit.check:08x}"
    if unit.type == "human":
        payload = HumanPayload.from_bytes(unit.payload)
        return (
            f"{line}, step {payload.step:.4g}, weights {payload.weights_id:08x}, seed "
            f"{payload.seed}, {payload.steps} sampling steps from {payload.start}, "
            f"checksum {payload.checksum:08x}, {len(payload.data)} bytes of latents"
        )
    if unit.type in ("auxiliary_picture", "learned_picture"):
        return f"{line}, {_describe_picture(unit)}"
    if unit.type in ("latents", "base"):
        payload = LatentsPayload.from_bytes(unit.payload)
        return (
            f"{line}, QP {payload.qp}, checksum {payload.checksum:08x}, {len(payload.data)} bytes "
            "of latents"
        )
    if unit.type == "enhancement":
        payload = EnhancementPayload.from_bytes(unit.payload)
        return f"{line}, checksum {payload.checksum:08x}, {len(payload.data)} bytes of latents"
    return line


def _describe_picture(unit: Unit) -> str:
    """How the picture of a unit is coded and restored."""
    learned = unit.type == "learned_picture"
    kind = LearnedPicturePayload if learned else AuxiliaryPicturePayload
    payload = kind.from_bytes(unit.payload)
    blocks = "" if payload.block_map is None else " in some blocks"
    restored = (
        f"restored with strength {payload.strength} of 12{blocks} by the weights "
        f"{payload.weights_id:04x}"
    )
    if learned:
        return (
            f"QP {payload.qp} by the weights {payload.picture_id:04x}, {restored}, checksum "
            f"{payload.checksum:08x}, {len(payload.data)} bytes of latents"
        )
    return (
        f"QP {payload.qp} at {payload.percent} percent of the size, {restored}, "
        f"{len(payload.data)} bytes of VVC"
    )


def _describe_channels(unit: Unit) -> str:
    payload = FctmLikePayload.from_bytes(unit.payload)
    order = "by importance" if payload.ordered else "in the order of the networks"
    sent = "" if payload.statistics is None else ", mean and spread of each layer"
    return (
        f"{unit.type} unit of frame {unit.frame}: {len(unit.payload)} bytes, {payload.channels} "
        f"channels {order}, {payload.whole} of them at full size{sent}, {len(payload.data)} bytes "
        "of VVC"
    )


DESCRIPTORS = """\
Descriptors: u(n): n-bit unsigned integer, most significant bit first. leb128(v): unsigned LEB128, 7 bits in a byte,
least significant group first, top bit set in all bytes but the last, shortest form, at most 5 bytes. float(n): IEEE 754
float of n bits, big-endian, finite. b(n): n bytes; b(v): the bytes up to the end of the payload."""  # noqa: E501


def syntax() -> str:
    """The syntax tables in Markdown, made from the tables that the writer and reader follow."""
    parts = [DESCRIPTORS]
    for title, elements in SYNTAX.items():
        rows = "\n".join(f"| {' | '.join(syntax_row(element))} |" for element in elements)
        parts.append(
            f"## {title}\n\n| element | descriptor | present | meaning |\n"
            f"| --- | --- | --- | --- |\n{rows}"
        )
    return "\n\n".join(parts)


def syntax_row(element: Element) -> tuple[str, str, str, str]:
    """One row of a syntax table: element, descriptor, when it is present, what it means."""
    conditions = (
        f"{name} = {' or '.join(map(str, accepted(value)))}" for name, value in element.when
    )
    present = ", ".join(conditions) or "always"
    if element.times:
        present = f"{element.times} times"
    meaning = element.meaning
    if element.codes:
        codes = ", ".join(f"{code}: {name}" for code, name in element.codes.items())
        meaning = f"{meaning}; {codes}" if meaning else codes
    if element.low or element.high != (1 << 32) - 1:
        limits = f"{element.low} .. {element.high}"
        meaning = f"{meaning}; {limits}" if meaning else limits
    return element.name, element.descriptor, present, meaning


RULES = """\
A file is a sequence_header and then units up to its end. Profile diff_fchm: one machine unit for
every frame, in the order of the frames, or from the second frame on one inter unit in its place,
then either nothing, or one human unit for every frame in the same order, or one auxiliary_picture
unit for every frame likewise, or one learned_picture unit for every frame. A file may be cut after
the last machine or inter unit: what is left is a valid file.
A machine unit is an intra frame. An inter unit is decoded from the latents of the two frames
before it (after an intra frame, from that one alone), with the range and the scale of the last
intra frame; so decoding can begin at every intra frame, and coding order is the order of the
frames. An inter unit has no range, no number and no CRC-32 of its own: its check is of the unit and
of what it decodes to. One without a payload has the latents of the frame before it.
Profiles vvc_feature and msfc: one private unit for every frame, which holds a VVC byte stream
(Annex B) of the packed 10-bit picture of that frame: the layers (vvc_feature), or one layer of
reduced channels on the grid of the last layer (msfc; weights_id says how many there are, and which
network restores the layers). Of a sequence (vvc_feature), the payloads one after the other are one
VVC byte stream: unit n holds its n-th access unit in decoding order. Where unit 1 is an intra
picture all are, so that unit n is frame n, which is decoded with the parameter sets of unit 0.
Profile fctm_like: one private unit for every frame, whose payload the last table shows; all frames
of a file have the same channels and flags. In a sequence with inter prediction, too, frames are
coded in the order in which they are shown: unit n holds the n-th access unit and frame n.
Profile picture_learned: one latents unit, of a picture; its split point is none, its network input
has the size of the source. Profiles latent_scalable and multi_head have the split point fpn and a
network input of the source's size: features and the picture are made of the same latents.
multi_head has one latents unit; latent_scalable one base unit, which the features are made of, then
nothing or one enhancement unit: the picture needs both. Its file may be cut after the base unit.
Machine bits are the bytes up to the end of the last unit of the first type; total bits are the size
of the file. A reader refuses a value that is not in the tables, a length beyond the end of the
file, a wrong CRC-32, a float that is not finite and a byte after the last unit."""


def document() -> str:
    """The text of docs/bitstream.md."""
    return (
        f"# The .fcm bitstream, version {VERSION}\n\n{RULES}\n\n{syntax()}\n\n"
        "This page is made by `vcm_plugin.bitstream.document()`; a test holds that it agrees.\n"
    )


def decoding() -> str:
    """The text of docs/decoding.md: what units decode to. It lies beside this module."""
    return Path(__file__).with_name("decoding.md").read_text(encoding="utf-8")
