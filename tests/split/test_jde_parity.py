# SPDX-License-Identifier: BSD-3-Clause
"""Does our JDE find what the one inside CompressAI-Vision finds, on the same weights?

Features, detections and tracks, against its wrapper and the authors' code. Runs with -m harness
where both are importable.
"""

import importlib.util
import logging

import jde_tiny
import numpy as np
import pytest
import torch

from vcm_plugin.split.jde import JdeDetector
from vcm_plugin.split.letterbox import letterbox
from vcm_plugin.split_points import SPLIT_POINTS

MISSING = [n for n in ("compressai_vision", "jde", "cv2") if importlib.util.find_spec(n) is None]
pytestmark = [
    pytest.mark.harness,
    pytest.mark.skipif(bool(MISSING), reason=f"not importable: {', '.join(MISSING)}"),
]
FRAMES = 24


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, frames): a cfg file, a checkpoint and frames, for both."""
    folder = tmp_path_factory.mktemp("jde")
    frames = jde_tiny.moving_frames(FRAMES, (608, 1088))  # the network's input: both see the same
    jde_tiny.write_cfg(jde_tiny.NARROW, folder / "narrow.cfg")
    network = jde_tiny.random_network(jde_tiny.NARROW, frames)
    jde_tiny.write_checkpoint(network, folder / "narrow.pt")
    return folder, frames


def theirs(folder, splits):
    from compressai_vision.model_wrappers.jde import jde_1088x608

    return jde_1088x608(
        "cpu", model_path_prefix=str(folder), cfg="narrow.cfg", weights="narrow.pt",
        integer_conv_weight=False, splits=splits, logging_level=logging.ERROR,
    )  # fmt: skip


def their_input(frame) -> torch.Tensor:
    from jde.utils.datasets import letterbox as their_letterbox

    bgr = np.ascontiguousarray(frame[:, :, ::-1])
    canvas, *_ = their_letterbox(bgr, height=608, width=1088)
    canvas = np.ascontiguousarray(canvas[:, :, ::-1].transpose(2, 0, 1), np.float32)
    return torch.from_numpy(canvas) / 255.0


@pytest.mark.parametrize("size", [(180, 320), (1080, 1920), (720, 1280), (608, 1088), (300, 300)])
def test_the_letterbox_is_theirs(size):
    frame = jde_tiny.moving_frames(1, size)[0]
    ours = letterbox(frame, (608, 1088), 127.5)
    difference = np.abs(ours - 255.0 * their_input(frame).permute(1, 2, 0).numpy())
    assert difference.max() < 1.01  # a rounding
    grows = size[0] < 608 and size[1] < 1088  # OpenCV then interpolates in fixed point
    assert (difference > 0.01).mean() < (0.05 if grows else 1e-3)


@pytest.mark.parametrize("split_point", ["jde_tvd", "jde_hieve"])
def test_features_detections_and_tracks_are_theirs(made, split_point, monkeypatch):
    from jde.tracker import matching

    # cython_bbox of PyPI takes 64-bit floats only; the harness's own build takes 32
    bbox_ious = matching.bbox_ious
    monkeypatch.setattr(
        matching, "bbox_ious", lambda a, b: bbox_ious(a.astype(np.float64), b.astype(np.float64))
    )
    folder, frames = made
    splits = [int(name) for name in SPLIT_POINTS[split_point]]
    their, ours = theirs(folder, splits), JdeDetector(
        jde_tiny.NARROW, folder / "narrow.pt", split_point
    )  # fmt: skip
    tracker, known, reported, found = ours.tracker(), {}, 0, 0
    for frame in frames:
        x = {"image": their_input(frame), "height": frame.shape[0], "width": frame.shape[1]}
        theirs_features = their.input_to_features([x], "cpu")
        features = ours.nn_part1(frame)
        for (name, layer), key in zip(features.layers.items(), splits):
            wanted = theirs_features["data"][key][0]
            scale = wanted.abs().max()
            assert (layer - wanted).abs().max() < 2e-4 * scale, name
        sizes = {"height": frame.shape[0], "width": frame.shape[1]}
        # as in its pipelines, NN-Part2 takes what came out of a file
        data = {key: layer[None] for key, layer in zip(splits, features.layers.values())}
        wanted = their.features_to_output(
            {"data": data, "org_input_size": sizes, "input_size": [(608, 1088)]}, "cpu"
        )
        detections = ours.nn_part2(features)
        tracks = tracker.update(detections)
        found += len(detections)
        assert len(tracks.identities) == len(wanted["ids"])
        for box, identity, their_box, their_id in zip(
            tracks.boxes, tracks.identities, wanted["tlwhs"], wanted["ids"], strict=True
        ):
            assert known.setdefault(int(identity), their_id) == their_id
            assert np.allclose(box, their_box, atol=0.05)
            reported += 1
    assert len(set(known.values())) == len(known)
    assert found > 5 * FRAMES and reported > FRAMES, (found, reported)
