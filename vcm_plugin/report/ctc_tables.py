# SPDX-License-Identifier: BSD-3-Clause
"""What does MPEG receive? summary.csv of every rate point and final_<SET>.csv, as the harness.

    <out>/<datacatalog>/<data set or sequence>/qp<int>/evaluation/summary.csv
    <out>/<datacatalog>/final_<SET>.csv
    <out>/<datacatalog>/rate_points_<SET>.csv

Its scripts find and sort rate points by a column and by folders called qp, and take the mean of
every other column over a class, so an integer stands there for what is no QP; rate_points_<SET>.csv
says which rate point it stands for. Beside summary.csv lie the predictions as the harness's table
script wants them, so that it makes the same final_<SET>.csv of this folder. Layout: that of
CompressAI-Vision.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcm_plugin.ctc.codecs import integer_qp
from vcm_plugin.ctc.coding import KINDS
from vcm_plugin.ctc.qp_tables import is_label, load_qp_table
from vcm_plugin.ctc.results import (
    UNCOMPRESSED,
    Accuracy,
    PointResult,
    RunResult,
    SequenceSummary,
    StageSeconds,
    Timings,
    load_result,
    load_timings,
)
from vcm_plugin.ctc.run_folder import read_records, read_seconds
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json
from vcm_plugin.metrics.rate import bpp, kbps
from vcm_plugin.rate_points import percent_of
from vcm_plugin.report.csv_files import stages
from vcm_plugin.testsets.coco import FRAMES

SETS = {"coco": ("SFU", "SFUHW"), "open_images": ("OIV6", "MPEGOIV6"),
        "semantic": ("PANDASET", "PANDASET")}  # protocol -> (set, datacatalog)  # fmt: skip
TRACKING = {"TVD": "MPEGTVDTRACKING", "HIEVE": "MPEGHIEVE"}  # set -> datacatalog
PREFIXES = {"SFU": "sfu-hw-", "PANDASET": "pandaset-", "TVD": "mpeg-", "HIEVE": "mpeg-"}
METRICS = {"SFU": "box_ap", "PANDASET": "miou", "TVD": "mota", "HIEVE": "mota"}
RATE_POINTS = (4, 6)  # of FCM and of VCM
NOT_IN_FINAL = ("fps", "num_of_coded_frame")

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One data set or sequence at one rate point: the row of its summary.csv and its files."""

    folder: str
    rate_point: str
    row: Row
    files: Mapping[str, Any]  # name -> content of a JSON file beside summary.csv, or its bytes


def write_ctc_tables(runs: Sequence[Path], out: Path) -> Path:
    """Write the tables of complete runs of one codec; returns the path of final_<SET>.csv.

    runs: one run of sfu_hw, pandaset, tvd_tracking or hieve, or the runs of both tasks of
    MPEG-OIV6. Raises InputError.
    """
    results = [load_result(run) for run in runs]
    names = {_set_of(result, run) for result, run in zip(results, runs, strict=True)}
    if len(names) != 1 or len({result.codec for result in results}) != 1:
        raise InputError(
            "expected runs of one codec on one test set (both tasks of MPEG-OIV6, or one run of "
            "sequences), found " + ", ".join(f"{r.codec} on {r.condition}" for r in results)
        )
    (name, catalog), *_ = names
    if name != "OIV6" and len(runs) > 1:
        raise InputError(f"{name}: expected one run, which holds all sequences, found {len(runs)}")
    parts = [
        part
        for run, result in zip(runs, results, strict=True)
        for part in (_sequences if name != "OIV6" else _pictures)(run, result, name)
    ]
    for part in parts:
        folder = out / catalog / part.folder / f"qp{part.row['qp']}" / "evaluation"
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "summary.csv", [part.row])
        for file, content in part.files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (folder / file).write_bytes(data)
    path = out / catalog / f"final_{name}.csv"
    rows = [part.row for part in parts]
    if name == "OIV6" or name in TRACKING:  # their summaries have accuracy from 0 to 1
        rows = [row | {"end_accuracy": 100 * row["end_accuracy"]} for row in rows]
        rows.sort(key=lambda row: (row["Dataset"], row["qp"]))
    if name != "OIV6":
        rows += list(_classes(name, rows, results[0]))
    _write(path, [{"": index} | _final(row) for index, row in enumerate(rows)])
    _write(path.with_name(f"rate_points_{name}.csv"), [
        {"Dataset": part.row["Dataset"], "harness_qp": part.row["qp"],
         "rate_point": part.rate_point} for part in parts
    ])  # fmt: skip
    return path


