# SPDX-License-Identifier: BSD-3-Clause
"""Is a Detectron2 configuration read as Detectron2 means it, and refused where it cannot be run?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from split_parity import MODELS

from vcm_plugin.errors import InputError
from vcm_plugin.split.config import DetectorConfig, from_tree, load_config, to_tree

OTHERS = ("panoptic", "jde")  # networks that are no Faster or Mask R-CNN
FILES = sorted(
    path for path in MODELS.glob("*.yaml") if not any(word in path.stem for word in OTHERS)
)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_file_of_ours_survives_a_round_trip(path):
    config = load_config(path)
    assert from_tree(to_tree(config), "tree") == config
    assert config.mask_on == path.stem.startswith(("mask", "minictc"))


def test_values_of_the_model_zoo():
    config = load_config(MODELS / "mask_rcnn_X_101_32x8d_FPN_3x.yaml")
    assert (config.depth, config.num_groups, config.width_per_group) == (101, 32, 8)
    assert config.pixel_std == (57.375, 57.12, 58.395) and not config.stride_in_1x1
    assert config.anchor_sizes == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    assert config.anchor_ratios == ((0.5, 1.0, 2.0),) * 5
    assert (config.rpn_pre_nms_topk_test, config.rpn_post_nms_topk_test) == (1000, 1000)


def test_base_files_and_strings_are_read_as_detectron2_reads_them(tmp_path):
    base = yaml.safe_load((MODELS / "bccd_faster_rcnn.yaml").read_text())
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "b.yaml").write_text(
        '_BASE_: "base/a.yaml"\nMODEL:\n  PIXEL_STD: "(2, 3.0, 4)"\n  RPN: {NMS_THRESH: 0.6}\n'
        "SOLVER: {STEPS: (1, 2)}\n"
    )
    config = load_config(tmp_path / "b.yaml")
    expected = load_config(MODELS / "bccd_faster_rcnn.yaml")
    assert config == replace(expected, pixel_std=(2.0, 3.0, 4.0), rpn_nms_thresh=0.6)


def test_a_list_of_base_files_is_laid_over_one_after_the_other(tmp_path):
    tree = to_tree(load_config(MODELS / "bccd_faster_rcnn.yaml"))
    (tmp_path / "ours.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "a.yaml").write_text(
        "_BASE_: ours.yaml\nMODEL: {MASK_ON: true, RPN: {NMS_THRESH: 0.6}}\n"
    )
    (tmp_path / "b.yaml").write_text("MODEL: {RPN: {NMS_THRESH: 0.5}}\n")
    (tmp_path / "top.yaml").write_text("_BASE_: [a.yaml, b.yaml]\nINPUT: {MIN_SIZE_TEST: 600}\n")
    config = load_config(tmp_path / "top.yaml")
    assert (config.mask_on, config.rpn_nms_thresh, config.min_size_test) == (True, 0.5, 600)


BASES = {
    "an address": ("https://x.org/base.yaml", "the address 'https://x.org/base.yaml'; download it"),
    "a number": ("7", "_BASE_: expected a file or a list of files, found 7"),
    "nothing": ("", "_BASE_: expected a file or a list of files, found None"),
    "a list with nothing": ("[a.yaml, null]", "_BASE_: expected a file or a list"),
    "gone": ("gone.yaml", "gone.yaml: not a readable detector configuration: No such file"),
    "itself, often": ("[top.yaml, top.yaml]", "leads back to itself"),
    "more and more": ("[b0.yaml, b0.yaml]", "more than 30 files"),
}


@pytest.mark.parametrize("case", BASES)
def test_base_files_that_are_refused(tmp_path, case):
    base, message = BASES[case]
    (tmp_path / "a.yaml").write_text("MODEL: {MASK_ON: true}\n")
    for n in range(20):  # each names the next twice: a million files
        (tmp_path / f"b{n}.yaml").write_text(f"_BASE_: [b{n + 1}.yaml, b{n + 1}.yaml]\n")
    (tmp_path / "b20.yaml").write_text("MODEL: {MASK_ON: true}\n")
    (tmp_path / "top.yaml").write_text(f"_BASE_: {base}\nMODEL: {{MASK_ON: true}}\n")
    with pytest.raises(InputError, match=message) as caught:
        load_config(tmp_path / "top.yaml")
    assert "\n" not in str(caught.value)


def test_a_key_twice_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("MODEL:\n  MASK_ON: true\n  MASK_ON: false\n")
    with pytest.raises(InputError, match="a.yaml.*line 3: the key 'MASK_ON' stands twice"):
        load_config(path)


@pytest.mark.parametrize("key, value", [
    ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 5.0), ("MODEL.ROI_HEADS.NMS_THRESH_TEST", -0.1),
    ("MODEL.RPN.NMS_THRESH", float("nan")), ("INPUT.MAX_SIZE_TEST", 0),
    ("MODEL.ROI_HEADS.NUM_CLASSES", -1), ("MODEL.RPN.POST_NMS_TOPK_TEST", 0),
])  # fmt: skip
def test_values_out_of_range_are_refused(key, value):
    tree = node = to_tree(load_config(MODELS / "bccd_faster_rcnn.yaml"))
    *sections, leaf = key.split(".")
    for section in sections:
        node = node[section]
    node[leaf] = value
    with pytest.raises(InputError, match=f"top: {key}: expected a .*number from"):
        from_tree(tree, "top")


def test_the_hash_is_of_values_that_affect_inference(tmp_path):
    source = MODELS / "bccd_faster_rcnn.yaml"
    copy = tmp_path / "elsewhere.yaml"
    copy.write_text("# a comment\n" + source.read_text())
    config = load_config(copy)
    assert config.sha256() == load_config(source).sha256()
    assert replace(config, norm="BN", rpn_batch_size=7).sha256() == config.sha256()
    assert replace(config, score_thresh=0.1).sha256() != config.sha256()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MODEL": {"MASK_ONN": True}}, "unknown key MODEL.MASK_ONN; did you mean MODEL.MASK_ON"),
        ({"MODEL": {"ROI_HEADS": {"NAME": "CascadeROIHeads"}}}, "use runtime: detectron2"),
        ({"MODEL": {"RESNETS": {"NORM": "GN"}}}, "MODEL.RESNETS.NORM.*runtime: detectron2"),
        ({"MODEL": {"FPN": {"NORM": "GN"}}}, "MODEL.FPN.NORM is 'GN'"),
        (
            {"MODEL": {"RESNETS": {"DEFORM_ON_PER_STAGE": [False, True, True, True]}}},
            "DEFORM_ON_PER_STAGE.*use runtime: detectron2",
        ),
        ({"MODEL": {"RESNETS": {"DEPTH": 51}}}, "MODEL.RESNETS.DEPTH: expected .*found 51"),
        ({"MODEL": {"RESNETS": {"DEPTH": "deep"}}}, "DEPTH: expected a value such as 50"),
        ({"MODEL": {"ANCHOR_GENERATOR": {"SIZES": [[8], [16]]}}}, "expected 1 or 5 lists"),
        ({"MODEL": {"PIXEL_STD": [1.0, 0.0, 1.0]}}, "none of them 0"),
        ({"INPUT": {"FORMAT": "YUV-BT.601"}}, "BGR or RGB"),
        ({"MODEL": "none"}, "unknown key MODEL"),
    ],
)
def test_bad_configurations_end_in_one_line(tmp_path, change, message):
    (tmp_path / "base.yaml").write_text((MODELS / "bccd_faster_rcnn.yaml").read_text())
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump({"_BASE_": "base.yaml", **change}))
    with pytest.raises(InputError, match=message) as error:
        load_config(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "just words", "!!python/object/apply:os.system [id]", ""])
def test_files_that_are_no_configuration(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="bad.yaml"):
        load_config(path)


def test_missing_files_and_circles(tmp_path):
    with pytest.raises(InputError, match="none.yaml"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml\n")
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\n")
    with pytest.raises(InputError, match="leads back to itself"):
        load_config(tmp_path / "a.yaml")


def test_defaults_are_those_of_an_fpn_detector():
    tree = to_tree(DetectorConfig())
    assert tree["MODEL"]["ROI_BOX_HEAD"]["POOLER_RESOLUTION"] == 7
    assert from_tree(tree, "tree") == DetectorConfig()
