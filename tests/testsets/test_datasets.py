# SPDX-License-Identifier: BSD-3-Clause
"""Are test sets read as Detectron2 reads them, and is every damaged one refused in one line?"""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vcm_plugin.conditions import TestCondition
from vcm_plugin.errors import InputError
from vcm_plugin.testsets.coco import (
    PictureEntry,
    check_size,
    load_coco,
    read_entry,
    require_truth,
)
from vcm_plugin.testsets.minictc import CLASS_NAMES
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.testsets.pictures import PictureError, read_picture

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (12, 20, 3), dtype=np.uint8)


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def write_pictures(folder: Path) -> dict[str, Path]:
    """One picture of every kind that cameras and tools leave behind."""
    wide = RANDOM.integers(0, 65536, (12, 20), dtype=np.uint16)
    pictures = {
        "rgb.png": (Image.fromarray(RGB), {}),
        "grey.png": (Image.fromarray(RGB[..., 0]), {}),
        "rgba.png": (Image.fromarray(np.dstack([RGB, RGB[..., :1]])), {}),
        "grey_alpha.png": (Image.fromarray(RGB[..., :2], mode="LA"), {}),
        "grey16.png": (Image.fromarray(wide), {}),
        "palette.png": (Image.fromarray(RGB).quantize(16), {}),
        "bilevel.png": (Image.fromarray(RGB[..., 0]).convert("1"), {}),
        "cmyk.jpg": (Image.fromarray(RGB).convert("CMYK"), {}),
    }
    for orientation in range(1, 9):
        name = f"orientation{orientation}.jpg"
        pictures[name] = (Image.fromarray(RGB), {"exif": oriented(orientation)})
    for name, (picture, options) in pictures.items():
        picture.save(folder / name, **options)
    return {name: folder / name for name in pictures}


def coco(**changes) -> dict:
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 5, 4]}
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 12, "width": 20},
            {"id": 9, "file_name": "b.png", "height": 12, "width": 20},
        ],
        "annotations": [annotation, {**annotation, "id": 2, "image_id": 9, "category_id": 5}],
        "categories": [{"id": 5, "name": "cup"}, {"id": 3, "name": "Cat"}],
    } | changes


@pytest.fixture
def layout(tmp_path):
    """Writes a COCO layout and returns (images folder, annotation file)."""

    def write(content) -> tuple[Path, Path]:
        for name in ("a.png", "b.png"):
            Image.fromarray(RGB).save(tmp_path / name)
        path = tmp_path / "instances.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path, path

    return write


def test_read_picture_gives_contiguous_rgb(tmp_path):
    pictures = write_pictures(tmp_path)
    for name, path in pictures.items():
        picture = read_picture(path)
        turned = name.startswith("orientation") and name[11] in "5678"
        assert picture.shape == ((20, 12, 3) if turned else (12, 20, 3)), name
        assert picture.dtype == np.uint8 and picture.flags["C_CONTIGUOUS"], name
    assert np.array_equal(read_picture(pictures["rgb.png"]), RGB)
    assert np.array_equal(read_picture(pictures["grey.png"])[..., 1], RGB[..., 0])


