# SPDX-License-Identifier: BSD-3-Clause
"""Does a run folder survive kills and refuse to mix tests; do conditions and the cache hold?"""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
import torch

from vcm_plugin import conditions
from vcm_plugin.ctc.codecs import load_condition, override
from vcm_plugin.ctc.feature_cache import FeatureCache
from vcm_plugin.ctc.results import Record, load_result
from vcm_plugin.ctc.run_folder import (
    Journal,
    bitstream_path,
    claim,
    read_predictions,
    read_records,
    read_seconds,
)
from vcm_plugin.ctc.typed_json import to_json
from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.files import locked, read_json, write_bytes, write_json
from vcm_plugin.testsets.open import open_test_set

# --- the run folder -------------------------------------------------------------------------


def line(image_id: int, bits: int = 80) -> Record:
    sha256 = hashlib.sha256(bytes(bits // 8)).hexdigest()
    return Record(image_id, bits, sha256, predictions=[{"image_id": image_id}])


def text_of(record: Record) -> str:
    return json.dumps(to_json(record), separators=(",", ":"))


@pytest.mark.parametrize("torn", range(1, len(text_of(line(2))) + 1))
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path, torn):
    journal = Journal(tmp_path)
    journal.append(line(1))
    journal.append(line(2))
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[:-torn])
    again = Journal(tmp_path)
    assert list(again.records) == [1]
    again.append(line(2))
    assert journal.path.read_bytes() == data
    assert read_predictions(tmp_path, [2, 1]) == [{"image_id": 2}, {"image_id": 1}]
    assert again.records[1].predictions is None and again.records[1].bits == 80


def test_a_line_counts_only_with_its_bitstream(tmp_path):
    journal = Journal(tmp_path)
    journal.append(line(1))
    file = bitstream_path(tmp_path, 1, "fcm")
    assert file.name == "1.fcm" and not journal.has(1, "fcm")
    write_bytes(file, bytes(10))
    assert journal.has(1, "fcm") and not journal.has(2, "fcm")
    write_bytes(file, bytes(9))
    assert not journal.has(1, "fcm")


def test_writing_is_atomic(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [item.name for item in path.parent.iterdir()] == ["file.json"]


def test_a_folder_belongs_to_one_test(tmp_path):
    claim(tmp_path, {"codec": {"name": "a", "preset": "faster"}, "x": 1})
    claim(tmp_path, {"x": 1, "codec": {"preset": "faster", "name": "a"}})
    (tmp_path / "32").mkdir()
    (tmp_path / "32" / ".5.fcm.1234").write_bytes(b"torn")
    with pytest.raises(InputError, match="codec.preset is faster there and slow now.*--overwrite"):
        claim(tmp_path, {"codec": {"name": "a", "preset": "slow"}, "x": 1})
    claim(tmp_path, {"x": 2}, overwrite=True)
    assert [item.name for item in tmp_path.iterdir()] == ["run.json"]


def test_other_pictures_are_told_in_words(tmp_path):
    claim(tmp_path, {"files_sha256": "1", "x": 1}, pictures=2)
    with pytest.raises(InputError, match="other pictures or annotations there; x is 1 there and 2"):
        claim(tmp_path, {"files_sha256": "2", "x": 2}, pictures=3)
    write_json(tmp_path / "ground_truth.json", {"images": [{}, {}]})
    with pytest.raises(InputError, match="another test: 2 pictures there, 3 asked for; give"):
        claim(tmp_path, {"files_sha256": "2", "x": 1}, pictures=3)
    claim(tmp_path, {"files_sha256": "1", "x": 1}, pictures=2)


def test_other_code_is_told_in_words(tmp_path):
    claim(tmp_path, {"environment": {"code_sha256": "1"}})
    with pytest.raises(InputError, match="test: it was made by another version of the code; give"):
        claim(tmp_path, {"environment": {"code_sha256": "2"}})


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="other files"):
            claim(tmp_path, {"x": 1}, overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with locked(tmp_path):
        with pytest.raises(InputError, match="another run works in this folder"):
            with locked(tmp_path):
                pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "not complete"), ("{", "not readable"), ("[]", "found None"), ("{}", "found")],
)
def test_load_result_refuses_what_is_none(tmp_path, content, message):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load_result(tmp_path)


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    record = Record(
        7, 80, "00" * 32, (32, 48), None, {"encode": 0.5}, {"p2": [0.1, 1.0]}, [{"score": 0.5}],
        40, [],
        {"psnr": 30.5, "ms_ssim": "n/a: a side under 161 pixels"}, {"detector": [0.25]},
    )  # fmt: skip
    journal = Journal(tmp_path)
    journal.append(record)
    journal.append(line(8))
    assert list(read_records(tmp_path)) == [record, line(8)]
    assert list(read_records(tmp_path, [8])) == [line(8)]
    assert read_seconds(tmp_path) == {7: {"encode": 0.5}, 8: {}}
    kept = Journal(tmp_path).records
    assert kept[7] == Record(7, 80, "00" * 32, (32, 48), machine_bits=40) == journal.records[7]
    assert list(to_json(line(8))) == ["image_id", "bits", "file_sha256", "predictions"]