def _set_of(result: RunResult, run: Path) -> tuple[str, str]:
    """(set, datacatalog) of a run; raises InputError for a run of another test set."""
    if result.test.protocol == "coco" and result.dataset.sequences is None:
        raise InputError(
            f"{run}: {result.condition} is no test set of MPEG; expected a run of sfu_hw, "
            "mpeg_oiv6_detection, mpeg_oiv6_segmentation or pandaset, or of data in their layout"
        )
    if result.test.protocol == "tracking":
        return _tracking_set(result, run)
    return SETS[result.test.protocol]


def _tracking_set(result: RunResult, run: Path) -> tuple[str, str]:
    """TVD or HIEVE, by the classes of the sequences."""
    groups = {sequence.group.partition("-")[0] for sequence in result.dataset.sequences or ()}
    if len(groups) != 1 or not groups <= set(TRACKING):
        raise InputError(
            f"{run}: {result.condition} is no tracking set of MPEG; expected a run of tvd_tracking "
            "or hieve, or of sequences of the classes TVD, HIEVE-1080P and HIEVE-720P"
        )
    (name,) = groups
    return name, TRACKING[name]


def _points(result: RunResult) -> list[tuple[int, PointResult]]:
    """The rate points at full size by rising QP, which is falling rate."""
    points = [point for point in result.points if percent_of(point.rate_point) == 100]
    numbered = [(integer_qp(result.codec, point.rate_point), point) for point in points]
    numbered.sort(key=lambda pair: pair[0])
    if len(numbered) not in RATE_POINTS:
        raise InputError(
            f"{result.condition}, {result.codec}: the tables take 4 rate points (FCM) or 6 "
            f"(VCM) at full size, found {len(numbered)}; run it with as many --rate-points"
        )
    if len({qp for qp, _ in numbered}) < len(numbered):
        raise InputError(
            f"{result.condition}, {result.codec}: two rate points have the same integer QP; "
            "scales s stand for 32 + 6 log2(s), choose them further apart"
        )
    return numbered


def _qp_of(result: RunResult, point: PointResult, number: int, sequence: str) -> int:
    """The QP of a sequence at a rate point."""
    table = result.codec_identity.get("qp_table")
    if table is None or not is_label(point.rate_point):
        return number
    return int(load_qp_table(table).qp(point.rate_point, sequence))


def _timings(run: Path) -> Timings:
    timings = load_timings(run)
    if timings is None:
        raise InputError(f"{run}: expected timings.json, found none; repeat `vcm-plugin run`")
    return timings


def _pictures(run: Path, result: RunResult, _: str) -> list[Part]:
    """A run of one task of MPEG-OIV6; accuracy 0..1, as the harness's evaluator gives it."""
    seconds, kind = _timings(run).points, KINDS[result.kind]
    name = result.dataset.name.rpartition("/")[2].removesuffix(".json")
    name = name.removesuffix("-coco")
    parts = []
    for qp, point in _points(result):
        accuracy = [v for k, v in point.accuracy.items() if k.endswith("_ap50")]
        if len(accuracy) != 1:
            raise InputError(f"{run}: expected one task a run of MPEG-OIV6; run it with --tasks")
        row = {
            "Dataset": name,
            "qp": qp,
            "avg_bpp": bpp(point.bits, point.pixels),
            "end_accuracy": accuracy[0] / 100,
            **stages(seconds, point.rate_point, kind),
        }
        parts.append(Part(name, point.rate_point, row, {}))
    return parts


