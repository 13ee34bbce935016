# SPDX-License-Identifier: BSD-3-Clause
"""JDE in our runner: the network's layers, its checkpoints, its two split points, its tracker."""

from dataclasses import replace

import jde_tiny
import numpy as np
import pytest
import torch

from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split import load_split_model
from vcm_plugin.split.detections import Detections
from vcm_plugin.split.jde import JdeDetector
from vcm_plugin.split.jde_checkpoint import to_jde_state_dict
from vcm_plugin.split.jde_config import load_jde_config
from vcm_plugin.split.jde_network import JdeNetwork, decode_boxes
from vcm_plugin.split.letterbox import letterbox, placed, resize_by_area, to_source
from vcm_plugin.split.tracker import Tracker

SMALL = jde_tiny.SMALL


@pytest.fixture(scope="module")
def frames():
    return jde_tiny.moving_frames(6, (90, 150))


@pytest.fixture(scope="module")
def network(frames):
    return jde_tiny.random_network(SMALL, frames)


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    return jde_tiny.write_checkpoint(network, tmp_path_factory.mktemp("jde") / "small.pt")


def test_the_full_network_has_the_layers_of_its_cfg_file():
    """Numbers, channels and count of weights, as the cfg file of the test conditions has them."""
    with torch.device("meta"):
        network = JdeNetwork(jde_tiny.FULL.sizes())
    filters = {int(n): (m if isinstance(m, torch.nn.Conv2d) else m[0]).out_channels
               for n, m in network.layers.items()}  # fmt: skip
    assert {n: filters[n] for n in (0, 35, 60, 73)} == {0: 32, 35: 256, 60: 512, 73: 1024}
    assert {n: filters[n] for n in (75, 90, 105)} == {75: 512, 90: 256, 105: 128}
    assert [n for n, count in filters.items() if count == 24] == [81, 96, 111]
    assert {n: network.layers[str(n)].in_channels for n in (83, 98, 113)} == {
        83: 512, 98: 256, 113: 128
    }  # fmt: skip
    assert [network.layers[n][0].in_channels for n in ("90", "105")] == [768, 384]
    assert len(filters) == 78


@pytest.mark.parametrize("split_point", ["jde_tvd", "jde_hieve"])
def test_both_halves_make_what_the_whole_does(split_point, network, checkpoint, frames):
    detector = JdeDetector(SMALL, checkpoint, split_point)
    features = detector.nn_part1(frames[0])
    assert features.split_point == split_point and features.input_size == (96, 160)
    assert features.source_size == (90, 150)
    found = detector.nn_part2(features)
    canvas = letterbox(frames[0], (96, 160), SMALL.pixel_fill)
    with torch.no_grad():
        heads = detector.model(torch.from_numpy(canvas).permute(2, 0, 1)[None] / 255.0)
    boxes, scores, embeddings = detector._confident(heads)
    assert len(found) > 5 and len(found) <= len(scores)
    assert found.scores[0] == pytest.approx(scores.max().item(), abs=1e-5)
    assert np.allclose(np.linalg.norm(found.embeddings, axis=1), 1.0, atol=1e-5)


def test_decoded_boxes_are_worked_out():
    """Offsets of half an anchor's size, and of a size that is e times as large."""
    deltas = torch.zeros(1, 1, 2, 3, 4)
    deltas[0, 0, 1, 2] = torch.tensor([0.5, -0.25, 1.0, 0.0])
    boxes = decode_boxes(deltas, torch.tensor([[16.0, 40.0]]), 8)
    assert boxes[0, 0, 0, 0].tolist() == [0.0, 0.0, 16.0, 40.0]
    wanted = [2 * 8 + 8.0, 8 - 10.0, 16 * np.e, 40.0]
    assert boxes[0, 0, 1, 2].tolist() == pytest.approx(wanted, rel=1e-6)


