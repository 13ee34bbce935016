# SPDX-License-Identifier: BSD-3-Clause
"""What does a proponent send to a cross-checker? Runs as one zip, and how such a zip is opened.

    manifest.json            format, version, which run is the proposal, weights, files' sha256
    claims.json              the BD-rates that are claimed
    runs/<name>/...          result.json, run.json, condition.yaml (model.yaml where the detector
                             is not a bundled one), ground_truth.json, timings.json,
                             environment.json (none in runs of older versions)
    runs/<name>/<point>/...  pictures.jsonl, point.json, bitstreams/

JSON, YAML and bitstreams only: nothing in a package is ever executed or unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vcm_plugin
from vcm_plugin.crosscheck.archive import MANIFEST, unpack
from vcm_plugin.ctc.results import UNCOMPRESSED, RunResult, load_result
from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json, sha256_of_file, writing
from vcm_plugin.report.layout import bd_rate_rows
from vcm_plugin.report.tables import Rules, build_report
from vcm_plugin.settings import build, read_yaml, without_sources

FORMAT, VERSION = "vcm-plugin package", 1
CLAIMED = ("test", "anchor", "metric", "method", "percent", "reason")
_NAME = r"(?!\.+/)[\w.@+-]+"
_RUN_FILES = (
    r"result\.json|run\.json|timings\.json|environment\.json|ground_truth\.json|condition\.yaml"
    r"|model\.yaml"
)
_POINT_FILES = r"point\.json|pictures\.jsonl|bitstreams/[0-9]+\.(?:fcm|vvc)"
ALLOWED = re.compile(
    rf"manifest\.json|claims\.json|runs/{_NAME}/(?:{_RUN_FILES}|{_NAME}/(?:{_POINT_FILES}))"
)
_DATE = (1980, 1, 1, 0, 0, 0)  # the same run gives the same zip


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a cross-check accepts; every number and its reason stand in cfg/crosscheck.yaml."""

    package_gib: float
    compression: float
    feature_deviation: float
    box_iou: float
    score: float
    unmatched_percent: float
    unmatched_percent_of_picture: float
    accuracy_points: float
    psnr_db: float
    vmaf_points: float
    similarity: float
    set_distance_percent: float
    encoded_size_percent: float
    bd_rate_points: float


def load_limits() -> Limits:
    """The limits of cfg/crosscheck.yaml."""
    path = cfg_folder() / "crosscheck.yaml"
    return build(Limits, without_sources(read_yaml(path, "limits of a cross-check")), path)