def _sequences(run: Path, result: RunResult, name: str) -> list[Part]:
    """A run of sequences: one part for each sequence and rate point."""
    uncompressed = read_seconds(run / UNCOMPRESSED)
    points = _points(result)
    folders = {point.rate_point: run / point.rate_point for _, point in points}
    measured = {
        rate_point: {r.image_id: (r.bits, r.seconds or {}) for r in read_records(folder)}
        for rate_point, folder in folders.items()
    }
    predictions = {
        rate_point: read_json(folder / "predictions.json") for rate_point, folder in folders.items()
    }
    parts = []
    for number, sequence in enumerate(result.dataset.sequences or (), start=1):
        once = uncompressed[number].get("nn_part1", 0.0)
        for qp, point in points:
            bits, spent = measured[point.rate_point][number]
            seconds = {
                point.rate_point: {k: StageSeconds(v) for k, v in spent.items()},
                UNCOMPRESSED: {"nn_part1": StageSeconds(once)},
            }
            accuracy = (point.sequences or {})[sequence.name]
            times = stages(seconds, point.rate_point, KINDS[result.kind])
            stated = _qp_of(result, point, qp, sequence.name)
            row = _row(name, sequence, stated, bits, accuracy) | times
            ending = "_val" if name == "SFU" else ""
            folder = f"{PREFIXES[name]}{row['Dataset']}{ending}"
            found = predictions[point.rate_point]
            if name in TRACKING:
                frames = [i for i in point.per_picture.image_id if i // FRAMES == number]
                files = {f"{folder}_info_to_eval.h5": _tracks(frames, found)}
            else:
                files = _files(name, number, sequence.name, found, accuracy)
            parts.append(Part(folder, point.rate_point, row, files))
    return parts


def _row(name: str, sequence: SequenceSummary, qp: int, bits: int, accuracy: Accuracy) -> Row:
    """The row of a sequence, its times aside."""
    fps, metric = sequence.fps, METRICS[name]
    return {
        "Dataset": _dataset_of(name, sequence.name),
        "fps": int(fps) if fps == int(fps) else fps,
        "num_of_coded_frame": sequence.frames,
        "qp": qp,
        "bitrate (kbps)": kbps(bits, fps, sequence.frames),
        "end_accuracy": accuracy[metric] / (100 if name in TRACKING else 1),
    }


def _dataset_of(name: str, sequence: str) -> str:
    """What the table calls a sequence."""
    return f"hieve-{sequence}" if name == "HIEVE" else sequence


def _tracks(frames: Sequence[int], predictions: list[dict]) -> bytes:
    """The tracks of a sequence as the harness's evaluator keeps them: of each frame by its number,
    (box, identity, confidence) of each track."""
    import torch

    found: dict[int, list] = {image_id: [] for image_id in frames}
    for item in predictions:
        if item["image_id"] in found:
            found[item["image_id"]].append((tuple(item["bbox"]), item["track_id"], 1.0))
    file = io.BytesIO()
    torch.save({image_id % FRAMES: tracks for image_id, tracks in found.items()}, file)
    return file.getvalue()


def _files(
    name: str, number: int, sequence: str, predictions: list[dict], accuracy: Accuracy
) -> dict[str, Any]:
    """What the harness's table script pools over a class."""
    if name == "PANDASET":
        file = f"SemanticSegmentationEval_on_PANDASET_pandaset-{sequence}.json"
        return {file: {"mIoU": accuracy["miou"]}}
    of_sequence = [
        prediction | {"image_id": prediction["image_id"] % FRAMES}
        for prediction in predictions
        if prediction["image_id"] // FRAMES == number
    ]
    return {"coco_instances_results.json": of_sequence}


def _classes(name: str, rows: list[Row], result: RunResult) -> Iterator[Row]:
    """One row for each class of sequences and rate point, which is counted from 0.

    Rates and times are means weighted by the length in seconds; accuracy is that of the class.
    """
    classes, own = {}, {}
    for sequence in result.dataset.sequences or ():
        classes[_dataset_of(name, sequence.name)] = sequence.group
        own[_dataset_of(name, sequence.name)] = sequence.name
    for group in dict.fromkeys(classes.values()):
        for index, (qp, point) in enumerate(_points(result)):
            members = [
                row
                for row in rows
                if classes[row["Dataset"]] == group
                and row["qp"] == _qp_of(result, point, qp, own[row["Dataset"]])
            ]
            lengths = [row["num_of_coded_frame"] / row["fps"] for row in members]
            accuracy = (point.classes or {})[group][METRICS[name]]
            fixed = {"Dataset": group, "qp": index, "end_accuracy": accuracy}
            yield {
                key: fixed[key] if key in fixed
                else sum(r[key] * n for r, n in zip(members, lengths, strict=True)) / sum(lengths)
                for key in members[0]
            }  # fmt: skip


def _final(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in NOT_IN_FINAL}


def _write(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
