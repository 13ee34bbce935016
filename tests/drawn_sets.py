# SPDX-License-Identifier: BSD-3-Clause
"""What do the MPEG test sets look like on disk? Small ones in their layout, drawn by the mini-CTC.

They show that a condition runs where the real sets cannot be had; their accuracy means no more.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from vcm_plugin.testsets import minictc
from vcm_plugin.testsets.minictc import CLASS_NAMES

SEQUENCE_SIZE = (192, 256)  # (height, width)
SEED = 5_000_000  # of the first sequence; the splits of the mini-CTC use others
HIERARCHY = {  # of the labels of draw_open_images, as the challenge's JSON
    "LabelName": "Entity",
    "Subcategory": [
        {"LabelName": "Round", "Subcategory": [{"LabelName": n} for n in ("ball", "ring")]},
        {"LabelName": "crate"},
        {"LabelName": "star"},
        {"LabelName": "gear"},
        {"LabelName": "leaf"},
        {"LabelName": "cross"},
        {"LabelName": "crescent"},
    ],
}
LABELS = {name: n for n, name in enumerate((*CLASS_NAMES, "Round"), start=1)}


def draw_sfu(root: Path, names: list[str], frames: int = 4, frame_rate: int = 50) -> Path:
    """Sequences of moving objects in the layout of SFU-HW-Objects; returns its folder.

    names: of the sequences, without the ending _val of their folders.
    """
    for number, name in enumerate(names):
        folder = root / "SFU_HW_Obj" / f"{name}_val"
        for part in ("images", "annotations"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for n, (picture, objects) in enumerate(draw_sequence(SEED + number, frames)):
            file_name = f"{folder.name}_{n:03d}.png"
            Image.fromarray(picture).save(folder / "images" / file_name)
            height, width = picture.shape[:2]
            # Ids as floats, as in the files of the real set.
            images.append(
                {"file_name": file_name, "width": width, "height": height, "id": float(n)}
            )
            for category, mask in objects:
                item = minictc.annotation(len(annotations) + 1, n, category, mask)
                del item["segmentation"]
                annotations.append(item | {"image_id": float(n)})
        coco = {"images": images, "annotations": annotations, "categories": _categories()}
        (folder / "annotations" / f"{folder.name}.json").write_text(json.dumps(coco))
        write_seqinfo(folder, name.split("_")[0], frame_rate, frames)
    return root / "SFU_HW_Obj"


def draw_pandaset(root: Path, names: list[str], frames: int = 2, points: int = 500) -> Path:
    """Sequences with labelled points in the layout of PandaSet; returns its folder.

    The label of a point is 0 on the ground and 1 + its class on an object.
    """
    for number, name in enumerate(names):
        folder = root / "PandaSet" / name
        camera = folder / "camera" / "front_camera"
        for part in (camera, folder / "annotations"):
            part.mkdir(parents=True, exist_ok=True)
        rows = np.empty(frames, dtype=object)
        for n, (picture, objects) in enumerate(draw_sequence(SEED + number, frames)):
            Image.fromarray(picture).save(camera / f"{n:02d}.jpg", quality=95)
            random = np.random.Generator(np.random.PCG64(SEED + n))
            height, width = picture.shape[:2]
            y, x = (
                random.integers(0, height, points),
                random.integers(0, width, points + n)[:points],
            )
            labels = semantic_map(picture.shape[:2], objects)[y, x]
            rows[n] = np.stack([x, y, labels], axis=1)[: points - n]  # no two frames have as many
        np.savez_compressed(folder / "annotations" / f"{name}.npz", gt=rows)
        write_seqinfo(folder, name, 10, frames)
    return root / "PandaSet"


def draw_open_images(root: Path, pictures: int = 3) -> Path:
    """Pictures in the layout of MPEG-OIV6, both tasks, and hierarchy.json; returns its folder.

    Of each picture, all objects of its last class are one group-of box, its first object has a box
    only, and one class that is not there is verified to be absent.
    """
    folder = root / "mpeg-oiv6"
    for part in ("images", "annotations"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    images, annotations, verified = [], [], []
    for n in range(pictures):
        picture, objects = minictc.draw_picture(SEED + n)
        image_id = f"{SEED + n:016x}"
        height, width = picture.shape[:2]
        Image.fromarray(picture).save(folder / "images" / f"{image_id}.jpg", quality=95)
        images.append(
            {"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width}
        )
        group = objects[-1][0]
        rows = [(category, mask, False) for category, mask in objects if category != group]
        together = np.any([mask for category, mask in objects if category == group], axis=0)
        rows.append((group, together, True))
        for category, mask, _ in rows:
            item = minictc.annotation(len(annotations) + 1, n, category, mask)
            annotations.append(item | {"image_id": image_id})
        absent = next(c for c in range(len(CLASS_NAMES)) if c not in {row[0] for row in rows})
        names = {CLASS_NAMES[row[0]] for row in rows} | {CLASS_NAMES[absent]}
        verified.append((image_id, rows, sorted(names)))
    for task in ("detection", "segmentation"):
        coco = {"images": images, "annotations": annotations, "categories": _categories()}
        coco["oic_labelmap"] = [{"id": n, "name": name} for name, n in LABELS.items()]
        coco["oic_annotations"] = [
            {"image_id": image_id, "annotations": _oic(rows, names, task == "segmentation")}
            for image_id, rows, names in verified
        ]
        path = folder / "annotations" / f"mpeg-oiv6-{task}-coco.json"
        path.write_text(json.dumps(coco))
    (folder / "annotations" / "hierarchy.json").write_text(json.dumps(HIERARCHY))
    return folder


def draw_sequence(
    seed: int, frames: int, size: tuple[int, int] = SEQUENCE_SIZE
) -> Iterator[tuple[np.ndarray, list[tuple[int, np.ndarray]]]]:
    """Frames of objects that move over a ground: picture, and class and mask of each object."""
    random = np.random.Generator(np.random.PCG64(seed)).random
    height, width = size
    ground = minictc.background(random, height, width)
    objects = [
        minictc.random_object(random, height, width, category=int(random() * len(CLASS_NAMES)))
        for _ in range(5)
    ]
    speeds = random((len(objects), 2)) * 8 - 4  # pixels a frame
    for n in range(frames):
        moved = [
            replace(item, centre=(item.centre[0] + n * dy, item.centre[1] + n * dx))
            for item, (dy, dx) in zip(objects, speeds, strict=True)
        ]
        canvas = ground.copy()
        visible = minictc.paint_objects(canvas, [o for o in moved if _in_sight(o, size)])
        yield minictc.to_picture(canvas), visible


def semantic_map(size: tuple[int, int], objects: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Of each pixel 0 for the ground, 1 + class for an object: int64 (H, W)."""
    labels = np.zeros(size, dtype=np.int64)
    for category, mask in objects:
        labels[mask] = 1 + category
    return labels


