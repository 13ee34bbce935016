# SPDX-License-Identifier: BSD-3-Clause
"""Training the restorer: pictures are coded once, a killed training resumes, its weights load."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from interrupted import interrupted
from picture_tiny import tiny_codec as tiny_picture_codec
from restorer_tiny import SIZES
from vfcn_tiny import tiny_weights

from vcm_plugin.diff_fchm.human.auxiliary import AuxiliaryPictureCodec
from vcm_plugin.diff_fchm.human.restoration import export
from vcm_plugin.diff_fchm.human.restorer import Restorer
from vcm_plugin.diff_fchm.human.restorer import to_planes as planes_of
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import InputError
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training.restorer import train
from vcm_plugin.training.restorer_samples import RestorerStore, prepare
from vcm_plugin.training.schedules import RestorerTraining
from vcm_plugin.vvc import VVenC
from vcm_plugin.vvc.choice import coded_size
from vcm_plugin.vvc.planes import to_picture, to_planes

SCHEDULE = RestorerTraining(
    iterations=4, batch_size=2, warmup=1, checkpoint_every=2, crop=64, structure_from=0.75,
    structure_crop=176, structure_batch=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return MachineCodec(tiny_weights(tmp_path_factory.mktemp("vfcn")))


@pytest.fixture(scope="module")
def pictures(store):
    return [partial(read_picture, entry.path) for entry in store.dataset.pictures[:2]]


@pytest.fixture(scope="module")
def prepared(store, machine, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coded")
    assert list(prepare(pictures, folder, store.detector, machine, codings=3)) == [2]
    return folder


def test_what_is_prepared_is_what_the_codecs_make(store, machine, pictures, prepared):
    found = RestorerStore(prepared, store.detector)
    assert len(found.paths) == 2
    kept = found.read(found.paths[0])
    source = pictures[0]()
    size = source.shape[:2]
    assert np.array_equal(kept["source"].transpose(1, 2, 0)[: size[0], : size[1]], source)
    encoder = VVenC()
    for k, (qp, percent) in enumerate(zip(kept["qps"].tolist(), kept["percents"].tolist())):
        planes = to_planes(source, coded_size(size, percent), percent < 100)
        alone = encoder.decode(encoder.encode(planes, qp))
        expected = to_picture(alone, size, percent < 100)
        decoded = kept[f"decoded_{k}"].transpose(1, 2, 0)[: size[0], : size[1]]
        assert np.array_equal(decoded, expected), "coded together as it is alone"
    s = repr(float(kept["scales"][0]))
    decoded = machine.decode(machine.encode(store.detector.nn_part1(source), s))
    p2 = torch.from_numpy(kept["p2_0"]).float()
    assert torch.allclose(p2, decoded.layers["p2"], rtol=2e-3, atol=0.01), (
        "the grid of the picture is p2's"
    )


def test_pictures_of_a_learned_codec(store, machine, pictures, prepared, tmp_path):
    """They are kept as that codec decodes them, a training begins on them, and none are mixed."""
    learned = tiny_picture_codec(tmp_path)
    folder = tmp_path / "coded"
    assert list(prepare(pictures, folder, store.detector, machine, learned=learned)) == [2]
    found = RestorerStore(folder, store.detector)
    assert found.sha256() != RestorerStore(prepared).sha256()
    kept, source = found.read(found.paths[0]), pictures[0]()
    assert set(kept["percents"].tolist()) == {100} and all(29 <= qp <= 40 for qp in kept["qps"])
    decoded = learned.decode(learned.encode(source, str(kept["qps"][1] + 5)))
    size = source.shape[:2]
    assert np.array_equal(kept["decoded_1"].transpose(1, 2, 0)[: size[0], : size[1]], decoded)
    planes = to_planes(decoded, coded_size(size, 100), False)
    assert np.array_equal(kept["luma_1"][0, : size[0], : size[1]], planes[0] * 32)
    path = export(Restorer(SIZES), {"machine_sha256": machine.latents_sha256}, tmp_path / "first")
    trained = train(SIZES, found, SCHEDULE, tmp_path / "trained", path)
    assert trained.last.weight.any(), "the last layer is zero before a training"
    for codec, place in ((learned, prepared), (None, folder)):
        with pytest.raises(InputError, match="coded by others; name another folder"):
            list(prepare(pictures, place, store.detector, machine, learned=codec))


def test_pictures_are_coded_once(store, machine, pictures, prepared):
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    assert list(prepare(pictures, prepared, store.detector, machine, codings=3)) == [2]
    assert before == {path: path.stat().st_mtime_ns for path in prepared.iterdir()}


def test_resumed_training_equals_an_undisturbed_one(store, machine, prepared, tmp_path):
    found = RestorerStore(prepared, store.detector)
    whole = train(SIZES, found, SCHEDULE, tmp_path / "whole", report=print)
    with interrupted(found, "draw", 3):
        train(SIZES, found, SCHEDULE, tmp_path / "parts", report=print)
    same(whole, train(SIZES, found, SCHEDULE, tmp_path / "parts", report=print))
    export(whole, {"machine_sha256": machine.latents_sha256}, tmp_path / "tiny.restorer")
    AuxiliaryPictureCodec(machine, tmp_path / "tiny.restorer")


def test_a_training_that_begins_with_another_one(store, machine, prepared, tmp_path):
    found = RestorerStore(prepared, store.detector)
    short = replace(SCHEDULE, iterations=1, checkpoint_every=1, learning_rate=1e-9)
    first = train(SIZES, found, SCHEDULE, tmp_path / "first")
    path = export(first, {"machine_sha256": machine.latents_sha256}, tmp_path / "first.restorer")
    second = train(SIZES, found, short, tmp_path / "second", path)
    for name, x in first.state_dict().items():
        assert torch.allclose(x, second.state_dict()[name], rtol=1e-3, atol=1e-6), name
    with pytest.raises(InputError, match="expected weights of a restorer of the recipe's sizes"):
        train(replace(SIZES, features=False), found, short, tmp_path / "third", path)
    grown = replace(SIZES, blocks8=SIZES.blocks8 + 1, blocks4=SIZES.blocks4 + 1)
    deeper = train(grown, found, short, tmp_path / "deeper", path)
    batch = found.draw(1, 64, np.random.default_rng(1))
    told = planes_of(batch.luma, batch.chroma), batch.layers, batch.known
    with torch.no_grad():
        assert torch.allclose(deeper(*told), second(*told), rtol=1e-3, atol=1e-2)
    path = export(deeper, {"machine_sha256": machine.latents_sha256}, tmp_path / "deeper.restorer")
    with pytest.raises(InputError, match="with at most as many blocks, found others"):
        train(SIZES, found, short, tmp_path / "fourth", path)


def same(first, second) -> None:
    for name, x in first.state_dict().items():
        assert torch.equal(x, second.state_dict()[name]), name


def test_bad_settings_and_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="crops in multiples of 8"):
        RestorerTraining(crop=100)
    with pytest.raises(InputError, match="at least 176"):
        RestorerTraining(structure_crop=128)
    with pytest.raises(InputError, match="expected prepared pictures"):
        RestorerStore(tmp_path)
