# SPDX-License-Identifier: BSD-3-Clause
"""Where a run keeps its results: a folder that survives kills and is never mixed up.

    RUN/run.json                     what the results depend on; another value is refused
    RUN/condition.yaml               the test condition, without absolute paths
    RUN/ground_truth.json            the annotations that the accuracy was measured against
    RUN/<point>/pictures.jsonl       one flushed line per picture: bits, predictions, seconds,
                                     mean and standard deviation of the decoded features
    RUN/<point>/bitstreams/<id>.*    the files whose sizes are the bits
    RUN/<point>/decoded/<id>.png     the pictures that they decode to, where a condition measures
                                     human vision; to look at, may be deleted once measured
    RUN/<point>/predictions.json     COCO results of all pictures
    RUN/<point>/point.json           bits and accuracy of a complete point
    RUN/result.json                  deterministic values only, written when all is there
    RUN/timings.json                 seconds of every stage; arithmetic, parameters, peak memory

A point is a rate point or `uncompressed`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json, write_json

FORMAT, VERSION = "vcm-plugin result", 1
UNCOMPRESSED = "uncompressed"


def load_result(run: Path) -> dict[str, Any]:
    """The result.json of a run folder; raises InputError where it is missing or foreign."""
    path = run / "result.json"
    if not path.is_file():
        state = "the run is not complete: repeat `vcm-plugin run`" if run.is_dir() else "no folder"
        raise InputError(f"{run}: expected a run folder with result.json, found none ({state})")
    result = read_json(path)
    found = (result.get("format"), result.get("version")) if isinstance(result, dict) else None
    if found != (FORMAT, VERSION):
        raise InputError(f"{path}: expected {FORMAT} {VERSION}, found {found}")
    return result


def claim(folder: Path, inputs: dict[str, Any], overwrite: bool = False) -> None:
    """Make a locked folder the run folder of these inputs, or go on in it where it is already.

    Raises InputError where it holds the results of other inputs, or no results but other files.
    """
    path, inputs = folder / "run.json", json.loads(json.dumps(inputs))
    for draft in folder.rglob(".*.[0-9]*"):  # what a kill left of a file that was being written
        draft.unlink(missing_ok=True)
    if overwrite and path.is_file():
        path.rename(folder / "run.json.old")  # a kill from here on leaves a folder that is refused
        for item in folder.iterdir():
            if item.is_dir():
                shutil.rmtree(item)
            elif item.name not in (".lock", "run.json.old"):
                item.unlink()
        (folder / "run.json.old").unlink()
    if path.is_file():
        found = list(_differences(read_json(path), inputs))
        if found:
            more = f"; {len(found) - 3} more" if len(found) > 3 else ""
            differing = "; ".join(found[:3]) + more
            raise InputError(
                f"{folder} holds results of another test: {differing}; give another folder with "
                "-o, or --overwrite to delete these results"
            )
    elif any(item.name != ".lock" for item in folder.iterdir()):
        raise InputError(f"{folder}: expected an empty or a run folder, found other files; use -o")
    else:
        write_json(path, inputs)


class Journal:
    """The lines of one point, one per picture, in the order in which they were written.

    A line counts once it ends in a newline: one that a kill tore off is dropped when read.
    records: image id -> line, without its predictions, which `read_predictions` reads.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "pictures.jsonl"
        self.records: dict[int, dict[str, Any]] = {}
        self._whole = 0
        for line in _whole_lines(self.path):
            record = _parsed(line, self.path)
            self._whole += len(line)
            self.records[record["image_id"]] = _without_predictions(record)

    def append(self, record: dict[str, Any]) -> None:
        """Add a line and flush it."""
        line = json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with open(self.path, "ab") as handle:
            handle.truncate(self._whole)
            handle.write(line)
        self._whole += len(line)
        self.records[record["image_id"]] = _without_predictions(record)

    def reopen(self) -> None:
        """Make the folder ready for more lines: a point that was complete is so no more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "point.json").unlink(missing_ok=True)

    def has(self, image_id: int, suffix: str) -> bool:
        """Whether a picture has its line and its bitstream; suffix: of the codec's files."""
        path = bitstream_path(self.folder, image_id, suffix)
        record = self.records.get(image_id)
        return record is not None and path.is_file() and 8 * path.stat().st_size == record["bits"]


def read_predictions(
    folder: Path, image_ids: Sequence[int], kind: str = "predictions"
) -> list[dict[str, Any]]:
    """The predictions of these pictures, in this order, from the journal of a point; kind "painted"
    are those in the decoded pictures."""
    path = folder / "pictures.jsonl"
    records = (_parsed(line, path) for line in _whole_lines(path))
    found = {record["image_id"]: record[kind] for record in records}
    return [prediction for image_id in image_ids for prediction in found[image_id]]


def bitstream_path(folder: Path, image_id: int, suffix: str) -> Path:
    """The bitstream of a picture in the folder of its point; suffix: of the codec's files."""
    return folder / "bitstreams" / f"{image_id}.{suffix}"


def decoded_path(folder: Path, image_id: int) -> Path:
    """The picture that a bitstream in the folder of a point decodes to."""
    return folder / "decoded" / f"{image_id}.png"


def _whole_lines(path: Path) -> Iterator[bytes]:
    if path.is_file():
        with open(path, "rb") as handle:
            yield from (line for line in handle if line.endswith(b"\n"))


def _parsed(line: bytes, path: Path) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InputError(
            f"{path}: a line is no JSON ({error}); delete the file to repeat this point"
        ) from error


def _without_predictions(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("predictions", "painted")}


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """What another test differs in, one short phrase per value."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}".strip("."))
    elif old != new:
        short = max(len(str(old)), len(str(new))) < 64
        yield f"{name} is {old} there and {new} now" if short else f"{name} differs"
