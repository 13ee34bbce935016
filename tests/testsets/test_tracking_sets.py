# SPDX-License-Identifier: BSD-3-Clause
"""Tracking sets: the drawn one and its promises, the MOT layout, and one line for bad input."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.errors import InputError
from vcm_plugin.testsets import minictc_tracking
from vcm_plugin.testsets.check import missing_data
from vcm_plugin.testsets.coco import FRAMES
from vcm_plugin.testsets.minictc_tracking import draw_sequence, write_sequence
from vcm_plugin.testsets.open import open_test_set

THIRD_FRAME = "6d838b56ba14d5a0ce95f92b9c08401f88d4dbe7bf241eb0586a867eb656da54"
SIZE = (48, 64)


def write_set(root, name="TVD-01", frames=4, truth=None, stated=None):
    """A sequence of grey frames in the layout of TVD."""
    folder = root / "tvd_tracking" / name
    (folder / "img1").mkdir(parents=True)
    (folder / "gt").mkdir()
    for number in range(1, frames + 1):
        picture = np.full((*SIZE, 3), 10 * number, np.uint8)
        Image.fromarray(picture).save(folder / "img1" / f"{number:06d}.png")
    if truth is None:
        truth = "".join(f"{n},1,2,3,10,20,1,1,1\n{n},2,30,3,10,20,1,1,1\n" for n in (1, 2, 3, 4))
    (folder / "gt" / "gt.txt").write_text(truth)
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={name}\nframeRate=50\nseqLength={stated or frames}\n"
    )
    return folder


def condition(frames=(4,)):
    made = load_condition("tvd_tracking")
    return replace(made, sequences=("TVD/TVD-01",), sequence_frames=frames)


def test_a_set_is_read(tmp_path):
    write_set(tmp_path)
    dataset = open_test_set(condition(), tmp_path)
    (entry,) = dataset.sequences
    assert (entry.name, entry.group, entry.frame_rate) == ("TVD-01", "TVD", (50, 1))
    assert [frame.image_id for frame in entry.frames] == [FRAMES + n for n in (1, 2, 3, 4)]
    first = dataset.coco["annotations"][0]
    assert first["bbox"] == [1.0, 2.0, 10.0, 20.0]  # left and top count from 1 in the file
    assert (first["track_id"], first["confidence"], first["object_class"]) == (1, 1.0, 1)
    shorter = open_test_set(replace(condition(), limit=2), tmp_path)
    assert len(shorter.pictures) == 2 and len(shorter.coco["annotations"]) == 4
    assert list(missing_data(condition(), tmp_path))[:-1] == []  # the weights are not here


@pytest.mark.parametrize(
    ("truth", "line"),
    [
        ("5,1,2,3,10,20,1,1,1\n", "line 1: frame 5 is none of the sequence, which has 1 to 4"),
        ("1,-1,2,3,10,20,1,1,1\n", "line 1: expected an identity from 0 on, found -1: lines with"),
        ("1,1,2,3,9,9,1\n1,1,2,3,9,9,1\n", "line 2: identity 1 stands twice in frame 1"),
        ("1,1,2,3,0,9,1\n", "line 1: expected a box with an area, found 0 x 9"),
        ("1,1,70,3,9,9,1\n", "expected a box in the picture of 48x64 .*found left 70, top 3"),
        ("1,1,2,3,9\n", "line 1: expected frame,id,left"),
        ("1,a,2,3,9,9,1\n", "line 1: expected numbers, found '1,a,2"),
        ("1,1.5,2,3,9,9,1\n", "expected whole numbers as frame and identity"),
        ("1,1,nan,3,9,9,1\n", "line 1: expected numbers"),
        ("\n", "expected at least one object in gt/gt.txt"),
    ],
)
def test_ground_truth_that_cannot_be(tmp_path, truth, line):
    write_set(tmp_path, truth=truth)
    with pytest.raises(InputError, match=line) as error:
        open_test_set(condition(), tmp_path)
    assert "\n" not in str(error.value)
    if truth.strip():  # of one sequence alone, as a whole set without objects is not
        assert str(error.value) in missing_data(condition(), tmp_path)


@pytest.mark.parametrize(
    ("labelled", "found"),
    [
        ((1, 2), "frames 3 to 8 have no object, 0.12 s in a row; expected at most 0.06 s"),
        ((1, 6, 7, 8), "frames 2 to 5 have no object, 0.08 s in a row"),
        ((7, 8), "frames 1 to 6 have no object, 0.12 s in a row"),
        ((3, 6, 8), None),
    ],
)
def test_ground_truth_of_a_part_of_the_frames(tmp_path, labelled, found):
    """It ends early, has a hole, begins late; three frames of 50 a second may be empty."""
    truth = "".join(f"{number},1,2,3,10,20,1,1,1\n" for number in labelled)
    write_set(tmp_path, frames=8, truth=truth)
    strict = replace(condition((8,)), max_unlabelled_seconds=0.06)
    assert len(open_test_set(condition((8,)), tmp_path).pictures) == 8
    said = list(missing_data(strict, tmp_path))[:-1]  # the weights are not here
    if found is None:
        assert len(open_test_set(strict, tmp_path).pictures) == 8 and said == []
        return
    with pytest.raises(InputError, match=found) as error:
        open_test_set(strict, tmp_path)
    assert "\n" not in str(error.value) and "max_unlabelled_seconds" in str(error.value)
    assert said == [str(error.value)]


def test_ground_truth_that_is_no_text(tmp_path):
    folder = write_set(tmp_path)
    (folder / "gt" / "gt.txt").write_bytes(b"1,1,2,3,10,20,1,1,1\n\x80\x81\n")
    (line,) = list(missing_data(condition(), tmp_path))[:-1]
    assert "gt.txt: expected text, a line for each object, found other bytes: " in line


def test_frames_beyond_the_limit_need_no_ground_truth(tmp_path):
    write_set(tmp_path, frames=8, truth="1,1,2,3,10,20,1,1,1\n2,1,2,3,10,20,1,1,1\n")
    strict = replace(condition((8,)), max_unlabelled_seconds=0.0, limit=2)
    assert len(open_test_set(strict, tmp_path).pictures) == 2
    assert list(missing_data(strict, tmp_path))[:-1] == []


def test_frames_that_are_missing(tmp_path):
    folder = write_set(tmp_path)
    (folder / "img1" / "000002.png").unlink()
    line = "expected 4 frames, as seqinfo.ini says, found 3, frame 2 is missing"
    with pytest.raises(InputError, match=line):
        open_test_set(condition(), tmp_path)
    assert any(line in found for found in missing_data(condition(), tmp_path))
    (folder / "img1" / "b.png").write_bytes(b"")
    with pytest.raises(InputError, match="expected the number of a frame, as in 000001.png"):
        open_test_set(condition(), tmp_path)


def test_another_length_than_the_test_conditions_say(tmp_path):
    write_set(tmp_path)
    with pytest.raises(InputError, match="expected seqLength 3000, as the test condition says"):
        open_test_set(condition((3000,)), tmp_path)


def test_what_is_missing_is_said(tmp_path):
    folder = write_set(tmp_path)
    (folder / "gt" / "gt.txt").unlink()
    found = list(missing_data(condition(), tmp_path))
    assert any("gt.txt: no such file; the ground truth" in line for line in found)
    assert any("jde.1088x608.uncertainty.pt: no such file" in line for line in found)


@pytest.mark.parametrize("name", ["tvd_tracking", "tvd_tracking_vcm", "hieve", "minictc_tracking"])
def test_the_conditions_are_read(name):
    made = load_condition(name)
    assert made.protocol == "tracking" and made.tasks == ("track",)
    assert made.split_point == ("jde_hieve" if name == "hieve" else "jde_tvd")


def test_a_drawn_frame_is_byte_exact():
    *_, (picture, objects) = draw_sequence("test", 1, count=3)
    digest = hashlib.sha256(picture.tobytes())
    digest.update(repr([(o.identity, o.box, round(o.share, 6)) for o in objects]).encode())
    assert digest.hexdigest() == THIRD_FRAME


def test_objects_leave_and_come_back():
    """Identities that are seen, then not, then again: what the set is for."""
    seen = [{o.identity for o in objects} for _, objects in draw_sequence("val", 2, 30, step=6)]
    known, left, back = set(), set(), set()
    for now in seen:
        left |= known - now
        back |= left & now
        known |= now
    assert len(known) >= 11 and len(back) >= 2
    assert min(len(now) for now in seen) >= 2


def test_splits_are_disjoint():
    seeds = [
        set(range(first, first + minictc_tracking.SEQUENCES[split]))
        for split, first in minictc_tracking.FIRST_SEED.items()
    ]
    assert sum(map(len, seeds)) == len(set().union(*seeds))
    with pytest.raises(InputError, match="expected the split train, val or test, found 'best'"):
        minictc_tracking.names("best")


def test_a_drawn_sequence_is_read_as_it_was_written(tmp_path):
    frames = list(draw_sequence("val", 0, count=2, step=10))
    write_sequence(iter(frames), tmp_path / "tvd_tracking" / "TVD-01", None)
    dataset = open_test_set(condition((2,)), tmp_path)
    annotations = dataset.coco["annotations"]
    found = [(a["image_id"] % FRAMES, a["track_id"], *a["bbox"]) for a in annotations]
    wanted = [(n, o.identity, *o.box) for n, (_, objects) in enumerate(frames, 1) for o in objects]
    assert found == wanted