def test_darknet_weights_are_the_same_network(network, checkpoint, frames, tmp_path):
    path = jde_tiny.write_darknet(network.cpu(), tmp_path / "small.weights")
    ours = JdeDetector(SMALL, path, "jde_tvd").nn_part1(frames[0])
    half = JdeDetector(SMALL, checkpoint, "jde_tvd").nn_part1(frames[0])  # rounded to 16 bits
    with torch.no_grad():
        canvas = letterbox(frames[0], (96, 160), SMALL.pixel_fill)
        wanted = network.backbone(torch.from_numpy(canvas).permute(2, 0, 1)[None] / 255.0)
    for layer, rounded, exact in zip(ours.layers.values(), half.layers.values(), wanted):
        assert torch.allclose(layer, exact[0], atol=1e-5)
        assert (rounded - exact[0]).abs().mean() < 0.02 * exact.abs().mean()


def test_the_authors_extra_tensors_are_passed_over(network, tmp_path):
    """A classifier of training identities, and weights of losses."""
    state = to_jde_state_dict(network)
    state |= {"classifier.weight": torch.zeros(4, 16), "classifier.bias": torch.zeros(4)}
    state |= {f"module_list.85.yolo_85.{name}": torch.zeros(1) for name in ("s_c", "s_r", "s_id")}
    torch.save({"model": state, "epoch": 3, "best_loss": 1.0}, tmp_path / "trained.pt")
    JdeDetector(SMALL, tmp_path / "trained.pt", "jde_tvd")


def test_a_model_file_is_opened_as_any_detector(checkpoint, frames, tmp_path):
    model = jde_tiny.write_model(SMALL, tmp_path / "small.yaml")
    detector = load_split_model(model, checkpoint, "jde_hieve")
    assert detector.num_classes == 1 and detector.identity()["split_point"] == "jde_hieve"
    with pytest.raises(InputError, match="no weights given; name a checkpoint file of JDE"):
        load_split_model(model, None, "jde_hieve")
    with pytest.raises(InputError, match="expected jde_tvd or jde_hieve for a JDE network.*fpn"):
        load_split_model(model, checkpoint, "fpn")


def test_checkpoints_of_others_are_refused(network, checkpoint, tmp_path):
    wider = replace(SMALL, stages=(4, 8, 16, 24, 64))
    with pytest.raises(InputError, match="tensors are misshapen: module_list.62"):
        JdeDetector(wider, checkpoint, "jde_tvd")
    torch.save({"model": {"backbone.stem.weight": torch.zeros(3)}}, tmp_path / "rcnn.pth")
    with pytest.raises(InputError, match="weights of a JDE network.*found backbone.stem.weight"):
        JdeDetector(SMALL, tmp_path / "rcnn.pth", "jde_tvd")
    path = jde_tiny.write_darknet(network, tmp_path / "cut.weights")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="expected [0-9]+ bytes, the darknet weights of this JDE"):
        JdeDetector(SMALL, path, "jde_tvd")
    (tmp_path / "code.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match="expected a checkpoint of plain arrays"):
        JdeDetector(SMALL, tmp_path / "code.pt", "jde_tvd")
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:-400])
    with pytest.raises(InputError, match="plain arrays, found [^.]*; copy it again, or save"):
        JdeDetector(SMALL, tmp_path / "cut.pt", "jde_tvd")


def test_a_checkpoint_of_another_input_size_is_refused(network, tmp_path):
    path = jde_tiny.write_checkpoint(network, tmp_path / "jde.864x480.uncertainty.pt")
    with pytest.raises(InputError, match="input size 160x96 .*named after 864x480; take") as error:
        JdeDetector(SMALL, path, "jde_tvd")
    assert "\n" not in str(error.value)
    own = path.rename(tmp_path / "jde.160x096.pt")
    assert JdeDetector(SMALL, own, "jde_tvd").weights_sha256


def test_features_of_another_network_are_refused(checkpoint):
    detector = JdeDetector(SMALL, checkpoint, "jde_tvd")
    layers = {"36": torch.zeros(16, 12, 20), "61": torch.zeros(24, 6, 10),
              "74": torch.zeros(48, 3, 5)}  # fmt: skip
    with pytest.raises(InputError, match="expected the layers .*'74': .32, 3, 5.*found .*48, 3, 5"):
        detector.nn_part2(FeaturePyramid(layers, (90, 150), (96, 160)))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"input_size": (600, 1088)}, "input_size: expected height and width in multiples of 32"),
        ({"stages": (4, 8, 16)}, "stages: expected even channels of five stages, found"),
        ({"anchors": (8, 24, 11)}, "anchors: expected width and height of as many anchors"),
    ],
)
def test_model_files_that_cannot_be(changes, line, tmp_path):
    text = (cfg_folder() / "models" / "jde_1088x608.yaml").read_text()
    for key, value in changes.items():
        lines = [row for row in text.splitlines() if not row.startswith(f"{key}:")]
        text = "\n".join([*lines, f"{key}: {list(value)}"])
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"wrong.yaml: {line}"):
        load_jde_config(path)


