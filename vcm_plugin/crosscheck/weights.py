# SPDX-License-Identifier: BSD-3-Clause
"""Which weights does a run claim, which of them are here, and which do its bitstreams name?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vcm_plugin import bitstream
from vcm_plugin.bitstream import AuxiliaryPicturePayload, HumanPayload, LearnedPicturePayload
from vcm_plugin.conditions import TestCondition, with_values
from vcm_plugin.crosscheck.claims import Claims
from vcm_plugin.crosscheck.findings import FAILED, SKIPPED, Finding
from vcm_plugin.crosscheck.package import weights_of
from vcm_plugin.ctc.codecs import settings_class, split_simulcast
from vcm_plugin.ctc.run_folder import bitstream_path
from vcm_plugin.diff_fchm.machine.config import MachineSettings
from vcm_plugin.errors import InputError
from vcm_plugin.files import sha256_of_file

DETECTOR, HUMAN, PRIOR = "weights", "diff_fchm_human_weights", "diff_fchm_human_prior"


def with_weights(claims: Claims, given: Sequence[Path]) -> TestCondition | Finding:
    """The condition with weights that have the claimed sha256, of `given` or bundled; or why not.

    given: files, and the folder of a human layer (or of its prior) as scripts/train_hvcn.py writes.
    """
    condition = claims.condition
    known = {sha256_of(path): path for path in given}
    for key, sha256 in _wanted(claims).items():
        name = condition.value(key)
        path = known.get(sha256) or Path(condition.bundled_path(name or ""))
        if not name or not path.exists():
            kind = "folder of a human layer" if key == HUMAN else "file"
            text = f"{key}: no {kind} with the sha256 {sha256}: give it with --weights"
            return Finding("config", SKIPPED, text, claims.name)
        actual = sha256_of(path)
        if actual != sha256:
            text = f"{key}: {name} has the sha256 {actual} here, claimed is {sha256}"
            return Finding("config", FAILED, text, claims.name)
        condition = with_values(condition, {key: str(path.absolute())})
    if claims.name != "diff_fchm_human" or condition.value(PRIOR) is None:
        return condition
    priors = [path for path in given if (path / "unet").is_dir() and not (path / "hvcn").is_dir()]
    prior = Path(condition.bundled_path(condition.value(PRIOR)))
    path = priors[0] if priors else prior
    if not path.is_dir():  # a hub id of a package is not asked for: nothing is downloaded
        text = f"{PRIOR}: no folder of the prior {prior}: give it with --weights"
        return Finding("config", SKIPPED, text, claims.name)
    return with_values(condition, {PRIOR: str(path.absolute())})


def sha256_of(path: Path) -> str:
    """What identifies weights in results: of a file its bytes, of a human layer its networks."""
    if not path.is_dir():
        return sha256_of_file(path)
    if not (path / "hvcn").is_dir():
        return ""  # the folder of a prior: the human layer knows its own
    from vcm_plugin.diff_fchm.human.codec import load_hvcn  # diffusers, which other runs do without

    return load_hvcn(path).sha256()


def check_weights_ids(claims: Claims) -> Iterator[Finding]:
    """The bitstreams name the weights that are claimed."""
    claimed = weights_of(claims.result)
    named: dict[tuple[str, str | None], str] = {}
    for point in claims.points:
        for image_id in claims.entry_ids:
            path = bitstream_path(claims.folder / point, image_id, "fcm")
            try:
                ids = _weights_ids(path.read_bytes(), claims.name) if path.is_file() else {}
            except InputError:
                continue  # the step that decodes says what is wrong with it
            named |= dict.fromkeys(ids.items(), f"{point}/{image_id}")
    for (part, weights_id), where in named.items():
        sha256 = claimed.get(part)
        if None not in (sha256, weights_id) and not sha256.startswith(weights_id):
            text = f"bitstream {where} was made with the weights {weights_id}, claimed are "
            yield Finding("config", FAILED, text + sha256[:8], claims.name)


def _wanted(claims: Claims) -> dict[str, str]:
    """Key of the condition -> the claimed sha256."""
    claimed = weights_of(claims.result)
    keys = getattr(settings_class(claims.name), "weights_keys", {})
    keys = keys | MachineSettings.optional_weights_keys  # of the machine layer, which many have
    own = {key: claimed[part] for key, part in keys.items() if part in claimed}
    return {DETECTOR: claimed["detector_sha256"]} | own


def _weights_ids(data: bytes, codec: str) -> Mapping[str, str | None]:
    """Part of `weights_of` -> the first digits that an .fcm file names; none for raw VVC."""
    if not data.startswith(b"FCM"):
        return {}
    weights_id = bitstream.read_header(data)[0].weights_id
    ids = {"codec_sha256": None if weights_id is None else f"{weights_id:08x}"}
    if codec == "simulcast_learned":
        picture = bitstream.read_header(split_simulcast(data)[1])[0].weights_id
        return ids | {"picture_sha256": f"{picture:08x}"}
    if codec not in ("diff_fchm_human", "diff_fchm_picture", "diff_fchm_learned"):
        return ids
    for unit in bitstream.read(data).units:
        if unit.type == "human":
            ids["human_sha256"] = f"{HumanPayload.from_bytes(unit.payload).weights_id:08x}"
        elif unit.type == "auxiliary_picture":
            payload = AuxiliaryPicturePayload.from_bytes(unit.payload)
            ids["restorer_sha256"] = f"{payload.weights_id:04x}"
        elif unit.type == "learned_picture":
            learned = LearnedPicturePayload.from_bytes(unit.payload)
            ids["restorer_sha256"] = f"{learned.weights_id:04x}"
            ids["picture_sha256"] = f"{learned.picture_id:04x}"
    return ids
