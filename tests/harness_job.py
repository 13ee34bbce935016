# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of the harness run: detectors, test sets and commands, for it and for our runner.

The ground truth of a detector with random weights is pseudo ground truth: its own 15 best boxes
in the uncompressed picture, so that its uncompressed accuracy is high and falls with what is lost.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from split_parity import random_checkpoint

from vcm_plugin.ctc.results import RunResult, load_result
from vcm_plugin.split import load_split_model
from vcm_plugin.split.config import load_config, read_tree
from vcm_plugin.testsets.pictures import read_picture

BOXES = 15
MODELS = Path(__file__).parents[1] / "cfg" / "models"
ARCH = "faster_rcnn_R_50_FPN_3x"  # how the harness calls any Faster R-CNN of this kind
DATASETS = {"image": "COCO", "video": "SFUHW"}


@dataclass(frozen=True)
class Job:
    """A detector and a test set in a folder, laid out as both runners want them.

    site: the folder that our package is installed in; None: where Python finds it anyway.
    """

    folder: Path
    pictures: tuple[Path, ...]
    site: Path | None

    @property
    def condition(self) -> Path:
        return self.folder / "condition.yaml"

    def run_ours(self, codec: str, *options: str) -> tuple[RunResult, Path]:
        """`vcm-plugin run`: its result and its folder."""
        out = self.folder / "runs" / codec
        command = [sys.executable, "-m", "vcm_plugin.cli", "run", self.condition, "--codec", codec]
        execute([*command, "-o", out, *options], self.folder, self.site)
        return load_result(out), out

    def run_harness(
        self, codec: str, *overrides: str, pipeline: str = "split", kind: str = "image"
    ) -> Path:
        """One stock command of the harness: the folder of its rate point."""
        root = self.folder / "harness"
        done = self.start_harness(codec, *overrides, pipeline=pipeline, kind=kind)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        data = DATASETS[kind]
        name = f"{pipeline}-inference-{kind}"
        (folder,) = sorted(
            (root / name).glob(f"{codec}*/{data}/job/qp*"), key=lambda p: p.stat().st_mtime
        )[-1:]
        return folder

    def start_harness(
        self, codec: str, *overrides: str, pipeline: str = "split", kind: str = "image"
    ) -> subprocess.CompletedProcess[str]:
        """The same, whatever its exit status."""
        model = f"vision_model.{ARCH}"
        command = [
            Path(sys.executable).parent / f"compressai-{pipeline}-inference",
            f"--config-name=eval_{pipeline}_inference_example.yaml",
            f"++pipeline.type={kind}",
            f"++paths._run_root={self.folder / 'harness'}",
            f"++vision_model.arch={ARCH}",
            f"++{model}.model_path_prefix={self.folder}",
            f"++{model}.cfg=model.yaml",
            f"++{model}.weights=model.pth",
            f"++{model}.splits=fpn",
            "++dataset.type=Detectron2Dataset",
            f"++dataset.datacatalog={DATASETS[kind]}",
            f"++dataset.config.root={self.folder}",
            "++dataset.config.imgs_folder=images",
            "++dataset.config.annotation_file=annotations/job.json",
            "++dataset.config.dataset_name=job",
            "++dataset.loader.num_workers=0",
            "++evaluator.type=COCO-EVAL",
            "++misc.device.nn_parts=cpu",
            f"codec={codec}",
            f"++codec.type={codec}",
            f"++codec.eval_encode={'bpp' if kind == 'image' else 'bitrate'}",
            *overrides,
        ]
        return start(command, self.folder, self.site)


