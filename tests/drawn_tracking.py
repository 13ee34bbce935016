# SPDX-License-Identifier: BSD-3-Clause
"""Small tracking sets in the layout of TVD and HiEve, a narrow JDE, and runs over them.

The ground truth of a network with random weights is its own tracks in the uncompressed frames, less
some, so that its uncompressed MOTA is high and falls with what is lost.
"""

from dataclasses import replace
from pathlib import Path

import jde_tiny
from PIL import Image
from vfcn_tiny import CONFIG, tiny_weights

from vcm_plugin.conditions import with_values
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.split.jde import JdeDetector

SETS = {
    "tvd_tracking": ("tvd_tracking", ("TVD/TVD-01", "TVD/TVD-02", "TVD/TVD-03")),
    "hieve": (
        "HiEve_pngs",
        ("HIEVE-1080P/13", "HIEVE-1080P/16", "HIEVE-720P/17", "HIEVE-720P/18", "HIEVE-720P/2"),
    ),
}
SIZE, MODEL = (96, 160), replace(jde_tiny.SMALL, min_box_area=20, max_aspect=20)


def draw_set(root: Path, name: str, frames: int):
    """Draw a set, the network and its weights below root; returns the condition."""
    folder, names = SETS[name]
    made = load_condition(name)
    moving = {n: jde_tiny.moving_frames(frames, SIZE, seed) for seed, n in enumerate(names)}
    network = jde_tiny.random_network(MODEL, moving[names[0]])
    checkpoint = jde_tiny.write_checkpoint(network, root / "small.pt")
    model = jde_tiny.write_model(MODEL, root / "small.yaml")
    detector = JdeDetector(MODEL, checkpoint, made.split_point)
    for sequence, pictures in moving.items():
        _write(root / folder / sequence.rpartition("/")[2], pictures, detector)
    sizes = replace(
        CONFIG, split_point=made.split_point,
        layer_channels=MODEL.sizes().channels(made.split_point),
    )  # fmt: skip
    weights = tiny_weights(root, sizes, detector=detector.weights_sha256)
    values = {
        "model": str(model), "weights": str(checkpoint), "sequence_frames": (),
        "diff_fchm_weights": str(weights), "diff_fchm_scales": (0.7, 1.4, 2.8, 5.6),
        "vvc_feature_qps": (22, 27, 32, 37), "vvc_feature_range": (-8.0, 12.0),
    }  # fmt: skip
    return with_values(made, values)


def drawn_tracking_run(root: Path, name: str = "tvd_tracking", codec="diff_fchm", frames=6) -> Path:
    """A run at four rate points over a drawn set."""
    condition = draw_set(root, name, frames)
    run(condition, codec, root / "run", RunOptions(data_root=root))
    return root / "run"


def _write(folder: Path, pictures: list, detector: JdeDetector) -> None:
    (folder / "img1").mkdir(parents=True)
    (folder / "gt").mkdir()
    tracker, lines = detector.tracker(), []
    for number, picture in enumerate(pictures, start=1):
        Image.fromarray(picture).save(folder / "img1" / f"{number:06d}.png")
        tracks = tracker.update(detector.nn_part2(detector.nn_part1(picture)))
        for place, ((left, top, width, height), identity) in enumerate(
            zip(tracks.boxes, tracks.identities)
        ):
            if place % 8 != 7 and left < SIZE[1] - 1 and top < SIZE[0] - 1:
                lines.append(
                    f"{number},{identity},{left + 1},{top + 1},{width},{height},1,1,1\n"
                )
    if not lines:
        raise AssertionError("the network tracks nothing")
    (folder / "gt" / "gt.txt").write_text("".join(lines))
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate=50\nseqLength={len(pictures)}\n"
        f"imWidth={SIZE[1]}\nimHeight={SIZE[0]}\nimExt=.png\n"
    )