def exif_bytes(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF data of (tag, kind, count, value), however odd."""
    written = b"".join(struct.pack(">HHI", *head) + value for *head, value in entries)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + written + b"\0\0\0\0"


ORIENTATION_6 = (0x0112, 3, 1, b"\0\6\0\0")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (exif_bytes(ORIENTATION_6), True),
        (exif_bytes(ORIENTATION_6, (0x011A, 2, 4, b"abc\0")), True),  # Pillow cannot write this one
        (exif_bytes((0x0112, 3, 1, b"\0\x09\0\0")), False),  # no orientation
        (b"Exif\0\0MM\0*" + b"\xff" * 9, False),  # broken
    ],
)
def test_a_picture_is_turned_whatever_else_its_exif_says(tmp_path, exif, turned):
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path, exif=exif)
    upright = np.asarray(Image.open(path).convert("RGB"))
    expected = np.rot90(upright, -1) if turned else upright
    assert np.array_equal(read_picture(path), expected)


@pytest.mark.detectron2
def test_read_picture_equals_detectron2(tmp_path):
    reason = "Detectron2 is not installed: equality with its read_image is not tested"
    utils = pytest.importorskip("detectron2.data.detection_utils", reason=reason)
    for name, path in write_pictures(tmp_path).items():
        theirs = utils.read_image(str(path), "BGR")[:, :, ::-1]
        assert np.array_equal(read_picture(path), theirs), name


@pytest.mark.parametrize("kept", [0, 4, 60, 200])
def test_damaged_picture_is_named(tmp_path, kept):
    path = tmp_path / "torn.png"
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(PictureError, match="torn.png.*repair or remove the file$"):
        read_picture(path)


def test_a_picture_that_is_not_there_is_none_to_pass_over(tmp_path):
    with pytest.raises(InputError, match="gone.png: expected a picture, found: No such") as caught:
        read_picture(tmp_path / "gone.png")
    assert not isinstance(caught.value, PictureError)


def test_classes_are_matched_by_name(layout):
    dataset = load_coco(*layout(coco()), class_names=["dog", "cat", "Cup"])
    assert dataset.category_ids == (None, 3, 5)
    assert [entry.image_id for entry in dataset.pictures] == [7, 9]
    assert not dataset.has_masks
    assert load_coco(*layout(coco())).category_ids == (3, 5)


def test_limit_and_without_restrict_the_ground_truth(layout):
    dataset = load_coco(*layout(coco()), limit=1)
    assert [a["image_id"] for a in dataset.coco["annotations"]] == [7]
    rest = load_coco(*layout(coco())).without([7])
    assert [image["id"] for image in rest.coco["images"]] == [9]


def test_files_sha256_depends_on_pixels_and_ground_truth(layout):
    images, annotations = layout(coco())
    first = load_coco(images, annotations).files_sha256()
    assert load_coco(images, annotations).files_sha256() == first
    Image.fromarray(255 - RGB).save(images / "b.png")
    assert load_coco(images, annotations).files_sha256() != first
    assert load_coco(*layout(coco(annotations=[]))).files_sha256() != first


def test_annotated_size_must_be_the_real_one(layout):
    images = [{"id": 7, "file_name": "a.png", "height": 20, "width": 12}]
    content = coco(images=images, annotations=coco()["annotations"][:1])
    with pytest.raises(InputError, match=r"a.png.*annotated as 20x12.*found 12x20"):
        load_coco(*layout(content))
    entry = PictureEntry(7, layout(content)[0] / "a.png", 20, 12)
    with pytest.raises(InputError, match=r"a.png.*annotated as 20x12.*found 12x20"):
        read_entry(entry)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_annotated_size_is_that_after_the_orientation(tmp_path, suffix):
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(RGB).save(path, exif=oriented(6))
    check_size(PictureEntry(1, path, 20, 12))
    with pytest.raises(InputError, match="annotated as 12x20.*found 20x12"):
        check_size(PictureEntry(1, path, 12, 20))


def test_root_categories_that_nothing_is_annotated_as_are_passed_over(layout):
    root = {"id": 0, "name": "things", "supercategory": "none"}
    content = coco(categories=[root, *coco()["categories"]])
    dataset = load_coco(*layout(content), class_names=["cat", "cup"])
    assert dataset.category_ids == (3, 5)
    assert [category["id"] for category in dataset.coco["categories"]] == [5, 3]
    named_otherwise = load_coco(*layout(content), class_names=["x", "y"], by_position=True)
    assert named_otherwise.category_ids == (3, 5)
    with pytest.raises(InputError, match="categories cat are none"):  # this one is in use
        load_coco(*layout(coco()), class_names=["cup"])


def test_truth_is_required_for_the_tasks(layout):
    images, annotations = layout(coco())
    dataset = load_coco(images, annotations)
    require_truth(dataset, ["box"], annotations)
    with pytest.raises(InputError, match="instances.json: annotation 1: segmentation.*in 2 of 2"):
        require_truth(dataset, ["box", "mask"], annotations)
    crowd = [item | {"iscrowd": 1} for item in coco()["annotations"]]
    for nothing in ([], crowd):
        dataset = load_coco(*layout(coco(annotations=nothing)))
        with pytest.raises(InputError, match="at least one object in the 2 pictures"):
            require_truth(dataset, ["box"], annotations)


IMAGE = {"id": 7, "file_name": "a.png", "height": 12, "width": 20}
BAD_ANNOTATIONS = {
    "no JSON": ("{", "no COCO annotations: not readable JSON"),
    "a list": ([], "list 'images'"),
    "no categories": ({"images": [], "annotations": []}, "list 'categories'"),
    "no pictures": (coco(images=[], annotations=[]), "at least one picture"),
    "no size": (coco(images=[{"id": 7, "file_name": "a.png"}]), "picture 7: height"),
    "twice the same id": (
        coco(images=[IMAGE, IMAGE]),
        "picture 7: id: expected once, found 2 times",
    ),
    "foreign picture": (
        coco(images=[IMAGE]),
        "annotation 2: image_id: expected one of images, found 9",
    ),
    "no box": (
        coco(annotations=[{"id": 1, "image_id": 7, "category_id": 3}]),
        "annotation 1: bbox: expected",
    ),
    "category without class": (coco(categories=[{"id": 3, "name": "eel"}], annotations=[]), "eel"),
}


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_bad_annotations_are_refused(layout, case):
    content, message = BAD_ANNOTATIONS[case]
    with pytest.raises(InputError, match=message):
        load_coco(*layout(content), class_names=["cat", "cup"])


def test_missing_pictures_are_counted_and_named(layout):
    images = [{**IMAGE, "id": i, "file_name": f"{i}.png"} for i in range(5)]
    with pytest.raises(InputError, match=r"5 of 5 pictures.*0.png, 1.png, 2.png, \.\.\."):
        load_coco(*layout(coco(images=images, annotations=[])))


def test_built_in_set_is_drawn_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("VCM_CACHE", str(tmp_path))
    condition = TestCondition(
        name="tiny", model="m", class_names=CLASS_NAMES, tasks=("box",), minictc="test", limit=2
    )
    first = open_test_set(condition)
    index = first.pictures[0].path.parent.parent / "instances.json"
    changed = os.stat(index).st_mtime_ns
    assert open_test_set(condition) == first and os.stat(index).st_mtime_ns == changed
    assert first.has_masks and read_entry(first.pictures[0]).size
    index.write_text(index.read_text() + " ")
    with pytest.raises(InputError, match="delete this folder"):
        open_test_set(condition)
