# SPDX-License-Identifier: BSD-3-Clause
"""Where does a run keep its results? A folder that survives kills and is never mixed up.

    RUN/run.json                     what the results depend on; another value is refused
    RUN/condition.yaml               the test condition, without absolute paths
    RUN/ground_truth.json            the annotations that the accuracy was measured against
    RUN/<point>/pictures.jsonl       one flushed line per picture or sequence: a `Record`
    RUN/<point>/bitstreams/<id>.*    the files whose sizes are the bits
    RUN/<point>/decoded/<id>.png     the pictures that they decode to, where a condition measures
                                     human vision; to look at, may be deleted once measured
    RUN/<point>/predictions.json     COCO results of all pictures
    RUN/<point>/point.json           a complete point: `PointResult`, or `Evaluation` of the
                                     uncompressed pictures
    RUN/result.json                  `RunResult`: deterministic values only, written when all is
                                     there
    RUN/timings.json                 `Timings`: seconds, arithmetic, parameters, peak memory
    RUN/environment.json             when and on what machine it was measured (ctc/machine.py)

A point is a rate point or `uncompressed`; the dataclasses are those of `vcm_plugin.ctc.results`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vcm_plugin.ctc.results import Record
from vcm_plugin.ctc.typed_json import from_json, to_json
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.files import read_json, sha256_of_file, write_json

TOKEN = ".cluster"  # shows the workers of a cluster that they see the folder
SHARDS = "shards"
CODE = "environment.code_sha256"
_NO_RESULTS = (".lock", TOKEN, SHARDS)


def claim(
    folder: Path, inputs: dict[str, Any], overwrite: bool = False, pictures: int | None = None
) -> None:
    """Make a locked folder the run folder of these inputs, or go on in it where it is already.

    pictures: how many there are now, for the error where the folder holds results of others.
    Raises InputError where it holds the results of other inputs, or no results but other files.
    """
    path, inputs = folder / "run.json", json.loads(json.dumps(inputs))
    for draft in folder.rglob(".*.[0-9]*"):  # what a kill left of a file that was being written
        if SHARDS not in draft.relative_to(folder).parts:  # a shard may be at work there
            draft.unlink(missing_ok=True)
    if overwrite and path.is_file():
        other = _inputs_of(path) != inputs
        path.rename(folder / "run.json.old")  # a kill from here on leaves a folder that is refused
        for item in folder.iterdir():
            if item.name == SHARDS and other:
                _delete_other_shards(item, inputs)
            elif item.is_dir():
                shutil.rmtree(item)
            elif item.name not in (".lock", TOKEN, "run.json.old"):
                item.unlink()
        (folder / "run.json.old").unlink()
    if path.is_file():
        differing = _other_test(folder, read_json(path), inputs, pictures)
        if differing:
            raise InputError(
                f"{folder} holds results of another test: {differing}; give another folder with "
                "-o, or --overwrite to delete these results"
            )
    elif any(item.name not in _NO_RESULTS for item in folder.iterdir()):
        raise InputError(
            f"{folder}: expected an empty or a run folder, found other files; give another with -o"
        )
    else:
        write_json(path, inputs)


def shard_folder(folder: Path, shard: tuple[int, int]) -> Path:
    """Where the K-th of N shards of a run keeps what it has coded."""
    return folder / SHARDS / f"{shard[0]}-of-{shard[1]}"


def adopt_shards(folder: Path, points: Sequence[str]) -> None:
    """Take up what shards have coded at some points and the run folder lacks: lines and files.

    Raises InputError where a shard is of another test.
    """
    shards = [path.parent for path in sorted((folder / SHARDS).glob("*/run.json"))]
    inputs = read_json(folder / "run.json")
    for shard in shards:
        differing = _other_test(shard, read_json(shard / "run.json"), inputs, None)
        if differing:
            raise InputError(
                f"{shard} holds results of another test: {differing}; delete it, or repeat its "
                "shard with the settings of this run and --overwrite"
            )
    for point in points if shards else ():
        journal = Journal(folder / point)
        for shard in shards:
            _adopt(shard / point, folder / point, journal)


def _adopt(shard: Path, folder: Path, journal: Journal) -> None:
    """Move what a shard has coded at a point into that point's folder."""
    lacking = [r for r in read_records(shard) if r.image_id not in journal.records]
    if lacking:
        journal.reopen()
    for record in lacking:
        for kind in ("bitstreams", "decoded"):
            for file in (shard / kind).glob(f"{record.image_id}.*"):
                (folder / kind).mkdir(exist_ok=True)
                file.replace(folder / kind / file.name)
        journal.append(record)


def _delete_other_shards(shards: Path, inputs: dict[str, Any]) -> None:
    """Delete the shards of other tests; what those of this one have coded is not lost."""
    for shard in shards.iterdir():
        if _inputs_of(shard / "run.json") != inputs:
            shutil.rmtree(shard)


def _inputs_of(path: Path) -> Any:
    """What a run.json says; None where it says nothing."""
    try:
        return read_json(path)
    except InputError:
        return None


