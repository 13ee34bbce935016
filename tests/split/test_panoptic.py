# SPDX-License-Identifier: BSD-3-Clause
"""Is mIoU of labelled points what it should be, and is a panoptic detector cut without a change?"""

import warnings

import drawn_sets
import numpy as np
import pytest
from changed import changed
from table_script import assert_same_rows, rows_of, script_rows

from vcm_plugin.crosscheck import CheckOptions, crosscheck
from vcm_plugin.crosscheck.findings import CONFIRMED, WITH_REMARKS
from vcm_plugin.crosscheck.package import make_package
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.errors import InputError
from vcm_plugin.metrics.point_miou import confusion, mean_iou
from vcm_plugin.report.ctc_tables import write_ctc_tables
from vcm_plugin.split.config import load_config
from vcm_plugin.testsets.check import missing_data
from vcm_plugin.testsets.points import load_points, read_points
from vcm_plugin.testsets.sequences import read_frames


def drawn_condition(**changes):
    """Things 0..7, stuff 0 ("things") and 1..5 (ground) of a detector of drawn scenes."""
    values = {
        "name": "drawn_pandaset",
        "sequences": ("M1/001", "M2/002"),
        "class_names": load_condition("minictc").class_names,
        "semantic_of_class": (*range(1, 9), 0, 9, 9, 9, 9, 9),
        "semantic_of_label": (9, *range(1, 9)),
        "semantic_judged": tuple(range(1, 10)),
        "vvc_feature_range": (-30.0, 30.0),
        "vvc_feature_qps": (22, 37),
        "weights": None,
    }
    return changed(load_condition("pandaset"), **(values | changes))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    drawn_sets.draw_pandaset(root, ["001", "002"])
    return root


def test_iou_by_hand():
    segments = np.array([[0, 0, 1], [1, -1, 1]])
    points = [[0, 0, 1], [1, 0, 2], [2, 0, 2], [1, 1, 1], [2, 1, 0]]
    matrix = np.array(confusion(segments, points, (1, 2), (0, 1, 2)))
    assert matrix.tolist() == [[0, 0, 1], [1, 1, 0], [0, 1, 1]]
    assert mean_iou(matrix, (1, 2)) == pytest.approx(100 * (1 / 3 + 1 / 3) / 2)
    assert mean_iou(matrix, (1,)) == pytest.approx(100 / 3)
    with pytest.raises(InputError, match="no point of a judged class"):
        mean_iou(np.zeros((3, 3)), (1, 2))
    assert np.sum(confusion(segments, np.zeros((0, 3), int), (1, 2), (0, 1))) == 0


@pytest.mark.parametrize("point", [[3, 0, 0], [0, 2, 0], [0, 0, 3], [-1, 0, 0]])
def test_points_that_cannot_be(point):
    with pytest.raises(InputError, match="annotations of another data set"):
        confusion(np.zeros((2, 3), int), [point], (1, 2), (0, 1, 2))


def test_the_points_of_drawn_sequences(drawn):
    condition = drawn_condition()
    dataset = load_points(condition, drawn)
    for entry in dataset.sequences:
        points = read_points(entry)
        assert [len(p) for p in points] == [500, 499]
        for picture, frame_points in zip(read_frames(entry), points, strict=True):
            assert frame_points[:, 0].max() < picture.shape[1]
            assert frame_points[:, 1].max() < picture.shape[0]
            assert set(frame_points[:, 2]) <= set(range(9)) and frame_points[:, 2].max() > 0
    weights = [line for line in missing_data(condition, drawn)]
    assert weights == []


@pytest.mark.parametrize("how", ["text", "other name", "code", "frames", "picture"])
def test_bad_points(drawn, tmp_path, how):
    drawn_sets.draw_pandaset(tmp_path, ["001"])
    folder = tmp_path / "PandaSet/001"
    path = folder / "annotations/001.npz"
    if how == "text":
        path.write_text("no points")
    elif how == "other name":
        np.savez(path, points=np.zeros((2, 5, 3), int))
    elif how == "code":
        rows = np.empty(2, dtype=object)
        rows[:] = [print, print]
        np.savez(path, gt=rows)
    elif how == "frames":
        np.savez(path, gt=np.zeros((5, 4, 3), int))
    else:
        next((folder / "camera/front_camera").iterdir()).unlink()
    expected = {
        "frames": "points of 2 frames, found 5; are these the annotations of another",
        "picture": "seqinfo.ini says 2 frames, found 1 JPEG",
        "code": "the file asks to run builtins.print",
    }.get(how, "expected an array `gt` with the points")
    with pytest.raises(InputError, match=expected) as caught:
        load_points(drawn_condition(sequences=("M1/001",)), tmp_path)
    assert "\n" not in str(caught.value)


def test_torchvision_has_no_panoptic_detector():
    with pytest.raises(InputError, match="PanopticFPN.*use runtime: detectron2"):
        load_config(load_condition("pandaset").model_path())


