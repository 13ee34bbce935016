# SPDX-License-Identifier: BSD-3-Clause
"""The built-in test set of sequences: the same bytes everywhere, and what its classes promise."""

import hashlib

import numpy as np
import pytest

from vcm_plugin.errors import InputError
from vcm_plugin.testsets import minictc, minictc_sequences
from vcm_plugin.testsets.minictc_sequences import FIRST_SEED, SEQUENCES, draw_sequence, names
from vcm_plugin.testsets.sequences import read_frames

SECOND_FRAME = "0544f16f0523cee8f52fb6158c525ece28538cb5ba08c39823c115c6ad877da1"


def test_val_split_is_the_published_one(tmp_path):
    path = minictc_sequences.generate("val", tmp_path / "set")  # raises where the digest differs
    assert "val" in minictc_sequences.DIGESTS and "test" in minictc_sequences.DIGESTS
    assert path.name == "instances.json"


def test_second_frame_of_a_test_sequence_is_byte_exact():
    (_, _), (picture, objects) = draw_sequence("test", 2, count=2)
    digest = hashlib.sha256(picture.tobytes())
    for category, mask in objects:
        digest.update(bytes([category]) + np.packbits(mask).tobytes())
    assert digest.hexdigest() == SECOND_FRAME


def test_another_picture_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(minictc_sequences.DIGESTS, "val", "0" * 64)
    monkeypatch.setitem(minictc_sequences.SEQUENCES, "val", 1)
    with pytest.raises(InputError, match="val: expected sha256 0000.*drew .*please report"):
        minictc_sequences.generate("val", tmp_path / "set")
    with pytest.raises(InputError, match="expected the split train, val or test, found 'best'"):
        names("best")


def test_splits_are_disjoint_and_balanced():
    seeds = [set(range(first, first + SEQUENCES[split])) for split, first in FIRST_SEED.items()] + [
        set(range(first, first + minictc.PICTURES[split]))
        for split, first in minictc.FIRST_SEED.items()
    ]
    assert sum(map(len, seeds)) == len(set().union(*seeds))
    test = names("test")
    groups = [name.partition("/")[0] for name in test]
    assert {group: groups.count(group) for group in groups} == dict.fromkeys(
        minictc_sequences.GROUPS, 3
    )
    assert sum(name.endswith("_n") for name in test) == 6 and len(names("val")) == 6


@pytest.mark.parametrize("index, moves", [(0, False), (4, False), (1, True), (3, True)])
def test_the_camera_moves_as_the_class_says(index, moves):
    """Most pixels of STATIC change by noise and light alone, of the others by the camera too."""
    first, *_, last = (picture for picture, _ in draw_sequence("train", index, count=5))
    change = np.median(np.abs(last.astype(float) - first))
    still = 3.0 if minictc_sequences.is_noisy(index) else 1.0
    assert (change > still) == moves


def test_frames_are_those_of_a_longer_drawing():
    """How many frames are drawn changes none of them."""
    short = [picture for picture, _ in draw_sequence("train", 3, count=2)]
    long = [picture for picture, _ in draw_sequence("train", 3, count=4)]
    assert all(np.array_equal(a, b) for a, b in zip(short, long))


def test_objects_stay_in_what_the_camera_sees():
    for picture, objects in draw_sequence("train", 2, count=33):
        assert picture.shape == (256, 320, 3) and picture.dtype == np.uint8
        for category, mask in objects:
            assert 0 <= category < 8 and mask.sum() >= minictc.MIN_VISIBLE_PIXELS


def test_the_condition_opens_them(tmp_path, monkeypatch):
    from vcm_plugin.ctc.codecs import load_condition, override
    from vcm_plugin.testsets.open import open_test_set

    monkeypatch.setenv("VCM_CACHE", str(tmp_path))
    monkeypatch.setitem(minictc_sequences.SEQUENCES, "val", 2)
    monkeypatch.delitem(minictc_sequences.DIGESTS, "val")
    condition = override(load_condition("minictc_sequences"), {"minictc": "val", "limit": 3})
    dataset = open_test_set(condition)
    assert [(s.group, s.name, len(s.frames)) for s in dataset.sequences] == [
        ("STATIC", "val_00_n", 3), ("SLOW", "val_01", 3)
    ]  # fmt: skip
    assert dataset.sequences[0].frame_rate == (30, 1)
    drawn = [picture for picture, _ in draw_sequence("val", 1, count=3)]
    assert all(map(np.array_equal, read_frames(dataset.sequences[1]), drawn))
    (folder,) = (tmp_path / "minictc_sequences").iterdir()
    (folder / "instances.json").write_text("{}")
    with pytest.raises(InputError, match="is damaged; delete this folder"):
        open_test_set(condition)