class Journal:
    """The lines of one point, one per picture, in the order in which they were written.

    A line counts once it ends in a newline: one that a kill tore off is dropped when read.
    records: image id -> what a runner asks of a line: bits and digests. A runner holds the lines of
    all points, so the rest stays on disk, for `read_records`, `read_seconds`, `read_predictions`.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "pictures.jsonl"
        self.records: dict[int, Record] = {}
        self._whole = 0
        for line in _whole_lines(self.path):
            record = _parsed(line, self.path)
            self._whole += len(line)
            self.records[record.image_id] = _bits_and_digests(record)

    def append(self, record: Record) -> None:
        """Add a line and flush it."""
        text = json.dumps(to_json(record), separators=(",", ":"), allow_nan=False)
        line = text.encode() + b"\n"
        with open(self.path, "ab") as handle:
            handle.truncate(self._whole)
            handle.write(line)
        self._whole += len(line)
        self.records[record.image_id] = _bits_and_digests(record)

    def reopen(self) -> None:
        """Make the folder ready for more lines: a point that was complete is so no more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "point.json").unlink(missing_ok=True)

    def has(self, image_id: int, suffix: str) -> bool:
        """Whether a picture has its line and the bitstream that the line is of; suffix: of the
        codec's files."""
        path = bitstream_path(self.folder, image_id, suffix)
        record = self.records.get(image_id)
        if record is None or not path.is_file():
            return False
        return sha256_of_file(path) == record.file_sha256


def read_records(folder: Path, image_ids: Collection[int] | None = None) -> Iterator[Record]:
    """The whole records of a point in the order of its journal; of `image_ids` only where given.

    A line that a kill tore off is none. Lines of other pictures are passed over unparsed.
    """
    path = folder / "pictures.jsonl"
    starts = tuple(f'{{"image_id":{image_id},'.encode() for image_id in image_ids or ())
    for line in _whole_lines(path):
        if image_ids is None or line.startswith(starts):
            yield _parsed(line, path)


def read_seconds(folder: Path) -> dict[int, Mapping[str, float]]:
    """Image id -> stage -> seconds, of a point."""
    return {record.image_id: record.seconds or {} for record in read_records(folder)}


def read_predictions(
    folder: Path, image_ids: Sequence[int], kind: str = "predictions"
) -> list[dict[str, Any]]:
    """The predictions of these pictures, in this order, from the journal of a point; kind "painted"
    are those in the decoded pictures."""
    predictions = {record.image_id: getattr(record, kind) for record in read_records(folder)}
    return [prediction for image_id in image_ids for prediction in predictions[image_id]]


def bitstream_path(folder: Path, image_id: int, suffix: str) -> Path:
    """The bitstream of a picture in the folder of its point; suffix: of the codec's files."""
    return folder / "bitstreams" / f"{image_id}.{suffix}"


def check_bitstream(path: Path, data: bytes) -> None:
    """Raise BitstreamError where a bitstream lies in a run folder and is not the one that its
    picture was coded to: changed, or changed places with that of another picture."""
    folder = path.absolute().parents[1] if len(path.absolute().parents) > 1 else path.parent
    if path.absolute().parent.name != "bitstreams" or not path.stem.isdecimal():
        return
    for record in read_records(folder, [int(path.stem)]):
        if hashlib.sha256(data).hexdigest() != record.file_sha256:
            raise BitstreamError(
                f"expected the bitstream that {folder.name}/pictures.jsonl has of picture "
                f"{path.stem}, found another or a damaged one; run it again"
            )


def decoded_path(folder: Path, image_id: int) -> Path:
    """The picture that a bitstream in the folder of a point decodes to."""
    return folder / "decoded" / f"{image_id}.png"


def _whole_lines(path: Path) -> Iterator[bytes]:
    if path.is_file():
        with open(path, "rb") as handle:
            yield from (line for line in handle if line.endswith(b"\n"))


def _parsed(line: bytes, path: Path) -> Record:
    try:
        stored = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: a line is no JSON ({error}); delete the file to repeat this point"
        ) from error
    return from_json(Record, stored, path)


def _bits_and_digests(record: Record) -> Record:
    return Record(
        record.image_id, record.bits, record.file_sha256, record.frame_bits, record.picture_sha256,
        machine_bits=record.machine_bits,
    )  # fmt: skip


def differences(old: Any, new: Any) -> str:
    """What another test differs in: up to three short phrases; empty where nothing does."""
    found = list(_differences(old, new))
    more = f"; {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(found[:3]) + more


def _other_test(folder: Path, old: dict, new: dict, pictures: int | None) -> str:
    """`differences`, with the pictures in words in place of their digest."""
    same = old.get("files_sha256") == new.get("files_sha256")
    rest = ({k: v for k, v in side.items() if k != "files_sha256"} for side in (old, new))
    found = [] if same else [_other_pictures(folder / "ground_truth.json", pictures)]
    return "; ".join(filter(None, (*found, differences(*rest))))


def _other_pictures(truth: Path, pictures: int | None) -> str:
    there = len(read_json(truth)["images"]) if truth.is_file() else None
    if None in (there, pictures) or there == pictures:
        return "other pictures or annotations there"
    return f"{there} pictures there, {pictures} asked for"


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """One short phrase for each value."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}".strip("."))
    elif old != new:
        if name == CODE:
            yield "it was made by another version of the code"
            return
        short = max(len(str(old)), len(str(new))) < 64
        yield f"{name} is {old} there and {new} now" if short else f"{name} differs"
