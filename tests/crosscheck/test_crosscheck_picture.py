# SPDX-License-Identifier: BSD-3-Clause
"""Is a run with auxiliary pictures measured, packed and confirmed; a false claim caught?"""

import json
import zipfile

import pytest
from changed import changed
from restorer_tiny import tiny_restorer_weights
from test_crosscheck import cache, edit, tampered  # noqa: F401 (cache: a fixture)

from vcm_plugin.crosscheck.check import CheckOptions, crosscheck
from vcm_plugin.crosscheck.findings import CONFIRMED, NOT_CONFIRMED
from vcm_plugin.crosscheck.package import make_package
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.diff_fchm.machine.codec import MachineCodec

RUN = "runs/diff_fchm_picture"


@pytest.fixture(scope="module")
def restorer(tiny_condition):
    machine = MachineCodec(tiny_condition.parent / "tiny.safetensors")
    return tiny_restorer_weights(tiny_condition.parent, machine)


@pytest.fixture(scope="module")
def weights(tiny_condition, restorer):
    return (*(tiny_condition.parent / n for n in ("tiny.safetensors", "random.pth")), restorer)


@pytest.fixture(scope="module")
def package(tiny_condition, restorer, shared_cache, tmp_path_factory):
    condition = changed(
        load_condition(tiny_condition), human_vision=True,
        diff_fchm_restorer_weights=restorer.name, diff_fchm_picture_points=("1+47", "1+42@50"),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        found = run(condition, "diff_fchm_picture", folder / "diff_fchm_picture", RunOptions())
    assert [point.human_vision["human_bits"] > 0 for point in found.points] == [True, True]
    make_package(folder / "diff_fchm_picture", [], folder / "proposal.zip")
    return folder / "proposal.zip"


def test_an_honest_run_is_confirmed(package, weights):
    with zipfile.ZipFile(package) as archive:
        stated = json.loads(archive.read("manifest.json"))["weights"]["diff_fchm_picture"]
    assert stated["restorer_sha256"] and stated["human_sha256"] is None
    check = crosscheck(package, CheckOptions(weights, threads=2))
    assert check.verdict == CONFIRMED, [f for f in check.findings if f.status != "ok"]


def claim_another_restorer(folder):
    other = {"restorer_weights_sha256": "5" * 64}
    for name, where in (("run.json", "codec"), ("result.json", "codec_identity")):
        edit(folder / RUN / name, lambda v, key=where: v[key].update(other))
    edit(
        folder / "manifest.json",
        lambda m: m["weights"]["diff_fchm_picture"].update(restorer_sha256="5" * 64),
    )


def test_another_restorer_is_caught(package, weights, tmp_path):
    changed_package = tampered(package, tmp_path, claim_another_restorer, signed=True)
    check = crosscheck(changed_package, CheckOptions(weights, threads=2))
    assert check.verdict == NOT_CONFIRMED
