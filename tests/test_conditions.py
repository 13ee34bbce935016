# SPDX-License-Identifier: BSD-3-Clause
"""Does the condition that a run keeps say the same test, without a path of the machine?"""

from dataclasses import replace

import pytest
from changed import changed

from vcm_plugin.conditions import KEYS, write_condition
from vcm_plugin.ctc.codecs import load_condition, override
from vcm_plugin.errors import InputError


def kept(condition, folder):
    write_condition(condition, folder)
    return load_condition(folder / "condition.yaml"), (folder / "condition.yaml").read_text()


@pytest.mark.parametrize("name", ("minictc", "bccd"))
def test_a_bundled_condition_is_kept_as_it_is(tmp_path, name):
    condition = load_condition(name)
    again, _ = kept(condition, tmp_path)
    assert all(again.value(key) == condition.value(key) for key in (*KEYS, *condition.codec_keys))


@pytest.mark.parametrize(
    "images, annotations, expected",
    (
        ("/data/x/bccd/val", "/data/x/bccd/a.json", ("bccd/val", "bccd/a.json")),
        ("/data/x/coco/val", "/data/x/coco/ann/a.json", ("coco/val", "coco/ann/a.json")),
        ("/home/me/pictures", "/data/sets/a.json", ("me/pictures", "sets/a.json")),
        ("/data/x/kodak", None, ("x/kodak", None)),
        ("bccd/val", "bccd/a.json", ("bccd/val", "bccd/a.json")),
    ),
)
def test_absolute_paths_are_not_kept(tmp_path, images, annotations, expected):
    condition = load_condition("minictc")
    condition = changed(condition, minictc=None, images=images, annotations=annotations, tasks=())
    condition = changed(condition, weights="/home/me/w.pth", diff_fchm_human_prior="/home/me/p")
    again, text = kept(condition, tmp_path)
    assert (again.images, again.annotations) == expected
    assert again.dataset_name() == condition.dataset_name()
    assert "/home" not in text and "/data" not in text
    assert (again.weights, again.value("diff_fchm_human_prior")) == ("w.pth", "p")


def test_a_detector_of_ones_own_is_kept_beside_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("MODEL: {}\n")
    condition = replace(load_condition("minictc"), model=str(tmp_path / "mine.yaml"))
    (tmp_path / "run").mkdir()
    again, _ = kept(condition, tmp_path / "run")
    assert again.model_path() == str(tmp_path / "run" / "model.yaml")
    assert (tmp_path / "run" / "model.yaml").read_text() == "MODEL: {}\n"


GOOD = """\
name: case
images: images
annotations: instances.json
class_names: [ball, ring]
model: minictc_mask_rcnn
tasks: [box, mask]
"""
REFUSED = {
    "limit": ["0", "-1", "1.5", "true", str(10**40)],
    "threads_per_job": ["0", "-2", "5000"],
    "score_threshold": ["-0.1", "1.01", ".nan", ".inf", "high"],
    "iou_threshold": ["0", "2", ".nan"],
    "min_overlap": ["-1", "101"],
    "near_lossless": ["-1", ".inf"],
    "max_unlabelled_seconds": ["-1", ".nan", "long"],
    "expected_box_ap": ["-1", "100.5"],
    "expected_tolerance": ["-0.1"],
    "tasks": ["[box, bod]", "[box, box]", "box", "[semantic]", "[1]"],
    "protocol": ["coko", "semantic", "[coco]"],
    "runtime": ["torch"],
    "split_point": ["p2", ""],
    "minictc": ["tests", "../x"],
    "class_names": ["[ball, Ball]", "[ball, ' ball ']", "[ball, '']", '["ba\\nll"]', "[1, 2]"],
    "sequences": ["[A/x, A/x]", "[../../x]", "[/x]", "['A/..']", "['']"],
    "sequence_folder": ["../{}", "/data/{}", "'C:/{}'"],
    "name": ["../x", "a/b", "..", "''", "' '", '"a\\tb"', "n" * 300],
    "vvc_feature_qps": ["[64]", "[-1]", "[32, 32]", "[32.5]", "[true]", "32", f"[{10**400}]"],
    "vvc_remote_qps": ["[99]", "['32']"],
    "vvc_remote_sizes": ["[33]", "[0]"],
    "vtm_remote_qps": ["[64]"],
    "msfc_qps": ["[64]"],
    "fctm_like_qps": ["[64]", "[37, 37]"],
    "fctm_like_preset": ["placebo"],
    "fctm_like_channels": ["many", "1.5"],
    "fctm_like_removal": ["maybe"],
    "picture_learned_qps": ["[64]", "[37, 37]"],
    "latent_scalable_qps": ["[64]", "[37, 37]", "['x']"],
    "multi_head_qps": ["[64]", "37"],
    "simulcast_learned_points": ["['1+99']", "['1']", "['1+32@50']"],
    "diff_fchm_learned_points": ["['1+99']", "['1']", "['1+32@50']", "['1+auto:32']"],
    "diff_fchm_scales": ["[0]", "[-1]", "[.nan]", "[100]", "[1, 1.0]"],
    "simulcast_points": ["['1+99']", "['1']", "['x+32']"],
    "vvc_feature_preset": ["fastest"],
    "vvc_remote_preset": ["Slow"],
}
NEEDED_BESIDE = {"vvc_remote_sizes": "vvc_remote_qps: [32]\n"}


@pytest.mark.parametrize("key", REFUSED)
def test_values_that_make_no_sense_are_refused_when_they_are_read(tmp_path, key):
    path = tmp_path / "case.yaml"
    path.write_text(GOOD)
    load_condition(path)
    kept = "".join(line + "\n" for line in GOOD.splitlines() if not line.startswith(f"{key}:"))
    for value in REFUSED[key]:
        path.write_text(kept + NEEDED_BESIDE.get(key, "") + f"{key}: {value}\n")
        with pytest.raises(InputError, match="case.yaml: ") as caught:
            load_condition(path)
        message = str(caught.value)
        assert (
            ("expected" in message or "once" in message)
            and "\n" not in message
            and len(message) < 400
        ), value


def test_what_is_changed_afterwards_is_checked_too():
    for changes in ({"limit": 0}, {"tasks": ("mask", "mask")}, {"vvc_remote_qps": (64,)}):
        with pytest.raises(InputError, match="test condition minictc"):
            override(load_condition("minictc"), changes)
