# SPDX-License-Identifier: BSD-3-Clause
"""Is every value of COCO annotations checked against its picture, and every refusal short?"""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from vcm_plugin.errors import InputError
from vcm_plugin.testsets.annotations import MOST_CHARACTERS, check_annotations, read_annotations
from vcm_plugin.testsets.rle import check_rle, inflated

HEIGHT, WIDTH = 12, 20
PLANE = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
PLANE[2:7, 3:11] = 1
CODED = coco_mask.encode(PLANE)["counts"].decode()
RUNS = [38, *(5, 7) * 7, 5, 113]
POLYGON = [3, 2, 11, 2, 11, 7, 3, 7]


def content(**changes) -> dict:
    """Annotations of one object; changes: of its keys, an Ellipsis takes one out."""
    item = {
        "id": 4, "image_id": 7, "category_id": 3, "bbox": [3, 2, 8, 5], "area": 40, "iscrowd": 0,
        "segmentation": [POLYGON],
    }  # fmt: skip
    item |= changes
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{key: value for key, value in item.items() if value is not ...}],
        "categories": [{"id": 3, "name": "cat"}],
    }


def rle(counts, size=(HEIGHT, WIDTH)) -> dict:
    return {"size": list(size), "counts": counts}


def read(tmp_path, found: dict):
    """Through a file, as every annotation comes."""
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(found))
    return read_annotations(path)


