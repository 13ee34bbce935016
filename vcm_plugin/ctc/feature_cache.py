# SPDX-License-Identifier: BSD-3-Clause
"""Where features of NN-Part1 are kept between runs: a bounded folder, longest unused first out.

Storing float32 features loses nothing, so a result does not depend on whether they were cached.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from vcm_plugin.features import FeaturePyramid
from vcm_plugin.files import write_bytes
from vcm_plugin.split_points import SPLIT_POINTS


@dataclass(frozen=True)
class FeatureCache:
    """At most limit_bytes of feature files in a folder, shared by any number of processes."""

    folder: Path
    limit_bytes: int

    def get(self, key: str) -> tuple[FeaturePyramid, float] | None:
        """The features under a key and the seconds they took; None where there are none."""
        path = self.folder / f"{key}.safetensors"
        try:
            os.utime(path)  # the time of use, by which the oldest are found
            with safe_open(path, framework="pt") as stored:
                notes = json.loads(stored.metadata()["notes"])
                names = SPLIT_POINTS[notes["split_point"]]
                layers = {name: stored.get_tensor(name) for name in names}
        except (OSError, SafetensorError):
            return None
        sizes = (tuple(notes["source_size"]), tuple(notes["input_size"]))
        return FeaturePyramid(layers, *sizes), notes["seconds"]

    def put(self, key: str, features: FeaturePyramid, seconds: float) -> None:
        """Keep features under a key, atomically; drops those that were not used for longest."""
        layers = {name: layer.contiguous().cpu() for name, layer in features.layers.items()}
        notes = {
            "split_point": features.split_point,
            "source_size": features.source_size,
            "input_size": features.input_size,
            "seconds": seconds,
        }
        data = save(layers, {"notes": json.dumps(notes)})
        if len(data) <= self.limit_bytes:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data))
            write_bytes(self.folder / f"{key}.safetensors", data)

    def _make_room(self, size: int) -> None:
        files = []
        for item in os.scandir(self.folder):
            try:
                stat = item.stat()
            except FileNotFoundError:  # another process has just dropped it
                continue
            files.append((stat.st_mtime_ns, stat.st_size, item.path))
        total = sum(file[1] for file in files)
        for _, freed, path in sorted(files):
            if total + size <= self.limit_bytes:
                return
            Path(path).unlink(missing_ok=True)
            total -= freed