# --- letterbox ------------------------------------------------------------------------------


def test_boxes_come_back_out_of_the_letterbox():
    assert placed((1080, 1920), (608, 1088)) == (608, 1081, 0, 3)
    gain = 608 / 1080
    inside = np.float32([[100 * gain + (1088 - 1920 * gain) / 2, 50 * gain, 900, 400]])
    found = to_source(inside, (1080, 1920), (608, 1088))
    assert found[0, :2] == pytest.approx([100, 50], abs=1e-3)
    assert to_source(np.float32([[-50, -9, 5, 5]]), (608, 1088), (608, 1088))[0, 0] == 0.0


def test_area_resize_is_a_mean_of_what_is_covered():
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    halved = picture.reshape(2, 2, 3, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize_by_area(picture, (2, 3)) - halved).max() <= 0.5
    assert np.array_equal(resize_by_area(picture, (4, 6)), picture)
    third = resize_by_area(np.full((7, 5, 3), 200, np.uint8), (3, 3))
    assert (third == 200).all()


# --- tracker --------------------------------------------------------------------------------


def seen(*objects) -> Detections:
    """Detections of (left, top, width, height, number of its embedding)."""
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in objects], np.float32)
    embeddings = np.eye(8, dtype=np.float32)[[number for *_, number in objects]]
    count = len(objects)
    return Detections(boxes.reshape(-1, 4), np.full(count, 0.9, np.float32),
                      np.zeros(count, np.int64), embeddings=embeddings.reshape(-1, 8))  # fmt: skip


def test_an_object_is_reported_from_its_second_frame_on():
    tracker = Tracker(jde_tiny.FULL)
    assert len(tracker.update(seen((10, 10, 20, 40, 0))).identities) == 0
    found = tracker.update(seen((12, 10, 20, 40, 0)))
    assert found.identities.tolist() == [1]
    assert found.boxes[0] == pytest.approx((12, 10, 20, 40), abs=1)


def test_crossing_objects_keep_their_identities():
    tracker, found = Tracker(jde_tiny.FULL), []
    for frame in range(20):
        found.append(
            tracker.update(seen((10 + 5 * frame, 50, 20, 40, 0), (110 - 5 * frame, 52, 20, 40, 1)))
        )
    last = dict(zip(found[-1].identities.tolist(), found[-1].boxes[:, 0]))
    first = dict(zip(found[1].identities.tolist(), found[1].boxes[:, 0]))
    assert set(first) == set(last) == {1, 2}
    left, right = sorted(first, key=first.get)
    assert last[left] > last[right]


@pytest.mark.parametrize(("gone", "same"), [(10, True), (40, False)])
def test_a_lost_object_comes_back_under_its_identity_for_a_while(gone, same):
    tracker = Tracker(jde_tiny.FULL)
    for _ in range(4):
        tracker.update(seen((50, 50, 20, 40, 0)))
    for _ in range(gone):
        assert len(tracker.update(seen()).identities) == 0
    for _ in range(3):
        found = tracker.update(seen((50, 50, 20, 40, 0)))
    assert (found.identities.tolist() == [1]) == same


def test_small_and_wide_tracks_are_not_reported():
    tracker = Tracker(jde_tiny.FULL)
    for _ in range(3):
        found = tracker.update(seen((10, 10, 10, 15, 0), (50, 50, 90, 40, 1), (200, 9, 20, 40, 2)))
    assert found.identities.tolist() == [3]


def test_what_a_tracker_keeps_does_not_grow():
    """2,000 frames of objects that come and go: lists stay short."""
    tracker = Tracker(jde_tiny.FULL)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        x, y = rng.uniform(0, 1000, 2)
        tracker.update(seen((x, y, 20, 40, int(rng.integers(8)))))
    assert len(tracker.followed) + len(tracker.lost) < 50