TAKEN = {
    "as it is": ({}, {}),
    "whole floats": ({"id": 4.0, "image_id": 7.0, "category_id": 3.0, "iscrowd": 0.0}, {}),
    "no iscrowd": ({"iscrowd": ...}, {}),
    "iscrowd null": ({"iscrowd": None}, {}),
    "iscrowd false": ({"iscrowd": False}, {}),
    "iscrowd true": ({"iscrowd": True}, {"iscrowd": 1}),
    "no area": ({"area": ...}, {}),
    "area null": ({"area": None}, {}),
    "keys that nothing reads": ({"score": float("nan"), "caption": "x" * 9999}, {}),
    "no mask": ({"segmentation": ...}, {"segmentation": ...}),
    "an empty mask": ({"segmentation": []}, {"segmentation": ...}),
    "mask null": ({"segmentation": None}, {"segmentation": ...}),
    "compressed RLE": ({"segmentation": rle(CODED)}, {"segmentation": rle(CODED)}),
    "RLE": ({"segmentation": rle(RUNS)}, {"segmentation": rle(RUNS)}),
    "RLE that starts in the mask": (
        {"segmentation": rle([0, HEIGHT * WIDTH])}, {"segmentation": rle([0, HEIGHT * WIDTH])}
    ),
    "the largest id": ({"id": 2**63 - 1}, {"id": 2**63 - 1}),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_taken_comes_out_in_one_form(tmp_path, case):
    given, changed = TAKEN[case]
    found = read(tmp_path, content(**given))
    assert found.coco == content(**changed) and found.passed_over == ()
    assert all(type(found.coco["annotations"][0][key]) is int for key in ("id", "iscrowd"))


HUGE = int("9" * 400)
REFUSED = {
    "id": ["4", None, 1.5, True, 2**63, 1e30, float("inf"), [4], {}],
    "image_id": ["7", 8, None, 7.5, [], True],
    "category_id": ["3", 4, None, float("nan")],
    "bbox": [
        None, [], [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, None], [1, 2, 3, True], "1 2 3 4",
        [1, 2, float("nan"), 4], [1, 2, float("inf"), 4], [1, 2, HUGE, 4], [3, 2, -8, 5],
        [3, 2, 8, -5], [3, 2, 8, 1e9], [-21, 2, 30, 5], [3, 2, 8, 5, 1],
    ],
    "iscrowd": ["0", 2, -1, 0.5, [], "no"],
    "area": ["40", -1, float("nan"), float("-inf"), HUGE, True, [40]],
    "segmentation": [
        [[]], [[3, 2, 11, 7]], [POLYGON[:-1]], POLYGON, "mask", 7, True, [None], [POLYGON, [1, 2]],
        [[3, 2, 11, 2, 11, None]], [[3, 2, 11, 2, 11, "7"]], [[3, 2, 11, 2, 11, float("nan")]],
        [[3, 2, 11, 2, 11, HUGE]], [[3, 2, 11, 2, 1e8, 7]], [[3, 2, 11, 2, 11, -13]],
        [[3, 2, 11, 2, 11, True]], [[0, 0, 20, 12] * 60_000], {}, {"counts": CODED},
        {"size": [HEIGHT, WIDTH]}, rle(CODED, (WIDTH, HEIGHT)), rle(CODED, (HEIGHT, WIDTH, 1)),
        rle(CODED, (HEIGHT, 20.5)), rle(CODED, ("12", "20")), rle(CODED[:-1]), rle(CODED[1:]),
        rle(""), rle("\x00\x01"), rle("é" * 9), rle("ooooooooooooo0"), rle(CODED + "0"), rle(None),
        rle(240), rle([]), rle(RUNS[:-1]), rle([-1, 241]), rle([1.0, 239.0]), rle(["240"]),
        rle([HUGE]), rle([None]), rle([True, 239]), rle("P" * 99),
    ],
}  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_refused_is_named(tmp_path, key):
    folder = tmp_path / ("deep" * 30)  # a path that is long itself
    folder.mkdir()
    for value in REFUSED[key]:
        with pytest.raises(InputError) as caught:
            read(folder, content(**{key: value}))
        message = str(caught.value)
        assert "instances.json: annotation " in message and f"{key}: " in message, value
        assert ": expected " in message
        assert len(message) <= MOST_CHARACTERS and message.isprintable(), message
        if key != "id":
            assert "annotation 4: " in message


PICTURES = {
    "id": [None, 1.5, 2**63, [], True],
    "file_name": [None, 7, "", "\n", "a\0.png", "\ud800.png", "/a.png", "../a.png", "a/../../b.png",
                  "..\\a.png", "C:\\a.png", "x" * 256 + ".png"],
    "height": [None, "12", 0, -12, 1.5, True, 1 << 40],
    "width": [1 << 30, float("nan")],
}  # fmt: skip


@pytest.mark.parametrize("key", PICTURES)
def test_pictures_are_checked_too(tmp_path, key):
    for value in PICTURES[key]:
        found = content()
        found["images"][0][key] = value
        with pytest.raises(InputError, match=rf"instances.json: picture .*{key}"):
            read(tmp_path, found)


@pytest.mark.parametrize("what", ["images", "annotations", "categories"])
def test_entries_are_told_by_their_id_or_place(tmp_path, what):
    found = content()
    for entry in (None, 7, [], "x" * 9999):
        with pytest.raises(InputError, match="at position 1: expected keys and values"):
            read(tmp_path, found | {what: [*found[what], entry]})
    with pytest.raises(InputError, match="id: expected once, found 2 times"):
        read(tmp_path, found | {what: found[what] * 2})
    for instead in (None, {}, "x", 7):
        with pytest.raises(InputError, match=f"a list '{what}'"):
            read(tmp_path, found | {what: instead})


def test_pictures_with_names_as_ids_are_numbered(tmp_path):
    found = content(image_id="000a")
    found["images"] = [{**found["images"][0], "id": name} for name in ("000b", "000a")]
    coco = read(tmp_path, found).coco
    assert [image["id"] for image in coco["images"]] == [1, 2]
    assert coco["annotations"][0]["image_id"] == 2


def test_objects_that_nothing_can_find_are_passed_over_and_counted(tmp_path):
    found = content()
    boxes = [[3, 2, 0, 5], [3, 2, 8, 0], [20, 2, 8, 5], [3, -5, 8, 5], [-4, 0, 4, 5]]
    for number, box in enumerate(boxes):
        found["annotations"].append(found["annotations"][0] | {"id": 10 + number, "bbox": box})
    checked = read(tmp_path, found)
    assert checked.passed_over == (10, 11, 12, 13, 14)
    assert checked.coco == content()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_read(tmp_path, encoding):
    path = tmp_path / "instances.json"
    found = content()
    found["categories"][0]["name"] = "Kätzchen"
    path.write_bytes(json.dumps(found, ensure_ascii=False).encode(encoding))
    assert read_annotations(path).coco == found


NO_ANNOTATIONS = [
    b"", b"{", b"null", b"[]", b"[" * 200_000, b'{"images":' * 200_000, b"9" * 5000, b"\x80",
    b"\xff\xfe\x00",
]  # fmt: skip


@pytest.mark.parametrize("data", NO_ANNOTATIONS, ids=range(len(NO_ANNOTATIONS)))
def test_files_that_are_no_annotations(tmp_path, data):
    path = tmp_path / "instances.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match="instances.json: ") as caught:
        read_annotations(path)
    assert len(str(caught.value)) <= MOST_CHARACTERS and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file.*--annotations"):
        read_annotations(tmp_path / "gone.json")


def test_checked_masks_are_what_pycocotools_reads(tmp_path):
    """The check's own decoder of compressed counts against pycocotools', on random masks."""
    random = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(side) for side in random.integers(1, 40, 2))
        plane = random.random((height, width)) < random.random() ** 3
        coded = coco_mask.encode(np.asfortranarray(plane.astype(np.uint8)))
        check_rle({"size": [height, width], "counts": coded["counts"]}, height, width)
        flat = plane.flatten("F").astype(np.int8)
        starts = [0, *np.flatnonzero(np.diff(flat)) + 1, len(flat)]
        runs = [0] * int(flat[0]) + np.diff(starts).tolist()
        check_rle({"size": [height, width], "counts": runs}, height, width)
        damaged = bytearray(coded["counts"])
        damaged[random.integers(len(damaged))] = 48 + random.integers(64)
        if bytes(damaged) != coded["counts"]:
            try:
                check_rle({"size": [height, width], "counts": bytes(damaged)}, height, width)
            except ValueError:
                continue
            again = coco_mask.decode({"size": [height, width], "counts": bytes(damaged)})
            assert again.shape == plane.shape


def test_counts_in_zlib_are_bounded():
    import zlib

    assert inflated(zlib.compress(CODED.encode()), HEIGHT, WIDTH) == CODED.encode()
    with pytest.raises(ValueError, match="found more"):
        inflated(zlib.compress(b"0" * 10_000_000), HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="or less"):
        inflated(zlib.compress(CODED.encode())[:-6], HEIGHT, WIDTH)


def test_nothing_of_the_callers_is_changed(tmp_path):
    found = content(iscrowd=None, area=None, id=4.0)
    before = copy.deepcopy(found)
    check_annotations(found, tmp_path / "instances.json")
    assert found == before
