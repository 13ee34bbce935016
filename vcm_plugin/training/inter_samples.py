# SPDX-License-Identifier: BSD-3-Clause
"""Which latents of drawn sequences does the training of the inter networks see?

NN-Part1 and g_a are frozen, and y = done(range) * g_a(P) for every s: so each frame is analysed
once and kept as g_a's output, as 16-bit floats, with the range of its features. A detector decides
whose sequences these are: the tracking set's for JDE, the mini-CTC sequences' for others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import InputError
from vcm_plugin.files import claim_note, sha256_of, write_arrays
from vcm_plugin.split.jde import JdeDetector
from vcm_plugin.split.torchvision import TorchvisionDetector
from vcm_plugin.testsets import minictc_sequences, minictc_tracking

Detector = TorchvisionDetector | JdeDetector


def drawn_by(detector: Detector) -> Callable[[str, int, int], Iterator]:
    """The draw_sequence of the set that a detector is for: tracking for JDE."""
    tracks = isinstance(detector, JdeDetector)
    return (minictc_tracking if tracks else minictc_sequences).draw_sequence


def prepare(
    folder: Path, machine: MachineCodec, detector: Detector, sequences: int, frames: int
) -> Iterator[int]:
    """Analyse the first frames of each sequence of the train split; yields how many are done.

    Goes on where it was interrupted. Raises InputError where the folder holds others, and where the
    machine layer is for another detector.
    """
    if machine.metadata["detector_sha256"] != detector.weights_sha256:
        raise InputError(
            f"--vfcn: expected weights for the detector {detector.weights_sha256[:8]}, found some "
            f"for {machine.metadata['detector_sha256'][:8]}; give its own, or the other detector"
        )
    ours = {
        "detector": detector.weights_sha256,
        "machine": machine.latents_sha256,
        "frames": frames,
    }
    what = f"the latents of this detector and these VFCN weights, {frames} frames each"
    claim_note(folder / "latents.json", ours, what)
    draw_sequence = drawn_by(detector)
    for index in range(sequences):
        path = folder / f"{index:05d}.npz"
        if not path.is_file():
            pictures = (picture for picture, _ in draw_sequence("train", index, frames))
            found = [machine.analyse(detector.nn_part1(picture)) for picture in pictures]
            latents = np.stack([x.y[0].numpy().astype(np.float16) for x in found])
            ranges = np.array([x.value_range for x in found])
            write_arrays(path, {"y": latents, "ranges": ranges}, compressed=False)
        yield index + 1


class InterStore:
    """Clips of consecutive frames, as they were prepared; held in memory.

    detector: of whom the features are. sequences: how many of the folder.
    """

    def __init__(self, folder: Path, detector: Detector, sequences: int):
        self.detector = detector
        kept = [np.load(folder / f"{index:05d}.npz") for index in range(sequences)]
        self.latents = np.stack([each["y"] for each in kept])  # (sequences, frames, C, h, w)
        self.ranges = np.stack([each["ranges"] for each in kept])  # (sequences, frames, 2)

    def draw(
        self, count: int, frames: int, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """y of `count` clips, (count, frames, C, h, w), and the range of the first frame of each,
        (count, 2)."""
        total, length = self.latents.shape[:2]
        pairs = [(rng.integers(total), rng.integers(length - frames + 1)) for _ in range(count)]
        clips = np.stack([self.latents[n, first : first + frames] for n, first in pairs])
        ranges = np.stack([self.ranges[n, first] for n, first in pairs])
        return torch.from_numpy(clips.astype(np.float32)), torch.from_numpy(ranges).float()

    def sha256(self) -> str:
        """Of the ranges, which tell sequences apart."""
        return sha256_of(self.ranges.tolist())