BAD_LINES = {
    "no JSON": ("{", "a line is no JSON"),
    "a list": ("[]", r"expected an object, found \[\]"),
    "no id": ('{"bits": 8}', "expected a field image_id, found none"),
    "another field": ('{"image_id": 1, "bit": 8}', "unknown field bit;"),
    "text for a number": ('{"image_id": "1"}', "image_id: expected a whole number, found '1'"),
    "no number in a list": ('{"image_id": 1, "frame_bits": [true]}', r"frame_bits\[0\]: expect"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named_with_its_file_and_field(tmp_path, case):
    text, message = BAD_LINES[case]
    (tmp_path / "pictures.jsonl").write_text(text + "\n")
    with pytest.raises(InputError, match=f"pictures.jsonl:.*{message}") as caught:
        Journal(tmp_path)
    assert "\n" not in str(caught.value)


# --- test conditions ------------------------------------------------------------------------

MINIMAL = "name: x\nmodel: m\nclass_names: [a, b]\ntasks: [box]\n"


def write_condition(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_a_condition_is_read_and_its_sources_are_notes(tmp_path):
    text = MINIMAL + "vvc_feature_range: [-2, 3.5]\nvvc_feature_range_source: val\nlimit: null\n"
    condition = load_condition(write_condition(tmp_path, text))
    assert condition.class_names == ("a", "b") and condition.limit is None
    assert condition.value("vvc_feature_range") == (-2.0, 3.5)
    assert all(type(value) is float for value in condition.value("vvc_feature_range"))
    with pytest.raises(InputError, match="expected the key vvc_feature_qps, found none"):
        condition.require("vvc_feature_qps")


BAD_CONDITIONS = {
    "unknown key": (
        MINIMAL + "vvc_feature_qp: [22]\n",
        "vvc_feature_qp; did you mean vvc_feature_qps",
    ),
    "missing key": ("name: x\n", "expected the key model"),
    "text for number": (MINIMAL + "threads_per_job: one\n", "threads_per_job: expected int"),
    "bool for number": (MINIMAL + "threads_per_job: true\n", "threads_per_job: expected int"),
    "number for list": (MINIMAL + "vvc_feature_qps: 22\n", r"expected list\[int\], found 22"),
    "float in list": (MINIMAL + "vvc_feature_qps: [22.5]\n", r"expected list\[int\]"),
    "no mapping": ("- a\n", "expected the keys of a test condition"),
    "no YAML": ("a: [\n", "not a readable test condition"),
}


@pytest.mark.parametrize("case", BAD_CONDITIONS)
def test_bad_conditions_are_refused(tmp_path, case):
    text, message = BAD_CONDITIONS[case]
    with pytest.raises(InputError, match=message):
        load_condition(write_condition(tmp_path, text))


def test_unknown_condition_names_the_known_ones():
    with pytest.raises(InputError, match="expected one of .*minictc"):
        load_condition("minictk")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "cfg/ctc").glob("*.yaml")))