# --- with Detectron2 ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory):
    """A small Panoptic FPN for drawn scenes with random weights that finds both kinds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("detectron2", reason="Detectron2 is not installed")
        import torch
        import yaml
        from detectron2.modeling import build_model

        from vcm_plugin.environment import cfg_folder
        from vcm_plugin.split.detectron2 import read_config
    folder = tmp_path_factory.mktemp("panoptic")
    tree = yaml.safe_load((cfg_folder() / "models/panoptic_rcnn_R_101_FPN_3x.yaml").read_text())
    tree["MODEL"]["RESNETS"]["DEPTH"] = 50
    tree["MODEL"]["ROI_HEADS"] |= {"NUM_CLASSES": 8, "SCORE_THRESH_TEST": 0.0}
    tree["MODEL"]["SEM_SEG_HEAD"] |= {"NUM_CLASSES": 6, "CONVS_DIM": 32}
    tree["MODEL"]["PANOPTIC_FPN"]["COMBINE"] |= {
        "STUFF_AREA_LIMIT": 16, "INSTANCES_CONFIDENCE_THRESH": 0.11,
    }  # fmt: skip
    tree["INPUT"] |= {"MIN_SIZE_TEST": 96, "MAX_SIZE_TEST": 160}
    (folder / "panoptic.yaml").write_text(yaml.safe_dump(tree))
    config = read_config(folder / "panoptic.yaml")
    config.MODEL.DEVICE = "cpu"
    torch.manual_seed(3)
    model = build_model(config)
    for name, parameter in model.named_parameters():
        if "predictor" in name and parameter.ndim > 1:
            parameter.data *= 30  # else nothing is found
    torch.save({"model": model.state_dict()}, folder / "panoptic.pth")
    return folder


@pytest.mark.detectron2
def test_segments_are_those_of_detectron2(panoptic, drawn):
    import torch

    from vcm_plugin.split import load_split_model

    detector = load_split_model(
        panoptic / "panoptic.yaml", panoptic / "panoptic.pth", runtime="detectron2"
    )
    picture = next(read_frames(load_points(drawn_condition(), drawn).sequences[0]))
    found = detector.nn_part2(detector.nn_part1(picture)).segments
    height, width = picture.shape[:2]
    with torch.no_grad():
        x = detector._network_input(picture)
        ids, segments = detector.model([{"image": x, "height": height, "width": width}])[0][
            "panoptic_seg"
        ]
    expected = np.full((height, width), -1)
    for segment in segments:
        stuff = 0 if segment["isthing"] else 8
        expected[ids.numpy() == segment["id"]] = segment["category_id"] + stuff
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) > 2  # things and stuff


@pytest.mark.detectron2
def test_a_drawn_pandaset_runs_end_to_end(panoptic, drawn, tmp_path, own_cache):
    condition = drawn_condition(
        model=str(panoptic / "panoptic.yaml"), weights=str(panoptic / "panoptic.pth")
    )
    result = run(condition, "vvc_feature", tmp_path / "run", RunOptions(data_root=drawn))
    for point in (result.uncompressed, *result.points):
        of_sequence = [found["miou"] for found in point.sequences.values()]
        assert point.accuracy == {"miou": pytest.approx(np.mean(of_sequence))}
        assert point.classes["M1"]["miou"] == of_sequence[0]
    assert result.points[0].bits > result.points[1].bits
    make_package(tmp_path / "run", [], tmp_path / "proposal.zip")
    weights = (panoptic / "panoptic.pth",)
    here = CheckOptions(data_root=drawn, weights=weights)
    check = crosscheck(tmp_path / "proposal.zip", here)
    assert check.verdict == CONFIRMED
    assert any("labelled points are of another class (0.000 %)" in f.text for f in check.findings)
    away = crosscheck(tmp_path / "proposal.zip", CheckOptions(weights=weights))
    assert away.verdict == WITH_REMARKS  # the points are not part of a package


@pytest.mark.harness
def test_the_harness_makes_the_same_table(panoptic, tmp_path, own_cache):
    """Of all sequences of PandaSet, a frame each, whose real names the script wants."""
    names = load_condition("pandaset").sequences
    drawn_sets.draw_pandaset(tmp_path, [name.rpartition("/")[2] for name in names], frames=1)
    condition = drawn_condition(
        name="pandaset", sequences=names, vvc_feature_qps=(22, 27, 32, 37),
        model=str(panoptic / "panoptic.yaml"), weights=str(panoptic / "panoptic.pth"),
    )  # fmt: skip
    run(condition, "vvc_feature", tmp_path / "run", RunOptions(data_root=tmp_path))
    path = write_ctc_tables([tmp_path / "run"], tmp_path / "tables")
    ours = rows_of(path)
    assert len(ours) == 36 * 4 + 3 * 4
    assert_same_rows(ours, script_rows(path.parent, tmp_path / "PandaSet", "PANDASET"))


@pytest.mark.harness
@pytest.mark.parametrize("seed", range(3))
def test_the_harness_says_the_same(seed):
    evaluators = pytest.importorskip(
        "compressai_vision.evaluators.evaluators", reason="needs CompressAI-Vision"
    )
    from compressai_vision.evaluators import config

    condition = load_condition("pandaset")
    things = [config.coco_things_to_pandaset[k] for k in range(80)]
    stuff = [config.coco_stuff_to_pandaset[k] for k in range(54)]
    judged = config.pandaset_to_vcm_category
    assert condition.semantic_of_class == tuple(judged[k] for k in (*things, *stuff))
    assert condition.semantic_of_label == tuple(judged[k] for k in range(43))
    assert list(condition.semantic_judged) == config.vcm_eval_category
    random = np.random.default_rng(seed)
    segments = random.integers(-1, 134, (60, 80))
    points = np.stack([random.integers(0, n, 4000) for n in (80, 60, 43)], axis=1)
    matrix = confusion(segments, points, condition.semantic_of_class, condition.semantic_of_label)
    found = np.array([*condition.semantic_of_class, 0])[segments[points[:, 1], points[:, 0]]]
    labels = np.array(condition.semantic_of_label)[points[:, 2]]
    expected, _ = evaluators.calculate_mIoU(labels, found)
    assert mean_iou(matrix, condition.semantic_judged) == pytest.approx(expected)
