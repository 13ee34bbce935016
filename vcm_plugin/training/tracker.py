# SPDX-License-Identifier: BSD-3-Clause
"""Train a JDE network on drawn sequences: boxes, confidences and embeddings in one loss.

    focal loss of the confidences  +  box_weight * smooth L1 of the offsets
    + identity_weight * cross entropy of a linear classifier of identities on the embeddings

An anchor has the object that it overlaps most, from `foreground` on; an object's best anchor has it
in any case. The classifier is thrown away after the training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from vcm_plugin.errors import InputError
from vcm_plugin.files import claim_note, sha256_of, sha256_of_file, write_arrays
from vcm_plugin.split.jde_config import JdeConfig
from vcm_plugin.split.jde_network import STRIDES, JdeNetwork, by_anchor
from vcm_plugin.testsets import minictc_tracking
from vcm_plugin.training import loop
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.schedules import TrackerTraining

STEP = 9  # frames between those of a sequence that are drawn


class TrackingStore:
    """Frames, boxes and identities of drawn sequences of the train split, kept in a folder."""

    detector = None  # no features of a frozen detector: loop.fit asks

    def __init__(self, folder: Path, sequences: int, frames: int):
        folder.mkdir(parents=True, exist_ok=True)
        source = sha256_of_file(Path(minictc_tracking.__file__))
        wanted = {"set": source, "sequences": sequences, "frames": frames}
        claim_note(folder / "tracking.json", wanted, "the frames of these sequences")
        self.digest = sha256_of(wanted)
        self.sequences, self.frames, self.folder = sequences, frames, folder

    def prepare(self) -> Iterator[int]:
        """Draw what is missing; yields the number of sequences done."""
        for index in range(self.sequences):
            path = self.folder / f"{index:05d}.npz"
            if not path.exists():
                self._draw(index, path)
            yield index + 1

    def open(self) -> None:
        """Read the boxes, and the frames into memory; identities become 0, 1, 2 ... over all."""
        pictures, self.boxes, self.identities, first = [], [], [], 0
        for index in range(self.sequences):
            with np.load(self.folder / f"{index:05d}.npz") as kept:
                pictures.append(kept["pictures"])
                truth = json.loads(str(kept["truth"]))
            known: dict[int, int] = {}
            for objects in truth:
                ids = [known.setdefault(item[0], first + len(known)) for item in objects]
                boxes = np.array([item[1:] for item in objects], np.float32).reshape(-1, 4)
                boxes[:, 2:] += boxes[:, :2]
                self.boxes.append(torch.from_numpy(boxes))
                self.identities.append(torch.tensor(ids, dtype=torch.int64))
            first += len(known)
        self.pictures, self.count = np.concatenate(pictures), first

    def batch(self, schedule: TrackerTraining, draw: int):
        """Pictures (N, 3, H, W) of 0..1, and boxes (n, 4) and identities (n,) of each."""
        rng = np.random.default_rng([schedule.seed, draw])
        chosen = rng.integers(len(self.pictures), size=schedule.batch_size)
        pictures = torch.from_numpy(self.pictures[chosen]).permute(0, 3, 1, 2).float() / 255.0
        pictures *= torch.from_numpy(rng.uniform(0.85, 1.15, (len(chosen), 1, 1, 1))).float()
        boxes = [self.boxes[i].clone() for i in chosen]
        for number in np.flatnonzero(rng.random(len(chosen)) < 0.5):
            pictures[number] = pictures[number].flip(-1)
            own = boxes[number]
            own[:, [0, 2]] = pictures.shape[-1] - own[:, [2, 0]]
        return pictures.clamp(0.0, 1.0), boxes, [self.identities[i] for i in chosen]

    def _draw(self, index: int, path: Path) -> None:
        pictures, truth = [], []
        drawn = minictc_tracking.draw_sequence("train", index, self.frames, STEP)
        for picture, objects in drawn:
            pictures.append(picture)
            truth.append([[seen.identity, *seen.box] for seen in objects])
        kept = {"pictures": np.stack(pictures), "truth": json.dumps(truth)}
        write_arrays(path, kept, compressed=False)


class TrackingLosses(nn.Module):
    """A JDE network with a classifier of the identities of the training set."""

    def __init__(self, config: JdeConfig, identities: int):
        super().__init__()
        self.config = config
        self.network = JdeNetwork(config.sizes()).to(memory_format=torch.channels_last)
        self.classifier = nn.Linear(config.embedding, identities)
        self.scale = math.sqrt(2.0) * math.log(max(identities - 1, 2))
        for layer in self.network.layers.values():
            if isinstance(layer, nn.Conv2d) and layer.out_channels != config.embedding:
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
                layer.bias.data[4::6] = 4.0  # confidences begin at 2 %

    def forward(self, pictures, boxes, identities, schedule: TrackerTraining) -> Terms:
        """Terms of the loss, each over the number of anchors with an object."""
        heads = self.network(pictures.contiguous(memory_format=torch.channels_last))
        confidence, offset, identity, count = 0.0, 0.0, 0.0, 1
        for level, (out, embeddings) in enumerate(heads):
            out = by_anchor(out)  # (N, A, h, w, 6)
            anchors = torch.tensor(self.config.anchors_of(level))
            for picture, own, ids in zip(range(len(boxes)), boxes, identities, strict=True):
                label, match = assign(own, anchors, STRIDES[level], out.shape[2:4], schedule)
                has = label > 0
                found = out[picture]
                confidence = confidence + _focal(found[..., 4:], label, schedule.focus)
                if not has.any():
                    continue
                wanted = _offsets(own[match[has]], anchors, STRIDES[level], has)
                offset = offset + F.smooth_l1_loss(found[..., :4][has], wanted, reduction="sum") / 4
                cells, first = has.any(0), has.int().argmax(0)  # one identity a cell
                own_ids = ids[match.gather(0, first[None])[0][cells]]
                vectors = F.normalize(embeddings[picture][:, cells].T)
                logits = self.classifier(self.scale * vectors)
                identity = identity + F.cross_entropy(logits, own_ids, reduction="sum")
                count += int(has.sum())
        return {
            "confidence": confidence / count,
            "box": schedule.box_weight * offset / count,
            "identity": schedule.identity_weight * identity / count,
        }


def assign(
    boxes: torch.Tensor,
    anchors: torch.Tensor,
    stride: int,
    grid: tuple[int, int],
    schedule: TrackerTraining,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which anchor has which box: labels (A, h, w) of 1, 0 and -1 for neither, and box numbers.

    boxes: (n, 4), x0 y0 x1 y1 in pixels. anchors: (A, 2), width and height in pixels.
    """
    shape = (len(anchors), *grid)
    label, match = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    if not len(boxes):
        return label, match
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    centres = torch.stack((columns, rows), dim=-1).float() * stride  # (h, w, 2)
    half = anchors.float()[:, None, None] / 2
    placed = torch.cat((centres - half, centres + half), dim=-1)  # (A, h, w, 4)
    overlap = box_iou(placed.view(-1, 4), boxes)
    best, match = overlap.max(dim=1)
    label = torch.where(best >= schedule.background, -1, 0)
    label[best > schedule.foreground] = 1
    own, place = overlap.max(dim=0)
    forced = own > schedule.background  # an object's best anchor, where this head has one
    label[place[forced]] = 1
    match[place[forced]] = torch.arange(len(boxes))[forced]
    return label.view(shape), match.view(shape)


