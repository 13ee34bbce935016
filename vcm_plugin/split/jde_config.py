# SPDX-License-Identifier: BSD-3-Clause
"""What does a model file say of a JDE network and its tracker? `network: jde` marks such files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vcm_plugin import settings
from vcm_plugin.errors import InputError
from vcm_plugin.split.jde_network import BRANCHES, STRIDES, JdeSizes


@dataclass(frozen=True)
class JdeConfig:
    """Network, decoding and tracker, key by key as in the YAML file; sizes in pixels.

    input_size: (height, width) of the letterboxed picture. stem, stages, embedding: channels.
    anchors: width and height of each anchor, those of the finest head first.
    pixel_fill: 0..255, beside the picture in its letterbox.

    confidence_threshold, nms_iou: of the detections. min_box_area: of a track that is reported, in
    the source picture; max_aspect: its largest width / height.
    track_buffer: frames that a lost track is kept. appearance_distance, overlap_distance,
    new_track_distance: largest costs of the three associations, the first one of embeddings, the
    others of 1 - IoU. duplicate_distance: 1 - IoU below which two tracks are one.
    appearance_momentum: of a track's embedding. motion_weight: of the squared Mahalanobis distance
    in the first cost; motion_gate: the largest one. position_deviation, velocity_deviation: of the
    Kalman filter, in shares of a box's height.
    """

    network: str
    input_size: tuple[int, ...]
    stem: int
    stages: tuple[int, ...]
    embedding: int
    anchors: tuple[int, ...]
    pixel_fill: float
    confidence_threshold: float
    nms_iou: float
    min_box_area: float
    max_aspect: float
    track_buffer: int
    appearance_distance: float
    overlap_distance: float
    new_track_distance: float
    duplicate_distance: float
    appearance_momentum: float
    motion_weight: float
    motion_gate: float
    position_deviation: float
    velocity_deviation: float

    def __post_init__(self):
        coarsest = STRIDES[-1]
        if len(self.input_size) != 2 or any(n < coarsest or n % coarsest for n in self.input_size):
            raise InputError(
                f"input_size: expected height and width in multiples of {coarsest}, found "
                f"{list(self.input_size)}"
            )
        if len(self.stages) != 5 or any(n < 2 or n % 2 for n in self.stages) or self.stem < 1:
            raise InputError(
                f"stages: expected even channels of five stages, found {list(self.stages)}"
            )
        if not self.anchors or len(self.anchors) % (2 * len(BRANCHES)):
            raise InputError(
                "anchors: expected width and height of as many anchors for each of three heads, "
                f"found {len(self.anchors)} numbers"
            )

    def sizes(self) -> JdeSizes:
        """What decides about the shapes of the weights."""
        anchors = len(self.anchors) // (2 * len(BRANCHES))
        return JdeSizes(self.stem, self.stages, self.embedding, anchors)

    def anchors_of(self, level: int) -> list[list[int]]:
        """Width and height of the anchors of a head, 0 being the finest."""
        pairs = [list(self.anchors[i : i + 2]) for i in range(0, len(self.anchors), 2)]
        each = len(pairs) // len(BRANCHES)
        return pairs[level * each : (level + 1) * each]

    def sha256(self) -> str:
        """Of all that decides about features, detections and tracks."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def is_jde(path: str | Path) -> bool:
    """Whether a model file is of a JDE network."""
    path = Path(path)
    return path.is_file() and settings.read_yaml(path, "model").get("network") == "jde"


def load_jde_config(path: str | Path) -> JdeConfig:
    """Read a model file; raises InputError for what cannot be, naming the key."""
    values = settings.without_sources(settings.read_yaml(Path(path), "model"))
    values.pop("weights", None)  # of the split model, see split.load_split_model
    try:
        return settings.build(JdeConfig, values, path)
    except InputError as error:
        message = str(error)
        raise InputError(message if str(path) in message else f"{path}: {message}") from error
