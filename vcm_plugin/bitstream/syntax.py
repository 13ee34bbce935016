# SPDX-License-Identifier: BSD-3-Clause
"""Which elements follow which in an .fcm file? The one table: reader, writer and page follow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vcm_plugin.errors import BitstreamError
from vcm_plugin.split_points import INPUT_PADDING, SPLIT_POINTS

VERSION = 1
MAX_INPUT_PIXELS = 1 << 22  # of the padded network input; bounds what a file can make us allocate
MAGIC = int.from_bytes(b"FCM", "big")
PROFILES = {
    1: "diff_fchm",
    2: "vvc_feature",
    3: "msfc",
    4: "picture_learned",
    5: "latent_scalable",
    6: "multi_head",
    7: "fctm_like",
}
PICTURES = ("picture_learned",)  # profiles of pictures alone: no split point, no layers
PACKED = (2, 3, 7)  # profiles whose units are VVC streams of 10-bit pictures
UNIT_TYPES = {1: "machine", 2: "human", 3: "private", 4: "auxiliary_picture", 5: "inter",
              6: "latents", 7: "base", 8: "enhancement", 9: "learned_picture"}  # fmt: skip
PERCENTS = {0: "100 percent", 1: "75 percent", 2: "50 percent", 3: "25 percent"}
SAMPLERS = {0: "deterministic (no noise added after the start)"}
# Unit types of each profile, in file order; every one comes once per frame, frames in order. Of
# each group a file has one type. Only the first must be there: a file may end after the last unit
# of either group.
UNITS_OF_PROFILE = {
    "diff_fchm": (("machine",), ("human", "auxiliary_picture", "learned_picture")),
    "vvc_feature": (("private",),),
    "msfc": (("private",),),
    "picture_learned": (("latents",),),
    "latent_scalable": (("base",), ("enhancement",)),
    "multi_head": (("latents",),),
    "fctm_like": (("private",),),
}
# What may stand in the place of a first type from the second frame on.
AFTER_OTHERS = {"machine": ("machine", "inter")}
NO_SPLIT = "none"
SPLIT_CODES = {0: NO_SPLIT} | dict(enumerate(SPLIT_POINTS, start=1))
MAX_SAMPLES = 1 << 30  # over all layers of a frame


@dataclass(frozen=True)
class Element:
    """One row of the syntax: drives the writer, the reader and the documentation."""

    name: str
    descriptor: str
    meaning: str
    low: int = 0
    high: int = (1 << 32) - 1
    codes: Mapping[int, str] | None = None  # the values that are known
    # There only where each of these has this value, or one of these.
    when: tuple[tuple[str, int | tuple[int, ...]], ...] = ()
    times: str = ""  # the element that says how often this one comes


SIZE = (1, 65535)
CRC = Element("crc_32", "u(32)", "CRC-32 (zlib) of every byte of this structure before it")
SEQUENCE_HEADER = (
    Element("magic", "u(24)", "0x46434D, the letters FCM"),
    Element("version", "u(8)", f"{VERSION}"),
    Element("profile", "u(4)", "what the units hold", codes=PROFILES),
    Element("split_point", "u(4)", "names the layers and their strides; none: a picture",
            codes=SPLIT_CODES),
    Element("picture_flag", "u(1)", "1: one frame, without a rate"),
    Element("weights_flag", "u(1)", "1: weights_id follows"),
    Element("detector_flag", "u(1)", "1: detector_id follows; 0: it follows from weights_id"),
    Element("grid_flag", "u(1)", "1: the grid of the first layer follows; 0: it is that of the "
            f"network input, padded to multiples of {INPUT_PADDING}, at the layer's stride"),
    Element("channel_counts", "u(3)", "0: the channels follow from weights_id; 1: one count for "
            "all layers; else one count per layer", high=7),
    Element("exact_range_flag", "u(1)", "1: the range has 32-bit floats, 0: 16-bit floats"),
    Element("source_height", "leb128(v)", "of the picture, in pixels", *SIZE),
    Element("source_width", "leb128(v)", "of the picture, in pixels", *SIZE),
    Element("input_height", "leb128(v)", "of the network input, before its padding", *SIZE),
    Element("input_width", "leb128(v)", "of the network input, before its padding", *SIZE),
    Element("frame_count", "leb128(v)", "", 1, 1 << 24, when=(("picture_flag", 0),)),
    Element("rate_numerator", "leb128(v)", "frames per rate_denominator seconds", 1, 1 << 24,
            when=(("picture_flag", 0),)),
    Element("rate_denominator", "leb128(v)", "in seconds", 1, 1 << 24, when=(("picture_flag", 0),)),
    Element("weights_id", "u(32)", "first 32 bits of the SHA-256 of the codec's weights",
            when=(("weights_flag", 1),)),
    Element("detector_id", "u(32)", "first 32 bits of the SHA-256 of the detector's weights",
            when=(("detector_flag", 1),)),
    Element("grid_height", "leb128(v)", "of the first layer; a later layer has ceil(grid * first "
            "stride / its stride)", *SIZE, when=(("grid_flag", 1),)),
    Element("grid_width", "leb128(v)", "of the first layer", *SIZE, when=(("grid_flag", 1),)),
    Element("layer_channels", "leb128(v)", "channels of a layer", *SIZE, times="channel_counts"),
    Element("range_low", "float(16)", "value of sample 0",
            when=(("profile", PACKED), ("exact_range_flag", 0))),
    Element("range_high", "float(16)", "value of sample 1023",
            when=(("profile", PACKED), ("exact_range_flag", 0))),
    Element("exact_range_low", "float(32)", "value of sample 0",
            when=(("profile", PACKED), ("exact_range_flag", 1))),
    Element("exact_range_high", "float(32)", "value of sample 1023",
            when=(("profile", PACKED), ("exact_range_flag", 1))),
    CRC,
)  # fmt: skip
NUMBERED = (("unit_type", (1, 2, 3, 4, 6, 7, 8, 9)),)
SHORT = (("unit_type", 5),)
UNIT = (
    Element("unit_type", "u(8)", "", codes=UNIT_TYPES),
    Element("frame", "leb128(v)", "number of the frame, from 0; of an inter unit one more than "
            "that of the unit before it", high=(1 << 24) - 1, when=NUMBERED),
    Element("length", "leb128(v)", "of the payload, in bytes"),
    Element("payload", "b(length)", "as the next tables say, by unit type; that of an inter unit "
            "is a shift of scales (8 bits) and entropy-coded latents, or nothing"),
    replace(CRC, when=NUMBERED),
    Element("check", "u(32)", "CRC-32 of the id of the inter weights (32 bits), the frame's number "
            "(32 bits), every byte of this structure before it, and the decoded integer latents",
            when=SHORT),
)  # fmt: skip
UNIT_HEAD, PAYLOAD = UNIT[:3], UNIT[3]
CRC_BYTES = 4
MACHINE_PAYLOAD = (
    Element("range_low", "float(16)", "IVN: feature value that is normalised to 0"),
    Element("range_high", "float(16)", "IVN: feature value that is normalised to 1"),
    Element("rate_point", "float(16)", "scale s of the range; only the human layer uses it"),
    Element("checksum", "u(32)", "CRC-32 of the decoded integer latents"),
    Element("data", "b(v)", "entropy-coded latents"),
)
HUMAN_PAYLOAD = (
    Element("weights_id", "u(32)", "first 32 bits of the SHA-256 of the human layer's weights"),
    Element("step", "float(16)", "q, the step of the quantiser of the auxiliary latents"),
    Element("seed", "u(32)", "of the CPU generator that draws the noise"),
    Element("sampler", "u(8)", "", codes=SAMPLERS),
    Element("steps", "u(8)", "of the sampler", 1, 50),
    Element("start", "u(16)", "time step of the first step", 1, 999),
    Element("checksum", "u(32)", "CRC-32 of the decoded integer latents"),
    Element("data", "b(v)", "entropy-coded latents"),
)
RESTORER_ID = Element(
    "weights_id", "u(16)", "first 16 bits of the SHA-256 of the restorer's weights"
)
STRENGTH = (
    Element("strength", "u(4)", "of the restoration, in 1/12; 0: the decoded picture as it is"),
    Element("map_flag", "u(1)", "1: a map of the blocks that are restored follows"),
)
MAP = (
    Element("map_bytes", "leb128(v)", "of the map", 1, 1 << 16, when=(("map_flag", 1),)),
    Element("map", "b(map_bytes)", "a bit for each block of 64 x 64 pixels, row by row; "
            "1: restored; filled up with 0", when=(("map_flag", 1),)),
)  # fmt: skip
QP_OF_LATENTS = Element(
    "qp", "u(8)", "the quantiser's step is 2 ^ ((qp - 4) / 6) levels of 8 bits", high=63
)
AUXILIARY_PICTURE_PAYLOAD = (
    RESTORER_ID,
    Element("size", "u(2)", "of the coded picture beside the source, in height and width",
            codes=PERCENTS),
    Element("qp", "u(6)", "of the coded picture"),
    *STRENGTH,
    Element("reserved", "u(3)", "0", high=0),
    *MAP,
    Element("data", "b(v)", "VVC byte stream (Annex B) of one 10-bit picture in 4:2:0"),
)  # fmt: skip
LEARNED_PICTURE_PAYLOAD = (
    RESTORER_ID,
    Element("picture_id", "u(16)", "first 16 bits of the SHA-256 of the picture codec's weights"),
    QP_OF_LATENTS,
    *STRENGTH,
    Element("reserved", "u(3)", "0", high=0),
    *MAP,
    Element("checksum", "u(32)", "CRC-32 of the decoded integer latents of the picture"),
    Element("data", "b(v)", "entropy-coded latents of the picture"),
)
LATENTS_PAYLOAD = (
    QP_OF_LATENTS,
    Element("checksum", "u(32)", "CRC-32 of the decoded integer latents"),
    Element("data", "b(v)", "entropy-coded latents"),
)
ENHANCEMENT_PAYLOAD = (
    Element("checksum", "u(32)", "CRC-32 of the decoded integer latents of both units"),
    Element("data", "b(v)", "entropy-coded latents, those that follow the ones of the base unit"),
)
FCTM_LIKE_PAYLOAD = (
    Element("channels", "u(8)", "that are sent", 1, 255),
    Element("whole_channels", "u(8)", "of these, the first ones, packed at full size; the others "
            "at half", high=255),
    Element("ordered_flag", "u(1)", "1: channels come in the order of the weights file; 0: as the "
            "networks have them"),
    Element("reserved", "u(3)", "0", high=0),
    Element("statistics", "u(4)", "how many follow: none, or two for each layer", high=8),
    Element("statistic", "u(8)", "mean of a layer's Z-scores in 1/16, or the logarithm of their "
            "spread to the base 2 in 1/16; plus 128", high=255, times="statistics"),
    Element("data", "b(v)", "VVC byte stream (Annex B) of one 10-bit picture in 4:0:0, of a "
            "sequence one access unit of it"),
)  # fmt: skip
SYNTAX = {
    "sequence_header": SEQUENCE_HEADER,
    "unit": UNIT,
    "payload of a machine unit": MACHINE_PAYLOAD,
    "payload of a human unit": HUMAN_PAYLOAD,
    "payload of an auxiliary_picture unit": AUXILIARY_PICTURE_PAYLOAD,
    "payload of a learned_picture unit": LEARNED_PICTURE_PAYLOAD,
    "payload of a latents unit, and of a base unit": LATENTS_PAYLOAD,
    "payload of an enhancement unit": ENHANCEMENT_PAYLOAD,
    "payload of a private unit of profile fctm_like": FCTM_LIKE_PAYLOAD,
}


def is_present(element: Element, values: Mapping) -> bool:
    """Whether an element is in a structure whose earlier elements have these values."""
    return all(values[name] in accepted(value) for name, value in element.when)


def accepted(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """The values that a condition of an element names."""
    return value if isinstance(value, tuple) else (value,)


def code_of(codes: Mapping[int, str], name: str) -> int:
    """The code of a name of a table; raises BitstreamError where the table has none."""
    for code, known in codes.items():
        if known == name:
            return code
    raise BitstreamError(f"expected one of {', '.join(codes.values())}; found {name!r}")