def loss_terms(model, store: TrackingStore, schedule: TrackerTraining, draw: int, _) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    pictures, boxes, identities = store.batch(schedule, draw)
    return model(pictures, boxes, identities, schedule)


def train(
    config: JdeConfig,
    store: TrackingStore,
    schedule: TrackerTraining,
    folder: Path,
    init: Path | None = None,
    report=lambda line: None,
) -> JdeNetwork:
    """Train, or go on with the checkpoint in `folder`; the network has averaged weights.

    init: a checkpoint whose averaged weights the network starts from, its classifier aside.
    """
    accelerator = loop.start(schedule, folder, report)
    torch.manual_seed(schedule.seed)
    model = TrackingLosses(config, store.count)
    if init is not None:
        _start_from(model.network, init)
    path, made_from = folder / "tracker_state.pth", {"frames": store.digest}
    made_from["init"] = sha256_of_file(init) if init else None
    trained = loop.fit(accelerator, model, store, schedule, path, loss_terms, report, made_from)
    return trained.network


def _start_from(network: JdeNetwork, path: Path) -> None:
    weights = loop.read_average(path)[1]
    own = {k.removeprefix("network."): w for k, w in weights.items() if k.startswith("network.")}
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(
            "--init: expected a checkpoint of a network of the same sizes, found another"
        ) from error


def _focal(logits: torch.Tensor, label: torch.Tensor, focus: float) -> torch.Tensor:
    """Sum of the focal losses of confidences (A, h, w, 2) at anchors that count."""
    counts = label >= 0
    surprise = F.cross_entropy(logits[counts], label[counts], reduction="none")
    return ((1.0 - (-surprise).exp()) ** focus * surprise).sum()


def _offsets(boxes: torch.Tensor, anchors: torch.Tensor, stride: int, has: torch.Tensor):
    """What decode_boxes makes these boxes (m, 4) of, at the anchors that have them."""
    which, rows, columns = has.nonzero().T
    shapes = anchors.float()[which]
    centres = torch.stack((columns, rows), dim=-1).float() * stride
    sizes = boxes[:, 2:] - boxes[:, :2]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat(((middle - centres) / shapes, (sizes / shapes).log()), dim=-1)
