# SPDX-License-Identifier: BSD-3-Clause
"""The .fcm bitstream: its syntax, its writer and its reader."""

from vcm_plugin.bitstream.bits import round_float
from vcm_plugin.bitstream.file import (
    FrameReader,
    Stream,
    Unit,
    inter_check,
    machine_bits,
    read,
    read_unit,
    write,
    write_frames,
    write_unit,
)
from vcm_plugin.bitstream.header import (
    Header,
    Timing,
    compact_shapes,
    read_header,
    write_header,
)
from vcm_plugin.bitstream.payloads import (
    AuxiliaryPicturePayload,
    EnhancementPayload,
    FctmLikePayload,
    HumanPayload,
    LatentsPayload,
    LearnedPicturePayload,
    MachinePayload,
)
from vcm_plugin.bitstream.syntax import MAX_INPUT_PIXELS, NO_SPLIT, PROFILES, SYNTAX, VERSION
from vcm_plugin.bitstream.text import RULES, decoding, describe, document, syntax, syntax_row

__all__ = [
    "MAX_INPUT_PIXELS",
    "NO_SPLIT",
    "PROFILES",
    "RULES",
    "SYNTAX",
    "VERSION",
    "AuxiliaryPicturePayload",
    "EnhancementPayload",
    "FctmLikePayload",
    "FrameReader",
    "Header",
    "HumanPayload",
    "LatentsPayload",
    "LearnedPicturePayload",
    "MachinePayload",
    "Stream",
    "Timing",
    "Unit",
    "compact_shapes",
    "decoding",
    "describe",
    "document",
    "inter_check",
    "machine_bits",
    "read",
    "read_header",
    "read_unit",
    "round_float",
    "syntax",
    "syntax_row",
    "write",
    "write_frames",
    "write_header",
    "write_unit",
]

__doc__ = f"{__doc__}\n\n{RULES}\n\n{syntax()}\n"
