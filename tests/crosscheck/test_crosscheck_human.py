# SPDX-License-Identifier: BSD-3-Clause
"""Are claims about decoded pictures confirmed where true, and caught where they are not?"""

import json
import zipfile

import pytest
from changed import changed
from hvcn_tiny import picture
from PIL import Image
from test_crosscheck import cache, edit, edit_lines, tampered  # noqa: F401 (cache: a fixture)

from vcm_plugin import bitstream
from vcm_plugin.bitstream import write_unit
from vcm_plugin.cli.main import main
from vcm_plugin.crosscheck.check import CheckOptions, crosscheck, write_crosscheck
from vcm_plugin.crosscheck.findings import CONFIRMED, NOT_CONFIRMED, SKIPPED, WITH_REMARKS
from vcm_plugin.crosscheck.package import make_package
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.ctc.run_folder import read_records
from vcm_plugin.ctc.typed_json import to_json
from vcm_plugin.files import read_json
from vcm_plugin.metrics.pictures import picture_measures

RUN = "runs/diff_fchm_human"
POINT, OTHER = "1+0.5", "1+2"


@pytest.fixture(scope="module")
def weights(tiny_condition):
    return tuple(
        tiny_condition.parent / name for name in ("tiny.safetensors", "random.pth", "painter")
    )


