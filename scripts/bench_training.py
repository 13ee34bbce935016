#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What does a training recipe take on this machine: time, arithmetic, memory and disk per picture?

    scripts/bench_training.py vfcn_X_101_32x8d_FPN_openimages --tflops 10

Random weights of the detector and drawn pictures, which do for timing. The hours of the whole
recipe are those of this device, and with --tflops those of one that sustains so many TFLOP/s.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import drawn_sets
import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from vcm_plugin.conditions import model_path
from vcm_plugin.diff_fchm.machine.config import VfcnConfig
from vcm_plugin.diff_fchm.machine.vfcn import Vfcn
from vcm_plugin.split.checkpoint import Checkpoint
from vcm_plugin.split.config import load_config
from vcm_plugin.split.torchvision import TorchvisionDetector, build_rcnn, to_detectron2_state_dict
from vcm_plugin.testsets import minictc
from vcm_plugin.testsets.coco import CocoDataset, load_coco
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training.feature_store import FeatureStore
from vcm_plugin.training.loop import start
from vcm_plugin.training.options import VfcnInputs, add_options, read_recipe
from vcm_plugin.training.schedules import VfcnTraining
from vcm_plugin.training.vfcn import loss_terms

PICTURE = (256, 384)  # 2 : 3, as most photographs: a network input of 800 x 1200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, VfcnInputs, VfcnConfig, VfcnTraining)
    parser.add_argument("--steps", type=int, default=2, help="that are timed (%(default)s)")
    parser.add_argument("--tflops", type=float, help="that another device sustains")
    next(action for action in parser._actions if action.dest == "output").required = False
    options = parser.parse_args()
    inputs, config, schedule = read_recipe(options, VfcnInputs, VfcnConfig, VfcnTraining)
    if inputs.threads:
        torch.set_num_threads(inputs.threads)
    with tempfile.TemporaryDirectory() as folder:
        detector = random_detector(inputs.model)
        dataset = drawn_pictures(Path(folder), schedule.batch_size)
        store = FeatureStore(detector, dataset, Path(folder, "features"))
        measure(config, schedule, store, options, start(schedule, Path(folder), print))


def measure(
    config: VfcnConfig, schedule: VfcnTraining, store: FeatureStore, options, accelerator
) -> None:
    """Print what each part takes."""
    store.detector.model.to(accelerator.device)
    model = Vfcn(config)
    model.std.fill_(1.0)
    model.typical_width.fill_(10.0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6)
    model, optimizer = accelerator.prepare(model, optimizer)
    picture = read_picture(store.dataset.pictures[0].path)
    for size, pictures in store.groups.items():
        store.features(size, pictures)  # kept from here on
    parts = {"nn_part1": lambda: store.detector.nn_part1(picture)}
    for name, with_task in (("step", False), ("step with the detector's losses", True)):
        parts[name] = step(accelerator, model, optimizer, store, schedule, with_task)
    found = {}
    for name, run in parts.items():
        pictures = 1 if name == "nn_part1" else schedule.batch_size
        with FlopCounterMode(display=False) as counter:
            run()
        gflops = counter.get_total_flops() / pictures / 1e9
        seconds = timed(run, options.steps) / pictures
        found[name] = (seconds, gflops)
        print(f"{name}: {seconds:.3f} s and {gflops:.0f} GFLOP a picture")
    share = schedule.task_from if schedule.task_weight else 1.0
    totals = [
        schedule.iterations * schedule.batch_size
        * (once + share * plain + (1 - share) * full)
        for once, plain, full in zip(*found.values(), strict=True)
    ]  # fmt: skip
    device = accelerator.device
    print(
        f"whole recipe on this device ({device}): {totals[0] / 3600:.1f} hours, NN-Part1 included"
    )
    if options.tflops:
        hours = totals[1] / options.tflops / 1e3 / 3600
        print(f"at {options.tflops:g} TFLOP/s sustained: {hours:.1f} hours")
    shapes = store._shapes(next(iter(store.groups)))
    size = 2 * sum(int(np.prod(shape)) for shape in shapes.values())
    print(f"features kept on disk: {size / 1e6:.1f} MB a picture")
    print(f"peak memory: {peak_memory(device) / (1 << 30):.1f} GiB, batch {schedule.batch_size}")


def step(accelerator, model, optimizer, store, schedule, with_task: bool):
    """One iteration of vcm_plugin.training.loop.fit on kept features."""

    def run() -> None:
        loss = sum(loss_terms(model, store, schedule, 0, with_task).values())
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()

    return run


def timed(run, count: int) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    for _ in range(count):
        run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def random_detector(model: str) -> TorchvisionDetector:
    """The detector of a recipe, its residual branches small, so that features stay finite."""
    config = load_config(model_path(model))
    torch.manual_seed(0)
    network = build_rcnn(config)
    weights = to_detectron2_state_dict(network)
    for name, tensor in weights.items():
        if name.endswith("conv3.norm.weight"):
            tensor.fill_(0.1)
    return TorchvisionDetector(config, Checkpoint(weights, "random", "random"))


def drawn_pictures(folder: Path, count: int) -> CocoDataset:
    """Drawn scenes of the shape of photographs in COCO layout."""
    folder.mkdir(exist_ok=True)
    images, annotations = [], []
    for n, (picture, objects) in enumerate(drawn_sets.draw_sequence(7, count, PICTURE), start=1):
        Image.fromarray(picture).save(folder / f"{n}.png")
        height, width = picture.shape[:2]
        images.append({"id": n, "file_name": f"{n}.png", "height": height, "width": width})
        for category, mask in objects:
            annotations.append(minictc.annotation(len(annotations) + 1, n, category, mask))
    categories = [{"id": n, "name": name} for n, name in enumerate(minictc.CLASS_NAMES, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(coco))
    return load_coco(folder, folder / "instances.json")


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's memory, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