@dataclasses.dataclass(frozen=True)
class Package:
    """An opened package: its folder and its manifest, both checked for shape, not yet for truth."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def runs(self) -> dict[str, Path]:
        """Run name -> run folder, the proposal first."""
        names = [self.manifest["proposal"], *self.manifest["anchors"]]
        return {name: self.folder / "runs" / name for name in names}


def make_package(run: Path, anchors: Sequence[Path], output: Path) -> dict[str, Any]:
    """Write the zip of a complete run and of the runs of its anchors; returns the manifest."""
    folders = [Path(run), *map(Path, anchors)]
    claims: list[dict[str, Any]] = []
    results = [load_result(folder) for folder in folders]
    names = [result.codec for result in results]
    if len(set(names)) < len(names):
        raise InputError(f"a package holds one run of each codec, found {', '.join(names)}")
    report = build_report(folders, names[1:], Rules.stated_by(results[0], resamples=1))
    for row in bd_rate_rows(report):
        if row["test"] in (names[0], f"{names[0]}_100"):
            claims.append({key: row[key] for key in CLAIMED})
    contents = {"claims.json": _json({"bd_rate": claims})}
    sources: dict[str, Path] = {}
    for name, folder, result in zip(names, folders, results, strict=True):
        sources |= {f"runs/{name}/{k}": path for k, path in _files(folder, result).items()}
    files = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents.items()
    }
    files |= {name: _described(path) for name, path in sources.items()}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "vcm_plugin": vcm_plugin.__version__,
        "proposal": names[0],
        "anchors": names[1:],
        "weights": {name: weights_of(result) for name, result in zip(names, results, strict=True)},
        "files": dict(sorted(files.items())),
    }
    with writing(output) as file, zipfile.ZipFile(file, "w") as archive:
        _put(archive, MANIFEST, _json(manifest))
        for name, data in contents.items():
            _put(archive, name, data)
        for name, path in sorted(sources.items()):
            _put(archive, name, path.read_bytes())
    return manifest


def open_package(package: Path, folder: Path, limits: Limits) -> Package:
    """Unpack a package into an empty folder.

    Raises InputError for what is no package of this version, and for what `archive.unpack` refuses.
    """
    most_bytes = limits.package_gib * (1 << 30)
    unpack(package, folder, ALLOWED, most_bytes, limits.compression)
    return Package(folder, _manifest(folder, package))


def weights_of(result: RunResult) -> dict[str, str | None]:
    """What identifies the weights of a result: of the detector, of the codec's features, and of
    the human layer, whose weights are a folder and which names the prior that it needs."""
    codec = result.codec_identity
    machine = codec.get("machine", codec)  # "machine": simulcast
    found = {
        "detector_sha256": result.model_identity.get("weights_sha256"),
        "codec_sha256": machine.get("weights_sha256"),
        "human_sha256": codec.get("human_weights_sha256"),
    }
    for part in ("inter", "importance"):
        if f"{part}_weights_sha256" in machine:
            found[f"{part}_sha256"] = machine[f"{part}_weights_sha256"]
    if "weights_sha256" in codec.get("picture", {}):  # a learned picture, and heads
        found["picture_sha256"] = codec["picture"]["weights_sha256"]
    if "synthesis" in codec:  # of heads, that of diff_fchm
        found["synthesis_sha256"] = codec["synthesis"]["weights_sha256"]
    if "restorer_weights_sha256" in codec:  # no other codec's package states it
        found["restorer_sha256"] = codec["restorer_weights_sha256"]
    return found


def _files(folder: Path, result: RunResult) -> dict[str, Path]:
    """Name in the run's folder -> file, of all that a package holds of a run."""
    names = ["result.json", "run.json", "condition.yaml", "ground_truth.json", "timings.json"]
    names += [name for name in ("model.yaml", "environment.json") if (folder / name).is_file()]
    for point in (UNCOMPRESSED, *(point.rate_point for point in result.points)):
        names += [f"{point}/point.json", f"{point}/pictures.jsonl"]
        bitstreams = sorted((folder / point / "bitstreams").glob("*"))
        names += [f"{point}/bitstreams/{path.name}" for path in bitstreams]
    for name in names:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: expected {name}, found none; a run of an older version, or one that "
                "is not complete: repeat `vcm-plugin run`"
            )
        if not ALLOWED.fullmatch(f"runs/x/{name}"):
            raise InputError(f"{folder}/{name}: a file that no package holds; remove it")
    return {name: folder / name for name in names}


def _manifest(folder: Path, package: Path) -> dict[str, Any]:
    try:
        manifest = read_json(folder / MANIFEST)
        stated = manifest.get("format"), manifest.get("version")
    except (InputError, AttributeError):
        stated = None
    if stated != (FORMAT, VERSION):
        raise InputError(
            f"{package}: expected a {FORMAT} of version {VERSION}, found {stated}; make it again "
            "with this version of vcm-plugin"
        )
    files, anchors = manifest.get("files"), manifest.get("anchors")
    names = [manifest.get("proposal"), *(anchors if isinstance(anchors, list) else [None])]
    safe = all(isinstance(name, str) and re.fullmatch(_NAME, name) for name in names)
    if not safe or not isinstance(files, dict):
        raise InputError(f"{package}: manifest.json lacks its proposal, anchors or files")
    if not all(isinstance(f, dict) and {"bytes", "sha256"} <= set(f) for f in files.values()):
        raise InputError(f"{package}: manifest.json: a file lacks its bytes or its sha256")
    return manifest


def _described(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(name, _DATE)
    member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    archive.writestr(member, data)
