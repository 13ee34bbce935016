# SPDX-License-Identifier: BSD-3-Clause
"""What does a proponent send to a cross-checker? Runs as one zip, and how such a zip is opened.

    manifest.json            format, version, which run is the proposal, weights, files' sha256
    claims.json              the BD-rates that are claimed
    runs/<name>/...          result.json, run.json, condition.yaml (model.yaml where the detector
                             is not a bundled one), ground_truth.json, timings.json
    runs/<name>/<point>/...  pictures.jsonl, point.json, bitstreams/

JSON, YAML and bitstreams only: nothing in a package is ever executed or unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vcm_plugin
from vcm_plugin.ctc.results import UNCOMPRESSED, RunResult, load_result
from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError
from vcm_plugin.files import sha256_of_file
from vcm_plugin.report.layout import bd_rate_rows
from vcm_plugin.report.tables import Rules, build_report
from vcm_plugin.settings import build, read_yaml, without_sources

FORMAT, VERSION = "vcm-plugin package", 1
CLAIMED = ("test", "anchor", "metric", "method", "percent", "reason")
_NAME = r"(?!\.+/)[\w.@+-]+"
_RUN_FILES = r"result\.json|run\.json|timings\.json|ground_truth\.json|condition\.yaml|model\.yaml"
_POINT_FILES = r"point\.json|pictures\.jsonl|bitstreams/[0-9]+\.(?:fcm|vvc)"
ALLOWED = re.compile(
    rf"manifest\.json|claims\.json|runs/{_NAME}/(?:{_RUN_FILES}|{_NAME}/(?:{_POINT_FILES}))"
)
PICKLED = (".pkl", ".pickle", ".pth", ".pt", ".npz", ".npy", ".bin", ".joblib")
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
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(f".{output.name}.draft")
    with zipfile.ZipFile(draft, "w") as archive:
        _put(archive, "manifest.json", _json(manifest))
        for name, data in contents.items():
            _put(archive, name, data)
        for name, path in sorted(sources.items()):
            _put(archive, name, path.read_bytes())
    draft.replace(output)
    return manifest


def open_package(package: Path, folder: Path, limits: Limits) -> Package:
    """Unpack a package into an empty folder.

    Raises InputError, with nothing written, for what is no package of this version and for what
    no honest package holds: a path that leaves the folder, a link, a file of another kind (above
    all pickles), two files of one name, a zip bomb.
    """
    try:
        with zipfile.ZipFile(package) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            _check_members(members, package, limits)
            for member in members:
                path = folder / member.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(member))
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"{package}: expected a package of `vcm-plugin package`, found: {reason}"
        ) from error
    except zlib.error as error:
        raise InputError(f"{package}: the package is damaged: {error}") from error
    return Package(folder, _manifest(folder, package))


def weights_of(result: RunResult) -> dict[str, str | None]:
    """What identifies the weights of a result: of the detector, of the codec's features, and of
    the human layer, whose weights are a folder and which names the prior that it needs."""
    codec = result.codec_identity
    found = {
        "detector_sha256": result.model_identity.get("weights_sha256"),
        "codec_sha256": codec.get("machine", codec).get("weights_sha256"),  # "machine": simulcast
        "human_sha256": codec.get("human_weights_sha256"),
    }
    if "restorer_weights_sha256" in codec:  # no other codec's package states it
        found["restorer_sha256"] = codec["restorer_weights_sha256"]
    return found


def _files(folder: Path, result: RunResult) -> dict[str, Path]:
    """Name in the run's folder -> file, of all that a package holds of a run."""
    names = ["result.json", "run.json", "condition.yaml", "ground_truth.json", "timings.json"]
    if (folder / "model.yaml").is_file():
        names.append("model.yaml")
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


def _check_members(members: Sequence[zipfile.ZipInfo], package: Path, limits: Limits) -> None:
    names: set[str] = set()
    for member in members:
        name = member.filename
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in name or "\0" in name:
            raise InputError(
                f"{package}: the path {name!r} leaves the folder; nothing was unpacked"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{package}: {name!r} is a link; nothing was unpacked")
        if name.lower().endswith(PICKLED):
            raise InputError(
                f"{package}: {name!r} may hold pickled code; a package holds JSON, YAML and "
                "bitstreams only, and nothing was unpacked"
            )
        if not ALLOWED.fullmatch(name):
            raise InputError(f"{package}: {name!r} is no file of a package; nothing was unpacked")
        if name in names:
            raise InputError(f"{package}: {name!r} stands twice; nothing was unpacked")
        names.add(name)
        if member.file_size > max(1 << 20, limits.compression * member.compress_size):
            raise InputError(
                f"{package}: {name!r} is a zip bomb: {member.file_size} bytes out of "
                f"{member.compress_size}; nothing was unpacked"
            )
    total = sum(member.file_size for member in members)
    if total > limits.package_gib * (1 << 30):
        raise InputError(
            f"{package}: {total} bytes when unpacked, expected at most {limits.package_gib:g} GiB; "
            "a zip bomb, or raise package_gib in cfg/crosscheck.yaml; nothing was unpacked"
        )


def _manifest(folder: Path, package: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        stated = manifest.get("format"), manifest.get("version")
    except (OSError, ValueError, AttributeError):
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
