# SPDX-License-Identifier: BSD-3-Clause
"""Are checkpoints read faithfully, and hostile or ill-fitting ones refused in one line?"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from split_parity import drawn_picture, random_checkpoint, tiny_config

from vcm_plugin.errors import InputError
from vcm_plugin.split.checkpoint import Checkpoint, read_checkpoint
from vcm_plugin.split.names import to_detectron2_state_dict
from vcm_plugin.split.rcnn import build_rcnn
from vcm_plugin.split.torchvision import TorchvisionDetector, load_weights

CONFIG = tiny_config()


@pytest.fixture(scope="module")
def weights():
    return random_checkpoint(CONFIG).weights


def test_names_and_class_order_survive_a_round_trip(weights):
    model = build_rcnn(CONFIG)
    load_weights(model, Checkpoint(weights, "", "round trip"))
    again = to_detectron2_state_dict(model)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    # Background is last in Detectron2 and first in torchvision; boxes and masks have none.
    scores = model.roi_heads.box_predictor.cls_score.bias
    assert torch.equal(scores[0], weights["roi_heads.box_predictor.cls_score.bias"][-1])
    assert torch.equal(scores[1:], weights["roi_heads.box_predictor.cls_score.bias"][:-1])
    moves = weights["roi_heads.box_predictor.bbox_pred.weight"]
    assert len(moves) == 4 * CONFIG.num_classes
    assert torch.equal(model.roi_heads.box_predictor.bbox_pred.weight[4:], moves)


def test_all_formats_hold_the_same_weights(tmp_path, weights):
    arrays = {name: value.numpy() for name, value in weights.items()}
    torch.save({"model": weights, "iteration": 7}, tmp_path / "a.pth")
    torch.save(weights, tmp_path / "b.pth")
    save_file(weights, tmp_path / "c.safetensors")
    for protocol in (2, 4):
        content = {
            "model": OrderedDict(arrays),
            "__author__": "us",
            "number": np.float64(1.0).item(),
        }
        (tmp_path / f"d{protocol}.pkl").write_bytes(pickle.dumps(content, protocol))
    for path in sorted(tmp_path.iterdir()):
        checkpoint = read_checkpoint(path)
        assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert checkpoint.weights.keys() == weights.keys(), path
        assert all(torch.equal(checkpoint.weights[k], v) for k, v in weights.items()), path


def wrapped(weights, prefix):
    return {prefix + name: value for name, value in weights.items()}


def test_wrappers_are_taken_off_as_detectron2_does(tmp_path, weights):
    contents = {
        "of several GPUs.pth": {"model": wrapped(weights, "module.")},
        "state_dict.pth": {"state_dict": weights, "epoch": 7},
        "both.pt": {"state_dict": wrapped(weights, "module.")},
        "bare.PT": wrapped(weights, "module."),
        "training.PTH": {"model": weights, "optimizer": {"state": {}}, "iteration": 7},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
        read = read_checkpoint(tmp_path / name).weights
        assert read.keys() == weights.keys(), name
        assert all(torch.equal(read[k], v) for k, v in weights.items()), name


def test_a_name_that_only_some_tensors_have_is_left_as_it_is(tmp_path):
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").weights.keys() == {"module.a", "b"}


def test_several_networks_are_named_in_the_refusal(tmp_path, weights):
    for content in ({"student": weights, "teacher": weights}, {"model": {"ema": weights}},
                    {"state_dict": {"student": weights}, "epoch": 7}):  # fmt: skip
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(InputError, match=r"tensors of one network, found (student|ema)"):
            read_checkpoint(tmp_path / "a.pth")
    both = wrapped(weights, "modelStudent.") | wrapped(weights, "modelTeacher.")
    cases = {
        "it holds modelStudent. and modelTeacher.: save the weights of one": both,
        "their names begin with _orig_mod.: take that off": wrapped(weights, "_orig_mod."),
    }
    for message, found in cases.items():
        with pytest.raises(InputError, match=f"tensors are missing.*{message}"):
            TorchvisionDetector(CONFIG, Checkpoint(found, "", "a.pth"))


def test_weights_that_are_no_numbers_are_refused(weights):
    name = next(iter(weights))
    found = weights | {name: torch.full_like(weights[name], torch.nan)}
    with pytest.raises(InputError, match=f"a.pth: .* damaged: {name} holds NaN or infinite"):
        TorchvisionDetector(CONFIG, Checkpoint(found, "", "a.pth"))


DOWNLOADS = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "a web page": b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
    "a web page.": b"\xef\xbb\xbf<html>",
    "a web page..": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "an empty file": b"",
}


@pytest.mark.parametrize("suffix", [".pth", ".PKL", ".safetensors"])
@pytest.mark.parametrize("case", DOWNLOADS)
def test_what_a_download_leaves_in_place_of_the_file_is_recognised(tmp_path, case, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(DOWNLOADS[case])
    with pytest.raises(InputError, match=f"a{suffix}: expected a checkpoint, found {case[:8]}"):
        read_checkpoint(path)


def test_no_refusal_advises_to_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contents = [Hostile(os.system, "true"), torch.nn.Linear(2, 2), {"w": np.float64(1)}, CONFIG]
    for number, content in enumerate(contents):
        torch.save({"model": {"w": content}}, f"{number}.pth")
    torch.jit.script(torch.nn.ReLU()).save("script.pt")
    (tmp_path / "text.pth").write_bytes(b"weights_only=False " * 9)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match=path.name) as caught:
            read_checkpoint(path)
        message = str(caught.value)
        assert not any(word in message.lower() for word in ("weights_only", "unsafe", "safe_glob"))
        assert len(message) < 500 and "\n" not in message


def test_half_precision_is_widened(tmp_path, weights):
    torch.save({"model": {k: v.half() for k, v in weights.items()}}, tmp_path / "half.pth")
    read = read_checkpoint(tmp_path / "half.pth").weights
    assert all(v.dtype == torch.float32 for v in read.values())
    assert all(torch.equal(read[k], v.half().float()) for k, v in weights.items())


def test_a_python_2_pickle_is_read(tmp_path):
    """As Detectron2's model zoo holds them: protocol 2, array bytes in a latin1 string."""
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = array.tobytes()
    stub = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    state = b"(K\x01K\x02K\x03\x86" + dtype + b"\x89U" + bytes([len(data)]) + data + b"tb"
    path = tmp_path / "old.pkl"
    path.write_bytes(b"\x80\x02}U\x05model}U\x01w" + stub + state + b"ss.")
    assert torch.equal(read_checkpoint(path).weights["w"], torch.from_numpy(array))