def test_every_condition_of_cfg_is_valid(path):
    condition = load_condition(path)
    assert condition.name == path.stem
    assert Path(condition.model_path()).is_file()


def test_another_test_has_no_expected_accuracy(tmp_path):
    text = MINIMAL + "minictc: test\nexpected_box_ap: 70\nexpected_tolerance: 0.5\n"
    condition = load_condition(write_condition(tmp_path, text))
    assert override(condition, {"limit": None}).expected() == {"box_ap": 70.0}
    assert override(condition, {"limit": 3}).expected() == {}
    assert override(condition, {"limit": 3}).name == "x-changed"
    assert override(condition, {"images": "a", "annotations": "b"}).minictc is None


def test_what_was_changed_stands_in_words_and_names_no_folder(tmp_path):
    condition = load_condition(write_condition(tmp_path, MINIMAL + "minictc: test\n"))
    once = override(condition, {"limit": 3, "minictc": "test", "vvc_remote_qps": (22, 27)})
    assert once.overrides == (
        "limit: 3 in place of none", "vvc_remote_qps: 22, 27 in place of none",
    )  # fmt: skip
    twice = override(once, {"weights": "/home/someone/detector.pth"})
    assert twice.overrides[2] == "weights: detector.pth in place of none"
    conditions.write_condition(twice, tmp_path)
    assert load_condition(tmp_path / "condition.yaml").overrides == twice.overrides


@pytest.mark.parametrize("limit, cut_from", ((None, None), (2, 64), (64, None)))
def test_a_test_set_knows_of_how_many_pictures_it_was_cut(own_cache, limit, cut_from):
    condition = override(load_condition("minictc"), {"limit": limit})
    assert open_test_set(condition).cut_from() == cut_from


# --- feature cache --------------------------------------------------------------------------


def pyramid(value: float) -> FeaturePyramid:
    layer = torch.full((2, 4, 8), value)
    return FeaturePyramid({"r2": layer}, (15, 31), (16, 32))


def test_the_cache_returns_equal_features_and_stays_bounded(tmp_path):
    cache = FeatureCache(tmp_path / "cache", limit_bytes=1000)
    assert cache.get("a") is None
    for name, value in (("a", 1.5), ("b", 2.5), ("c", 3.5)):
        cache.put(name, pyramid(value), 0.5)
        time.sleep(0.01)
    files = list((tmp_path / "cache").iterdir())
    assert sum(file.stat().st_size for file in files) <= 1000
    found, seconds = cache.get("c")
    assert seconds == 0.5
    assert torch.equal(found.layers["r2"], pyramid(3.5).layers["r2"])
    assert (found.source_size, found.input_size) == ((15, 31), (16, 32))


def test_the_cache_drops_what_was_not_used_for_longest(tmp_path):
    cache = FeatureCache(tmp_path, limit_bytes=1100)  # room for two
    for number, name in enumerate("ab"):
        cache.put(name, pyramid(1.0), 0.5)
        os.utime(tmp_path / f"{name}.safetensors", (number, number))
    assert cache.get("a") is not None
    cache.put("c", pyramid(1.0), 0.5)
    assert cache.get("b") is None and cache.get("a") is not None


def test_a_damaged_cache_file_is_as_good_as_none(tmp_path):
    cache = FeatureCache(tmp_path, limit_bytes=10000)
    cache.put("a", pyramid(1.0), 0.5)
    (tmp_path / "a.safetensors").write_bytes(b"damaged")
    assert cache.get("a") is None
