# SPDX-License-Identifier: BSD-3-Clause
"""Is a Detectron2 configuration read as Detectron2 means it, and refused where it cannot be run?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from split_parity import MODELS

from vcm_plugin.errors import InputError
from vcm_plugin.split.config import DetectorConfig, from_tree, load_config, to_tree

FILES = sorted(path for path in MODELS.glob("*.yaml") if "panoptic" not in path.name)


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