@pytest.fixture(scope="module")
def package(human_runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "proposal.zip"
    make_package(human_runs[1] / "diff_fchm_human", [], path)
    return path


@pytest.fixture(scope="module")
def with_anchors(human_runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("anchors") / "proposal.zip"
    runs = [human_runs[1] / name for name in ("diff_fchm_human", "simulcast", "vvc_remote")]
    make_package(runs[0], runs[1:], path)
    return path


def records_of(folder, point):
    return {record.image_id: record for record in read_records(folder / RUN / point)}


def restate(folder, change):
    """Change a point's measures in both files that state them."""
    edit(folder / RUN / POINT / "point.json", lambda point: change(point["human_vision"]))
    edit(folder / RUN / "result.json", lambda r: change(r["points"][0]["human_vision"]))


def restate_lines(folder, change):
    """Change the lines of a point, and what follows from them."""
    edit_lines(folder / RUN / POINT / "pictures.jsonl", lambda lines: list(map(change, lines)))
    lines, sources = records_of(folder, POINT), records_of(folder, "uncompressed")
    measured = picture_measures(*([side[i] for i in sorted(sources)] for side in (lines, sources)))
    restate(folder, lambda stated: stated.update(measured))


def type_a_psnr(folder):
    restate(folder, lambda stated: stated.update(psnr=stated["psnr"] + 0.1))


def type_an_accuracy(folder):
    restate(folder, lambda stated: stated.update(painted_box_ap=stated["painted_box_ap"] + 1.0))


def claim_better_pictures(folder):
    def better(line):
        picture = line["picture"]
        return {**line, "picture": {**picture, "vmaf": picture["vmaf"] + 5.0}}

    restate_lines(folder, better)


def claim_the_embeddings_of_the_originals(folder):
    sources = records_of(folder, "uncompressed")
    restate_lines(folder, lambda line: {**line, "embeddings": sources[line["image_id"]].embeddings})


def claim_a_smaller_machine_layer(folder):
    restate_lines(folder, lambda line: {**line, "machine_bits": line["machine_bits"] - 80})


def claim_other_weights_of_the_human_layer(folder):
    for name, where in (("run.json", "codec"), ("result.json", "codec_identity")):
        edit(folder / RUN / name, lambda v, key=where: v[key].update(human_weights_sha256="5" * 64))
    edit(
        folder / "manifest.json",
        lambda manifest: manifest["weights"]["diff_fchm_human"].update(human_sha256="5" * 64),
    )


def send_the_human_layers_of_another_point(folder):
    """Smaller human layers on the same machine layers, with all claims about their sizes."""
    bits = {}
    for path in sorted((folder / RUN / POINT / "bitstreams").iterdir()):
        stream = bitstream.read((folder / RUN / OTHER / "bitstreams" / path.name).read_bytes())
        machine = path.read_bytes()[: bitstream.read(path.read_bytes()).machine_bytes]
        path.write_bytes(machine + write_unit(next(u for u in stream.units if u.type == "human")))
        bits[int(path.stem)] = 8 * path.stat().st_size

    def resize(point):
        stated = point["per_picture"]
        stated["bits"] = [bits[image_id] for image_id in stated["image_id"]]
        point["bits"] = sum(stated["bits"])

    edit(folder / RUN / POINT / "point.json", resize)
    edit(folder / RUN / "result.json", lambda result: resize(result["points"][0]))
    restate_lines(folder, lambda line: {**line, "bits": bits[line["image_id"]]})


TAMPERING = {
    type_a_psnr: "human_vision",
    type_an_accuracy: "human_vision",
    claim_better_pictures: "human_vision",
    claim_the_embeddings_of_the_originals: "human_vision",
    claim_a_smaller_machine_layer: "human_vision",
    claim_other_weights_of_the_human_layer: "config",
    send_the_human_layers_of_another_point: "bitstreams",
}


def test_honest_runs_of_human_vision_are_confirmed(with_anchors, weights, tmp_path):
    with zipfile.ZipFile(with_anchors) as archive:
        assert not [name for name in archive.namelist() if "decoded" in name]
        stated = json.loads(archive.read("manifest.json"))["weights"]
    assert stated["diff_fchm_human"].keys() == {"detector_sha256", "codec_sha256", "human_sha256"}
    assert stated["simulcast"]["codec_sha256"] == stated["diff_fchm_human"]["codec_sha256"]
    assert stated["vvc_remote"]["codec_sha256"] is stated["simulcast"]["human_sha256"] is None
    check = crosscheck(with_anchors, CheckOptions(weights, threads=2))
    assert check.verdict == CONFIRMED, [f for f in check.findings if f.status != "ok"]
    coded = [row for row in check.points if row.rate_point != "uncompressed"]
    assert len(coded) == 3 * 2
    for row in coded:
        measures = row.human_vision
        assert {"psnr", "vmaf", "haarpsi", "kid_detector", "painted_box_ap"} <= set(measures)
        assert ("machine_bits" in measures) == (row.run != "vvc_remote")
        assert abs(measures["psnr"].difference) < 1e-3
    write_crosscheck(check, tmp_path)
    found = read_json(tmp_path / "crosscheck.json")["points"]
    assert found[1]["human_vision"] == to_json(check.points[1].human_vision)
    assert "Human vision" in (tmp_path / "crosscheck.html").read_text()


@pytest.mark.parametrize("change", TAMPERING, ids=lambda change: change.__name__)
def test_tampering_is_caught_by_the_manifest(package, weights, tmp_path, change):
    check = crosscheck(tampered(package, tmp_path, change, signed=False), CheckOptions(weights))
    assert check.verdict == NOT_CONFIRMED and check.first_failure.step == "manifest"


@pytest.mark.parametrize("change", TAMPERING, ids=lambda change: change.__name__)
def test_signed_tampering_is_caught_by_its_step(package, weights, tmp_path, change):
    check = crosscheck(tampered(package, tmp_path, change, signed=True), CheckOptions(weights))
    assert check.verdict == NOT_CONFIRMED
    assert check.first_failure.step == TAMPERING[change], check.first_failure
    if check.first_failure.rate_point:
        assert check.first_failure.rate_point == POINT
        assert check.verdict_of_point("diff_fchm_human", OTHER) == CONFIRMED


def test_without_the_weights_of_the_human_layer_the_check_says_so(
    package, weights, tmp_path, capsys
):
    given = [word for path in weights[:2] for word in ("--weights", str(path))]
    assert main(["crosscheck", str(package), *given, "-o", str(tmp_path / "out")]) == 3
    assert "diff_fchm_human_weights: no folder of a human layer" in capsys.readouterr().out
    check = crosscheck(package, CheckOptions(weights[:2]))
    assert check.verdict == WITH_REMARKS
    assert {f.step for f in check.findings if f.status == SKIPPED} >= {"config", "features"}


def test_a_folder_of_weights_is_taken_by_the_command(package, weights, tmp_path, capsys):
    given = [word for path in weights for word in ("--weights", str(path))]
    assert weights[2].is_dir()
    assert main(["crosscheck", str(package), *given, "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.rstrip().endswith(CONFIRMED)


@pytest.mark.parametrize(
    "name, message",
    [("nowhere", "expected a file or a folder of weights"), ("empty", "found neither in it")],
)
def test_what_holds_no_weights_is_refused(package, tmp_path, capsys, name, message):
    (tmp_path / "empty").mkdir()
    words = ["crosscheck", str(package), "--weights", str(tmp_path / name)]
    assert main([*words, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_pictures_without_ground_truth(tiny_condition, weights, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in (1, 2):
        Image.fromarray(picture((70, 90), number)).save(tmp_path / f"pictures/{number}.png")
    condition = changed(
        load_condition(tiny_condition), minictc=None, images="pictures", tasks=(),
        human_vision=True, simulcast_points=("1+47",),
    )  # fmt: skip
    run(condition, "simulcast", tmp_path / "run", RunOptions(data_root=tmp_path))
    make_package(tmp_path / "run", [], tmp_path / "p.zip")
    check = crosscheck(tmp_path / "p.zip", CheckOptions(weights, data_root=tmp_path))
    assert check.verdict == CONFIRMED, [f for f in check.findings if f.status != "ok"]
    assert check.points[1].human_vision["psnr"].claimed > 10
    check = crosscheck(tmp_path / "p.zip", CheckOptions(weights))
    assert check.verdict == WITH_REMARKS
    assert {f.step for f in check.findings if f.status == SKIPPED} >= {"data", "human_vision"}