def test_fortran_order_and_big_endian_arrays(tmp_path):
    array = np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"w": array}}))
    read = read_checkpoint(tmp_path / "a.pkl").weights["w"]
    assert torch.equal(read, torch.arange(6.0).reshape(2, 3))


class Hostile:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Hostile(os.system, "touch HOSTILE"),
        Hostile(eval, "open('HOSTILE', 'w')"),
        Hostile(np.load, "HOSTILE"),
        Hostile(getattr, "words", "encode"),
        np.array([Hostile(os.system, "touch HOSTILE")], dtype=object),
    ],
    ids=["system", "eval", "numpy function", "getattr", "object array"],
)
@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_hostile_pickles_are_refused(tmp_path, monkeypatch, value, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"hostile{suffix}"
    content = {"model": {"w": value}}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match="expected a checkpoint of plain arrays") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "HOSTILE").exists()


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """A pickle may set attributes on what it names; the next file must not see them."""
    poison = b"\x80\x02cnumpy\nndarray\nN}U\x0c__setstate__Ncnumpy\ndtype\ns\x86b."
    good = {"model": {"w": np.ones(3, np.float32)}}
    (tmp_path / "poison.pkl").write_bytes(poison)
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(good))
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "poison.pkl")
    assert torch.equal(read_checkpoint(tmp_path / "good.pkl").weights["w"], torch.ones(3))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.pth", b"not a checkpoint"),
        ("a.pkl", b"not a checkpoint"),
        ("a.safetensors", b"not a checkpoint"),
        ("a.pkl", pickle.dumps([1, 2])),
        ("a.pkl", pickle.dumps({"model": {"w": "words"}})),
        ("a.pkl", pickle.dumps({"model": {}})),
        ("a.pkl", pickle.dumps({"blobs": {"w": np.ones(1)}})),
        ("a.pkl", pickle.dumps({"model": {"w": np.ones(1, complex)}})),
        ("a.pkl", pickle.dumps({"model": {"w": np.ones(9)}})[:-20]),
        ("a.bin", b""),
        ("a.pth", b""),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name) as error:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_checkpoint(tmp_path / "none.pth")


def test_truncated_checkpoints(tmp_path, weights):
    torch.save(weights, tmp_path / "a.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:-1000])
    with pytest.raises(InputError, match="cut.pth"):
        read_checkpoint(tmp_path / "cut.pth")


def test_ill_fitting_checkpoints_name_the_first_tensors(weights):
    def load(changed):
        return TorchvisionDetector(CONFIG, Checkpoint(changed, "", "file.pth"))

    name = "roi_heads.box_predictor.cls_score.weight"
    with pytest.raises(
        InputError, match=rf"file.pth.*1 tensors.*{name} is \(3, 32\) instead of \(9, 32\)"
    ):
        load({**weights, name: torch.zeros(3, 32)})
    with pytest.raises(InputError, match=f"1 tensors are missing: {name}"):
        load({k: v for k, v in weights.items() if k != name})
    with pytest.raises(InputError, match="1 tensors are unexpected: extra"):
        load({**weights, "extra": torch.zeros(1)})
    with pytest.raises(InputError, match=r"tensors are missing: [^,]+, [^,]+, [^,]+, \.\.\.;"):
        load({"w": torch.zeros(1)})


def test_entries_that_follow_from_the_configuration_may_be_there(weights):
    extra = {
        "pixel_mean": torch.zeros(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    detector = TorchvisionDetector(CONFIG, Checkpoint({**weights, **extra}, "", "zoo.pkl"))
    assert len(detector.nn_part1(drawn_picture(64, 80)).layers) == 4