def make_job(
    folder: Path,
    site: Path | None,
    pictures: Sequence[tuple[str, np.ndarray]],
    codecs: dict,
    min_size: int = 160,
    model: str = "faster_rcnn_R_50_FPN_3x",
    weights: Path | None = None,
    ground_truth: dict | None = None,
) -> Job:
    """Write detector, named RGB pictures and annotations; codecs: keys of the condition."""
    tree = read_tree(MODELS / f"{model}.yaml")
    if weights is None:
        tree["INPUT"] |= {"MIN_SIZE_TEST": min_size, "MAX_SIZE_TEST": 2 * min_size}
    (folder / "model.yaml").write_text(yaml.safe_dump(tree))
    config = load_config(folder / "model.yaml")
    if weights is None:
        checkpoint = random_checkpoint(config, pictures[0][1])
        torch.save({"model": checkpoint.weights}, folder / "model.pth")
    else:
        (folder / "model.pth").write_bytes(weights.read_bytes())
    paths = []
    (folder / "images").mkdir()
    for name, picture in pictures:
        paths.append(folder / "images" / name)
        Image.fromarray(picture).save(paths[-1])
    truth = ground_truth or pseudo_ground_truth(folder, paths, config.num_classes)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "job.json").write_text(json.dumps(truth))
    condition = {
        "name": "job",
        "images": str(folder / "images"),
        "annotations": str(folder / "annotations" / "job.json"),
        "class_names": [entry["name"] for entry in truth["categories"]],
        "model": str(folder / "model.yaml"),
        "weights": str(folder / "model.pth"),
        "runtime": "detectron2",
        "tasks": ["box"],
        "score_threshold": 0.5,
        "iou_threshold": 0.5,
    }
    (folder / "condition.yaml").write_text(yaml.safe_dump(condition | codecs))
    height, width = pictures[0][1].shape[:2]
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname=job\nframeRate=25\nseqLength={len(paths)}\n"
        f"imWidth={width}\nimHeight={height}\n"
    )
    return Job(folder, tuple(paths), site)


def blood_cells(
    folder: Path, site: Path | None, data: Path, codecs: dict, pictures: int, weights: Path
) -> Job:
    """The first pictures of bccd/val below a data root; weights: of cfg/models/bccd_faster_rcnn."""
    truth = json.loads((data / "bccd/instances_val.json").read_text())
    truth["images"] = truth["images"][:pictures]
    ids = {entry["id"] for entry in truth["images"]}
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in ids]
    named = lossless(truth["images"], data / "bccd/val")
    return make_job(
        folder, site, named, codecs, model="bccd_faster_rcnn", weights=weights, ground_truth=truth
    )


def lossless(entries: list[dict], folder: Path) -> list[tuple[str, np.ndarray]]:
    """Named pictures of a folder; the names, in the entries too, become those of PNG files."""
    pictures = []
    for entry in entries:
        picture = read_picture(folder / entry["file_name"])
        entry["file_name"] = Path(entry["file_name"]).with_suffix(".png").name
        pictures.append((entry["file_name"], picture))
    return pictures


def pseudo_ground_truth(folder: Path, paths: Sequence[Path], classes: int) -> dict:
    """The detector's own best boxes in each picture, as COCO annotations."""
    detector = load_split_model(folder / "model.yaml", folder / "model.pth", runtime="detectron2")
    images, annotations = [], []
    for number, path in enumerate(paths):
        picture = read_picture(path)
        image_id = 101 + number  # no id is the beginning of another, which the harness mistakes
        height, width = picture.shape[:2]
        images.append({"id": image_id, "file_name": path.name, "height": height, "width": width})
        found = detector.nn_part2(detector.nn_part1(picture))
        for i in np.argsort(-found.scores, kind="stable")[:BOXES]:
            x0, y0, x1, y1 = map(float, found.boxes[i])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(found.classes[i]) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": n + 1, "name": f"class {n}"} for n in range(classes)]
    info = {"description": "pseudo ground truth: the detector's own best boxes"}
    return {
        "info": info, "images": images, "annotations": annotations, "categories": categories
    }  # fmt: skip


def summary(folder: Path) -> dict[str, str]:
    """The one row of evaluation/summary.csv."""
    with (folder / "evaluation" / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    return row


def start(command: Sequence, folder: Path, site: Path | None) -> subprocess.CompletedProcess[str]:
    """A command in a folder, as a user of an installed package would run it; one thread unless
    OMP_NUM_THREADS says otherwise."""
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    if site is not None:
        environment["PYTHONPATH"] = str(site)
    environment.setdefault("USER", "tests")  # the harness asks for it
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True, text=True, cwd=folder, env=environment,
    )  # fmt: skip


def execute(command: Sequence, folder: Path, site: Path | None) -> str:
    """The output of a command, which must succeed."""
    done = start(command, folder, site)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout


def install(wheel: Path, site: Path) -> Path:
    """Install a wheel, without what it needs, into a folder."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site]
    done = subprocess.run([*map(str, command), str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return site