def write_seqinfo(folder: Path, name: str, frame_rate: int, frames: int) -> None:
    """The seqinfo.ini of a sequence."""
    height, width = SEQUENCE_SIZE
    lines = ("[Sequence]", f"name={name}", f"frameRate={frame_rate}", f"seqLength={frames}",
             f"imWidth={width}", f"imHeight={height}")  # fmt: skip
    (folder / "seqinfo.ini").write_text("\n".join(lines) + "\n")


def _in_sight(item: minictc.SceneObject, size: tuple[int, int]) -> bool:
    """Whether an object touches the picture: minictc paints no other."""
    return all(-item.radius < c < n + item.radius for c, n in zip(item.centre, size, strict=True))


def _categories() -> list[dict]:
    return [{"id": n, "name": name} for n, name in enumerate(CLASS_NAMES, start=1)]


def _oic(rows: list[tuple[int, np.ndarray, bool]], names: list[str], masks: bool) -> dict:
    """The entry of one picture in oic_annotations."""
    boxes, shapes, sizes = [], [], []
    for position, (_, mask, _) in enumerate(rows):
        height, width = mask.shape
        rle = coco_mask.encode(np.asfortranarray(mask))
        x, y, w, h = coco_mask.toBbox(rle)
        boxes.append([y / height, x / width, (y + h) / height, (x + w) / width])
        coded = base64.b64encode(zlib.compress(rle["counts"])).decode()
        shapes.append(coded if position else "nan")
        sizes.append({"img_height": height, "img_width": width})
    entry = {
        "bbox": boxes,
        "cls": [LABELS[CLASS_NAMES[category]] for category, _, _ in rows],
        "group_of": [int(group) for _, _, group in rows],
        "img_cls": names,
    }
    return entry | ({"mask": shapes, "img_size": sizes} if masks else {})
