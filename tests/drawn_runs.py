# SPDX-License-Identifier: BSD-3-Clause
"""Runs of diff_fchm on small drawn test sets in the layout of MPEG's, with its bundled weights."""

from pathlib import Path

import drawn_sets
from changed import changed

from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.run import RunOptions, run

SCALES = (0.7, 1.4, 2.8, 5.6)


def drawn_sfu(root: Path, names: tuple[str, ...], frames: int) -> Path:
    """A run of diff_fchm at four rate points over drawn sequences with the names of real ones."""
    for sequence in names:
        rate = int(sequence.rpartition("_")[2])
        drawn_sets.draw_sfu(root, [sequence.rpartition("/")[2]], frames, rate)
    condition = changed(
        load_condition("minictc"), name="sfu_hw", minictc=None, sequences=names,
        sequence_folder="SFU_HW_Obj/{}_val", tasks=("box",), expected_box_ap=None,
        diff_fchm_scales=SCALES,
    )  # fmt: skip
    run(condition, "diff_fchm", root / "run", RunOptions(data_root=root))
    return root / "run"


def drawn_oiv6(root: Path) -> Path:
    """Runs of both tasks on two drawn pictures, in root/detection and root/segmentation."""
    drawn_sets.draw_open_images(root, pictures=2)
    for task in ("detection", "segmentation"):
        condition = changed(
            load_condition(f"mpeg_oiv6_{task}"), classes_by_position=False,
            class_names=load_condition("minictc").class_names, model="minictc_mask_rcnn",
            weights="minictc_mask_rcnn.pth", diff_fchm_weights="minictc_vfcn.safetensors",
            diff_fchm_scales=SCALES,
        )  # fmt: skip
        run(condition, "diff_fchm", root / task, RunOptions(data_root=root))
    return root
