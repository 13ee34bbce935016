# SPDX-License-Identifier: BSD-3-Clause
"""Training the human layer: stages chain, a killed stage resumes exactly, the result codes."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hvcn_tiny import PAPER, PRIOR, SIZES, tiny_folder, tiny_hvcn, tiny_prior
from interrupted import interrupted
from vfcn_tiny import CONFIG, tiny_model, tiny_weights

from vcm_plugin.bitstream import HumanPayload, read
from vcm_plugin.diff_fchm.human.codec import HumanCodec, geometry_of
from vcm_plugin.diff_fchm.human.config import CHOICES
from vcm_plugin.diff_fchm.human.sampler import LAST
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import InputError
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training.hvcn.recipe import Human, loss_terms, noised, train
from vcm_plugin.training.hvcn.samples import MachineBatch, Samples, picture_paths
from vcm_plugin.training.hvcn.stages import open_prior, run_stage
from vcm_plugin.training.schedules import HvcnTraining

SCHEDULE = HvcnTraining(
    iterations=4,
    batch_size=2,
    warmup=2,
    checkpoint_every=2,
    crop=(64, 64),
    sampling_steps=1,
    lpips_weight=0.0,
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return MachineCodec(tiny_weights(tmp_path_factory.mktemp("vfcn")))


@pytest.fixture
def samples(store, machine):
    paths = [entry.path for entry in store.dataset.pictures]
    return Samples(paths, SCHEDULE.crop, tiny_prior(), store.detector, machine)


def control_stage(samples) -> Human:
    prior = samples.prior
    for module in (prior.vae, prior.unet):
        module.requires_grad_(False)
    return Human("control", tiny_hvcn(samples.machine, prior))


def test_a_batch_is_what_the_machine_codec_decodes(samples):
    rng = np.random.default_rng(3)
    crops = samples.draw(2, rng)
    batch = samples.machine_batch(crops, np.array([0.5, 2.0]))
    assert batch.geometry.source_size == (64, 64) and batch.s.tolist() == [0.5, 2.0]
    features = samples._features(crops[1][0], samples._input_side(crops[1][1]))
    data = samples.machine.encode(features, "2.0")
    decoded = samples.machine.decode(data)
    for name, layer in decoded.layers.items():
        assert torch.equal(layer, batch.layers[name][1])


def test_crops_of_small_pictures_are_enlarged(samples):
    large = replace(samples, crop=(600, 800))
    (crop, _), = large.draw(1, np.random.default_rng(0))  # fmt: skip
    assert crop.shape == (600, 800, 3)


def test_resumed_training_equals_an_undisturbed_one(samples, tmp_path):
    whole = train(control_stage(samples), samples, SCHEDULE, tmp_path / "whole", print)
    with interrupted(samples, "machine_batch", 3):
        train(control_stage(samples), samples, SCHEDULE, tmp_path / "killed", print)
    resumed = train(control_stage(samples), samples, SCHEDULE, tmp_path / "killed", print)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(InputError, match="a checkpoint with networks"):
        other = Human("control", tiny_hvcn(samples.machine, samples.prior,
                                           replace(SIZES, conditioned=False)))  # fmt: skip
        train(other, samples, SCHEDULE, tmp_path / "killed", print)


def test_the_loss_falls(samples, tmp_path):
    schedule = replace(SCHEDULE, iterations=40, learning_rate=3e-3, warmup=2, ema_decay=0.0)
    start = control_stage(samples)
    with torch.no_grad():
        before = [loss_terms(start, samples, schedule, 1000 + k, False) for k in range(4)]
    trained = train(start, samples, schedule, tmp_path, print).train()
    with torch.no_grad():
        after = [loss_terms(trained, samples, schedule, 1000 + k, False) for k in range(4)]
    first, last = (sum(float(t["latent"] + t["rate"]) for t in ts) for ts in (before, after))
    assert last < 0.8 * first


def test_the_estimate_of_training_is_the_size_of_the_file(samples, tmp_path):
    codec = HumanCodec(samples.machine, tiny_folder(tmp_path / "hvcn", samples.machine))
    human = Human("control", codec.pipeline.hvcn).eval()
    entry = samples.paths[0]
    picture = read_picture(entry)
    features = samples.detector.nn_part1(picture)
    data = codec.encode(picture, features, "1", "1")
    layer = codec.decode_latents(data)
    decoded = codec.machine.synthesise(layer.machine)
    _, ranges, s = codec._decoded(layer.machine, decoded)
    y_hat = torch.from_numpy(layer.machine.latents.y)[None].float() / 16
    octaves = torch.tensor(codec.machine.octaves(layer.machine.payload.value_range) / 256)
    layers = {name: x[None].clone() for name, x in decoded.layers.items()}
    batch = MachineBatch(
        layers, layers, ranges, s, y_hat, octaves.view(1, 1, 1, 1), geometry_of(layer.machine)
    )
    from vcm_plugin.diff_fchm.human.pipeline import whole_cells

    with torch.no_grad():
        cells = whole_cells(picture)
        control = codec.pipeline.hvcn.fcn(layers, ranges, s, batch.geometry)
        z0 = codec.pipeline.to_latents(cells)
        _, bits = human.code(z0, cells, control, batch, torch.ones(1))
    coded = HumanPayload.from_bytes(read(data).units[1].payload).data
    assert bits.item() == pytest.approx(8 * len(coded), rel=0.05)


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("stage", ["control", "sampling", "joint"])
def test_every_weight_has_a_gradient(samples, stage, conditioned):
    """Several processes average gradients and wait for each of them."""
    sizes = replace(SIZES, conditioned=conditioned)
    vfcn = tiny_model() if stage == "joint" else None
    human = Human(stage, tiny_hvcn(samples.machine, samples.prior, sizes), None, vfcn).train()
    terms = loss_terms(human, samples, replace(SCHEDULE, stage=stage), 0, False)
    sum(terms.values()).backward()
    assert [n for n, p in human.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("stage", ["control", "sampling"])
@pytest.mark.parametrize("choice", ["paper", *CHOICES])
def test_every_weight_of_every_variant_has_a_gradient(samples, stage, choice):
    sizes = PAPER if choice == "paper" else replace(SIZES, **{choice: CHOICES[choice][1]})
    human = Human(stage, tiny_hvcn(samples.machine, samples.prior, sizes)).train()
    terms = loss_terms(human, samples, replace(SCHEDULE, stage=stage, start=LAST), 0, False)
    sum(terms.values()).backward()
    assert [n for n, p in human.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_paper_profile_trains_and_codes(samples, tmp_path):
    short = replace(SCHEDULE, iterations=2, start=LAST)
    prior = tiny_prior()
    for name in ("vae", "unet", "scheduler"):
        getattr(prior, name).save_pretrained(tmp_path / "prior" / name)
    samples.prior = open_prior(str(tmp_path / "prior"), tmp_path, PRIOR, "control")
    for stage in ("control", "sampling"):
        folder = run_stage(
            PAPER, samples, replace(short, stage=stage), tmp_path, str(tmp_path / "prior")
        )
    assert not (folder / "unet").exists(), "the prior is another folder"
    codec = HumanCodec(samples.machine, folder, str(tmp_path / "prior"))
    picture = read_picture(samples.paths[0])
    data = codec.encode(picture, samples.detector.nn_part1(picture), "1", "1")
    assert codec.decode(data)[1].shape == picture.shape
    wrong = replace(short, stage="sampling")
    with pytest.raises(InputError, match="trained with the profile paper, the recipe says ours"):
        run_stage(SIZES, samples, wrong, tmp_path, str(tmp_path / "prior"))
    with pytest.raises(InputError, match="start: expected 999 where sampling begins from noise"):
        run_stage(PAPER, samples, replace(wrong, start=300), tmp_path, str(tmp_path / "prior"))


def test_stages_chain_and_the_result_codes(samples, tmp_path):
    short = replace(SCHEDULE, iterations=2)
    with pytest.raises(InputError, match="train the stages vae and prior"):
        open_prior(None, tmp_path, PRIOR, "control")
    samples.prior = open_prior(None, tmp_path, PRIOR, "vae")
    run_stage(SIZES, samples, replace(short, stage="vae"), tmp_path)
    samples.prior = open_prior(None, tmp_path, PRIOR, "prior")
    assert samples.prior.vae.config.scaling_factor != 1.0
    run_stage(SIZES, samples, replace(short, stage="prior"), tmp_path)
    for stage in ("control", "sampling"):
        samples.prior = open_prior(None, tmp_path, PRIOR, stage)
        folder = run_stage(SIZES, samples, replace(short, stage=stage), tmp_path)
    codec = HumanCodec(samples.machine, folder)
    picture = read_picture(samples.paths[0])
    data = codec.encode(picture, samples.detector.nn_part1(picture), "1", "1")
    assert codec.decode(data)[1].shape == picture.shape
    state = torch.load(tmp_path / "train_sampling" / "state.pth", weights_only=True)
    assert state["iteration"] == 2
    for written in tmp_path.rglob("*.json"):
        assert str(tmp_path) not in written.read_text(), "a path of this machine"
    assert set(json.loads((folder / "training.json").read_text())) == {"control", "sampling"}


def test_the_joint_stage_moves_the_machine_layer_too(samples, tmp_path):
    model = tiny_model()
    state = {"config": asdict(CONFIG), "average": model.state_dict()}
    torch.save(state, tmp_path / "vfcn_state.pth")
    tiny_folder(tmp_path / "pipeline", samples.machine)
    schedule = replace(SCHEDULE, stage="joint", iterations=2)
    with pytest.raises(InputError, match="name its vfcn_state.pth"):
        run_stage(SIZES, samples, schedule, tmp_path)
    folder = run_stage(SIZES, samples, schedule, tmp_path, None, tmp_path / "vfcn_state.pth")
    machine = MachineCodec(tmp_path / "vfcn.safetensors")
    assert machine.sha256 != samples.machine.sha256
    codec = HumanCodec(machine, folder)
    picture = read_picture(samples.paths[0])
    codec.decode(codec.encode(picture, samples.detector.nn_part1(picture), "1", "1"))


def test_folders_without_pictures(tmp_path):
    with pytest.raises(InputError, match="expected folders of pictures"):
        picture_paths([tmp_path])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_what_the_denoising_network_should_say(samples, prediction_type):
    """z_t = sqrt(a) z0 + sqrt(1 - a) noise; v = sqrt(a) noise - sqrt(1 - a) z0."""
    scheduler = samples.prior.scheduler
    scheduler.register_to_config(prediction_type=prediction_type)
    z0 = torch.randn(3, 4, 5, 6)
    z_t, t, target = noised(z0, scheduler)
    a = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    noise = target
    if prediction_type == "v_prediction":
        noise = (target + (1 - a).sqrt() * z0) / a.sqrt()
    torch.testing.assert_close(z_t, a.sqrt() * z0 + (1 - a).sqrt() * noise)
