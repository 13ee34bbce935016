# SPDX-License-Identifier: BSD-3-Clause
"""Are the layouts of the MPEG test sets read, run and refused as they should? On drawn ones."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import drawn_sets
import numpy as np
import pytest
from changed import changed

from vcm_plugin.cli.main import main
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.results import load_result
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json
from vcm_plugin.metrics import coco_ap
from vcm_plugin.process import ffmpeg_program
from vcm_plugin.process import run as run_program
from vcm_plugin.testsets.check import missing_data
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.testsets.sequences import load_sequences, read_frames, read_seqinfo

pytestmark = pytest.mark.usefixtures("own_cache")
NAMES = ("Alpha_256x192_50", "Beta_256x192_50")
FRAMES = 3


def sfu_condition(**changes):
    """The built-in detector and codecs on drawn sequences of two classes."""
    values = {
        "name": "drawn_sfu",
        "minictc": None,
        "sequences": tuple(f"CLASS-{k}/{name}" for k, name in zip("CD", NAMES, strict=True)),
        "sequence_folder": "SFU_HW_Obj/{}_val",
        "tasks": ("box",),
        "expected_box_ap": None,
        "expected_mask_ap": None,
        "diff_fchm_scales": (0.7, 4),
        "vvc_feature_range": (-20.5, 25.0),
        "vvc_feature_qps": (30, 41),
        "vvc_remote_qps": (22, 32),
        "vvc_remote_sizes": (100,),
    }
    return changed(load_condition("minictc"), **(values | changes))


@pytest.fixture(scope="module")
def sfu(tmp_path_factory) -> Path:
    """A data root with drawn sequences."""
    root = tmp_path_factory.mktemp("data")
    drawn_sets.draw_sfu(root, list(NAMES), FRAMES)
    return root


@pytest.fixture
def copy(sfu, tmp_path) -> Path:
    """A copy to break."""
    shutil.copytree(sfu, tmp_path / "root")
    return tmp_path / "root"


# --- sequences in the layout of SFU-HW-Objects ----------------------------------------------


def test_drawn_sequences_move_and_are_the_same_every_time(sfu, tmp_path):
    dataset = load_sequences(sfu_condition(), sfu)
    first, second = dataset.sequences
    assert (first.name, first.group, first.frame_rate) == (NAMES[0], "CLASS-C", (50, 1))
    frames = list(read_frames(first))
    assert len(frames) == FRAMES and frames[0].shape == (192, 256, 3)
    assert not np.array_equal(frames[0], frames[1])
    assert first.image_ids == (100000, 100001, 100002) and second.image_ids[0] == 200000
    drawn_sets.draw_sfu(tmp_path, list(NAMES), FRAMES)
    assert load_sequences(sfu_condition(), tmp_path).files_sha256() == dataset.files_sha256()


def test_limit_keeps_the_first_frames_of_each_sequence(sfu):
    dataset = load_sequences(sfu_condition(limit=2), sfu)
    assert [len(s.frames) for s in dataset.sequences] == [2, 2]
    assert len(dataset.coco["images"]) == 4
    assert {a["image_id"] for a in dataset.coco["annotations"]} <= {100000, 100001, 200000, 200001}


@pytest.fixture(scope="module")
def calm(sfu, shared_cache, tmp_path_factory):
    """One run of the proposal and of each anchor on the drawn sequences."""
    folder = tmp_path_factory.mktemp("calm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        for codec in ("diff_fchm", "vvc_feature", "vvc_remote"):
            run(sfu_condition(), codec, folder / codec, RunOptions(data_root=sfu))
    return folder


@pytest.mark.parametrize("codec", ["diff_fchm", "vvc_feature", "vvc_remote"])
def test_sequences_run_end_to_end(calm, codec):
    result = load_result(calm / codec)
    assert result.dataset.pictures == 2 * FRAMES
    assert [sequence.group for sequence in result.dataset.sequences] == ["CLASS-C", "CLASS-D"]
    assert result.uncompressed.accuracy["box_ap"] > 60
    for point in result.points:
        folder = calm / codec / point.rate_point
        files = sorted((folder / "bitstreams").iterdir())
        assert len(files) == 2 and sum(8 * f.stat().st_size for f in files) == point.bits
        assert point.bits == sum(point.per_picture.bits)
        assert len(point.per_picture.image_id) == 2 * FRAMES
        assert set(point.sequences) == set(NAMES)
    high, low = result.points
    assert high.bits > low.bits
    assert high.accuracy["box_ap"] > low.accuracy["box_ap"]


def test_accuracy_of_classes_is_pooled_over_their_sequences(calm, sfu):
    point = load_result(calm / "diff_fchm").points[0]
    predictions = read_json(calm / "diff_fchm" / point.rate_point / "predictions.json")
    together = sfu_condition(sequences=tuple(f"ALL/{name}" for name in NAMES))
    pooled = coco_ap.evaluate(load_sequences(together, sfu).coco, predictions, ["box"])
    assert pooled.items() <= point.accuracy.items()
    assert point.classes["CLASS-C"] == point.sequences[NAMES[0]]
    assert point.classes["CLASS-C"] != point.classes["CLASS-D"]


def test_features_and_files_are_those_of_single_pictures(calm, sfu):
    """The machine units of a sequence are what the codec writes for its frames as pictures."""
    from vcm_plugin import bitstream
    from vcm_plugin.ctc.codecs import make_codec
    from vcm_plugin.ctc.detector import load_detector

    condition = sfu_condition()
    codec, model = make_codec("diff_fchm", condition), load_detector(condition, "cpu")
    stream = bitstream.read((calm / "diff_fchm/0.7/bitstreams/1.fcm").read_bytes())
    entry = load_sequences(condition, sfu).sequences[0]
    for unit, picture in zip(stream.units, read_frames(entry), strict=True):
        alone = codec.encode(model.nn_part1(picture), "0.7")
        assert unit.payload == bitstream.read(alone).units[0].payload


def test_jobs_and_a_lost_file_do_not_change_the_result(calm, sfu, tmp_path):
    shutil.copytree(calm / "diff_fchm", tmp_path / "run")
    (tmp_path / "run/0.7/bitstreams/2.fcm").unlink()
    (tmp_path / "run/result.json").unlink()
    run(sfu_condition(), "diff_fchm", tmp_path / "run", RunOptions(data_root=sfu, jobs=2))
    assert (tmp_path / "run/result.json").read_bytes() == (
        calm / "diff_fchm/result.json"
    ).read_bytes()


def test_random_access_is_another_test(sfu, tmp_path):
    condition = sfu_condition(vvc_random_access=True, vvc_feature_qps=(41,), limit=2)
    result = run(condition, "vvc_feature", tmp_path / "run", RunOptions(data_root=sfu))
    assert "IntraPeriod=PERIOD" in result.codec_identity["inner_codec"]["command"]
    assert result.points[0].accuracy["box_ap"] > 0


def test_codecs_of_pictures_say_so(sfu, tmp_path, monkeypatch):
    from vcm_plugin.ctc import codecs

    class Pictures:
        name, kind = "vvc_remote", "picture"

    class Settings(codecs.CODECS["vvc_remote"]):
        def make(self, context):
            return Pictures()

    monkeypatch.setitem(codecs.CODECS, "vvc_remote", Settings)
    with pytest.raises(InputError, match="codes pictures only"):
        run(sfu_condition(), "vvc_remote", tmp_path / "run", RunOptions(data_root=sfu))


@pytest.mark.parametrize("suffix", [".yuv", ".mp4"])
def test_frames_in_a_video_file(copy, suffix):
    condition = sfu_condition()
    pictures = [list(read_frames(s)) for s in load_sequences(condition, copy).sequences]
    for name in NAMES:
        folder = copy / "SFU_HW_Obj" / f"{name}_val"
        source = folder / "images" / f"{folder.name}_%03d.png"
        coding = {".yuv": ["-pix_fmt", "yuv420p10le", "-f", "rawvideo"],
                  ".mp4": ["-vcodec", "libx264", "-qp", "4"]}[suffix]  # fmt: skip
        target = folder / f"{folder.name}{suffix}"
        run_program([ffmpeg_program(), "-loglevel", "error", "-i", source, *coding, target])
        shutil.rmtree(folder / "images")
    dataset = load_sequences(condition, copy)
    for sequence, expected in zip(dataset.sequences, pictures, strict=True):
        found = list(read_frames(sequence))
        assert len(found) == FRAMES
        for a, b in zip(found, expected, strict=True):
            assert np.abs(a.astype(int) - b).mean() < 8  # chroma has half the resolution
    target.write_bytes(target.read_bytes()[: 2 * 192 * 256 * 3] if suffix == ".yuv" else b"broken")
    with pytest.raises(InputError, match="expected 3 frames of 192x256|expected a readable video"):
        list(read_frames(load_sequences(condition, copy).sequences[1]))


# --- bad input ------------------------------------------------------------------------------


def broken(root: Path, how: str) -> None:
    folder = root / "SFU_HW_Obj" / f"{NAMES[0]}_val"
    truth = folder / "annotations" / f"{folder.name}.json"
    if how == "no layout":
        (root / "SFU_HW_Obj").rename(root / "other")
    elif how == "missing frames":
        (folder / "images" / f"{folder.name}_001.png").unlink()
    elif how == "no frame rate":
        lines = (folder / "seqinfo.ini").read_text().splitlines()
        lines = [line for line in lines if not line.startswith("frameRate")]
        (folder / "seqinfo.ini").write_text("\n".join(lines))
    elif how == "no seqinfo":
        (folder / "seqinfo.ini").unlink()
    elif how == "another sequence":
        coco = json.loads(truth.read_text())
        coco["images"].pop()
        coco["annotations"] = []
        truth.write_text(json.dumps(coco))
    elif how == "ids of a larger set":
        coco = json.loads(truth.read_text())
        coco["images"][-1]["id"] = 1_400_002
        coco["annotations"] = []
        truth.write_text(json.dumps(coco))
    elif how == "another data set":
        coco = json.loads(truth.read_text())
        coco["categories"][0]["name"] = "zebra"
        truth.write_text(json.dumps(coco))


BROKEN = {
    "no layout": "seqinfo.ini: no such file|annotations.*no such file",
    "missing frames": "1 of 3 frames are missing in images/: Alpha_256x192_50_val_001.png",
    "no frame rate": r"expected frameRate in \[Sequence\], as in frameRate=60, found none",
    "no seqinfo": "seqinfo.ini: no such file; it says .Sequence. name, frameRate and seqLength",
    "another sequence": "annotates 2 frames, seqinfo.ini says 3; are these the annotations of",
    "ids of a larger set": "expected picture ids from 0 to 99999, found 0 to 1400002",
    "another data set": "expected the categories of the other sequences|zebra are none of",
}


@pytest.mark.parametrize("how", BROKEN)
def test_bad_sequences_end_in_one_line(copy, how):
    broken(copy, how)
    with pytest.raises(InputError, match=BROKEN[how]) as caught:
        load_sequences(sfu_condition(), copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected name in .Sequence."),
        ("[Sequence]\nname=a\nframeRate=fast\nseqLength=3\n", "found fast and 3"),
        ("[Sequence]\nname=a\nframeRate=0\nseqLength=3\n", "found 0 and 3"),
        ("[Sequence]\nname=a\nframeRate=30\nseqLength=-1\n", "found 30 and -1"),
        ("name=a\n", "not readable"),
    ],
)
def test_bad_seqinfo(tmp_path, text, message):
    path = tmp_path / "seqinfo.ini"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_seqinfo(path)
    assert "\n" not in str(caught.value)


def test_frame_rates_of_television(tmp_path):
    path = tmp_path / "seqinfo.ini"
    path.write_text("[Sequence]\nname=a\nframeRate=29.97\nseqLength=9\n")
    assert read_seqinfo(path) == ("a", (2997, 100), 9)


def test_classes_by_position_need_as_many_categories(copy):
    condition = sfu_condition(classes_by_position=True)
    broken(copy, "another data set")
    names = [s for s in condition.sequences if NAMES[0] in s]
    dataset = load_sequences(replace(condition, sequences=tuple(names)), copy)
    assert dataset.category_ids == tuple(range(1, 9))
    with pytest.raises(InputError, match="expected 9 categories, one for each class"):
        more = (*condition.class_names, "more")
        load_sequences(replace(condition, sequences=tuple(names), class_names=more), copy)


# --- check-data -----------------------------------------------------------------------------


def test_check_data_says_what_is_missing_by_file(copy, sfu):
    condition = sfu_condition()
    assert list(missing_data(condition, sfu)) == []
    for how in ("missing frames", "no frame rate"):
        broken(copy, how)
    shutil.rmtree(copy / "SFU_HW_Obj" / f"{NAMES[1]}_val")
    lines = list(missing_data(condition, copy))
    assert len(lines) == 3
    assert "seqinfo.ini: expected frameRate" in lines[0]
    assert lines[1].endswith("Alpha_256x192_50_val_001.png: no such frame")
    assert "Beta_256x192_50_val: no such folder" in lines[2]
    broken(copy, "no layout")
    (line,) = missing_data(condition, copy)
    assert line.endswith("--data-root names the folder that holds SFU_HW_Obj/")


@pytest.mark.parametrize(
    "name", ["sfu_hw", "pandaset", "mpeg_oiv6_detection", "mpeg_oiv6_segmentation", "coco_val2017"]
)
def test_check_data_on_the_conditions_of_cfg(name, tmp_path, capsys):
    assert main(["check-data", name, "--data-root", str(tmp_path)]) == 2
    out, error = capsys.readouterr()
    assert "no such f" in out and "missing or wrong" in error
    assert all(line.count(":") for line in out.strip().splitlines())
    assert main(["check-data", "minictc"]) == 0


# --- Open Images ----------------------------------------------------------------------------


def test_a_run_by_the_protocol_of_open_images(tmp_path):
    drawn_sets.draw_open_images(tmp_path, pictures=2)
    condition = changed(
        load_condition("mpeg_oiv6_segmentation"),
        name="drawn_oiv6",
        classes_by_position=False,
        class_names=load_condition("minictc").class_names,
        model="minictc_mask_rcnn",
        weights="minictc_mask_rcnn.pth",
        diff_fchm_weights="minictc_vfcn.safetensors",
        diff_fchm_scales=(0.7, 8),
        tasks=("box", "mask"),
    )
    assert list(missing_data(condition, tmp_path)) == []
    options = RunOptions(data_root=tmp_path)
    result = run(condition, "diff_fchm", tmp_path / "run", options)
    accuracy = result.uncompressed.accuracy
    assert set(accuracy) == {"box_ap50", "mask_ap50"} and accuracy["box_ap50"] > 60
    assert result.test.protocol == "open_images"
    high, low = result.points
    assert high.bits > low.bits
    expanded = replace(condition, label_hierarchy="mpeg-oiv6/annotations/hierarchy.json")
    numbers = [
        sum(
            len(a["annotations"]["cls"]) for a in open_test_set(c, tmp_path).coco["oic_annotations"]
        )
        for c in (condition, expanded)
    ]
    assert numbers[0] < numbers[1]
    plain = replace(condition, annotations="instances.json")
    coco = json.loads((tmp_path / condition.annotations).read_text())
    del coco["oic_annotations"]
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    with pytest.raises(InputError, match="annotations of another data set"):
        open_test_set(plain, tmp_path)
    assert "oic_annotations" in next(missing_data(plain, tmp_path))


def test_an_unknown_protocol(tmp_path, tiny_condition):
    condition = replace(load_condition(tiny_condition), protocol="kitti")
    with pytest.raises(InputError, match="expected one of coco, open_images, semantic"):
        run(condition, "vvc_feature", tmp_path / "run", RunOptions())


def test_one_frame_of_a_sequence_by_command(calm, tmp_path, capsys):
    file = calm / "diff_fchm/0.7/bitstreams/1.fcm"
    target = tmp_path / "detections.json"
    assert main(["decode", str(file), "--frame", "1", "-o", str(target)]) == 0
    predictions = read_json(calm / "diff_fchm/0.7/predictions.json")
    expected = [p for p in predictions if p["image_id"] == 100001]
    found = read_json(target)
    assert [p["bbox"] for p in found] == [p["bbox"] for p in expected]
    capsys.readouterr()
    for arguments, message in (
        ([], "found a sequence of 3 frames: decode it frame by frame, or with --frame N"),
        (["--frame", "3"], "expected a frame from 0 to 2, found 3"),
    ):
        assert main(["decode", str(file), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["info", str(file)]) == 0
    assert "3 frames at 50 per second" in capsys.readouterr().out
    assert main(["info", str(calm / "vvc_remote/22/bitstreams/1.vvc")]) == 0
    assert "VVC byte stream of a sequence of 3 frames" in capsys.readouterr().out
