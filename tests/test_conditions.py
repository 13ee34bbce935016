# SPDX-License-Identifier: BSD-3-Clause
"""Does the condition that a run keeps say the same test, without a path of the machine?"""

from dataclasses import replace

import pytest
from changed import changed

from vcm_plugin.conditions import KEYS, write_condition
from vcm_plugin.ctc.codecs import load_condition


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
