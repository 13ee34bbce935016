# SPDX-License-Identifier: BSD-3-Clause
"""The human layer: round trips, the same latents everywhere, damaged files, bad input."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hvcn_tiny import GOLDEN, SIZES, golden_latents, picture, tiny_codec, tiny_folder
from mutations import refused_and_reached
from precision import threads_and_kernels
from test_machine_codec import mutated
from vfcn_tiny import pyramid, tiny_weights

from vcm_plugin import bitstream
from vcm_plugin.bitstream import HumanPayload, Unit, bits
from vcm_plugin.diff_fchm.human.acn import scaled_back
from vcm_plugin.diff_fchm.human.codec import HumanCodec, Sampling, geometry_of, load_hvcn
from vcm_plugin.diff_fchm.human.geometry import resampling_taps
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.entropy.latent_coder import LATENT_STEPS
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.features import FeaturePyramid

MUTATIONS = int(os.environ.get("VCM_MUTATIONS", "300"))  # more: scripts/campaign_files.py


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("vfcn"))


@pytest.fixture(scope="module")
def codec(tmp_path_factory, weights):
    return tiny_codec(tmp_path_factory.mktemp("hvcn"), machine=MachineCodec(weights))


@pytest.fixture(scope="module")
def data(codec):
    return codec.encode(picture(), pyramid(), "0.5", "0.5")


def features_of(size, input_size, seed=1) -> FeaturePyramid:
    return replace(pyramid(input_size, seed=seed), source_size=size)


@pytest.mark.parametrize(
    "size, input_size",
    [((16, 16), (32, 32)), ((122, 180), (61, 90)), ((65, 33), (100, 51)), ((97, 201), (97, 201))],
)
def test_round_trip(codec, size, input_size):
    features = features_of(size, input_size)
    data = codec.encode(picture(size), features, "1", "1")
    decoded, painted = codec.decode(data)
    assert painted.shape == (*size, 3) and painted.dtype == np.uint8
    decoded.require_finite()
    assert codec.encode(picture(size), features, "1", "1") == data


def test_the_machine_layer_is_the_same_with_and_without_a_human_layer(codec, data):
    alone = codec.machine.encode(pyramid(), "0.5")
    assert data.startswith(alone) and bitstream.read(data).machine_bytes == len(alone)
    both, cut = codec.machine.decode(data), codec.machine.decode(alone)
    of_human_codec, _ = codec.decode(data)
    for name, layer in cut.layers.items():
        assert torch.equal(layer, both.layers[name])
        assert torch.equal(layer, of_human_codec.layers[name])


def test_bits_fall_as_q_rises(codec):
    sizes = [len(codec.encode(picture(), pyramid(), "1", q)) for q in ("0.25", "1", "4")]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2]


# --- the same latents everywhere ------------------------------------------------------------


def test_floats_do_not_reach_the_latents(codec, weights, data, tmp_path):
    """Other weights and another precision wherever floats rule: the latents stay."""
    expected = codec.decode_latents(data).latents
    other = tiny_codec(tmp_path, machine=MachineCodec(weights, dtype=torch.bfloat16))
    with torch.no_grad():
        hvcn = other.pipeline.hvcn
        for part in (hvcn.fcn, hvcn.control, hvcn.acn.g_s, hvcn.acn.up, other.pipeline.unet):
            for parameter in part.parameters():
                parameter.normal_()
    found = other.decode_latents(data).latents
    assert np.array_equal(found.y, expected.y) and np.array_equal(found.z, expected.z)
    assert other.decode(data)[1].shape == (122, 180, 3)


def test_latents_do_not_depend_on_threads_and_kernels(codec, data):
    expected = codec.decode_latents(data).latents
    for _ in threads_and_kernels():
        found = codec.decode_latents(data).latents
        assert np.array_equal(found.y, expected.y) and np.array_equal(found.z, expected.z)


def convolved(network, x: np.ndarray) -> np.ndarray:
    """An IntegerConv in int64: x (C, h, w)."""
    columns = torch.nn.functional.unfold(
        torch.from_numpy(x)[None].double(), network.size, padding=network.size // 2
    )
    total = network.taps.flatten(1).long() @ columns[0].long() + network.bias.long()[:, None]
    return ((total + (1 << 13)) >> 14).clamp(-(1 << 20), 1 << 20).numpy().reshape(-1, *x.shape[1:])


@pytest.mark.parametrize(
    "size, input_size", [((122, 180), (61, 90)), ((65, 33), (100, 51)), ((97, 201), (97, 201))]
)
@pytest.mark.parametrize("s", ["0.3", "5"])
def test_f_int_is_that_of_64_bit_integers(codec, size, input_size, s):
    """Against a second implementation that holds nothing but int64."""
    _, machine = codec.machine.code(features_of(size, input_size), s)
    geometry, octaves = geometry_of(machine), codec.machine.octaves(machine.payload.value_range)
    factor, shift = 256 + octaves % 256, octaves // 256 - 8
    y = machine.latents.y * 16 * factor
    y = y << shift if shift >= 0 else (y + (1 << (-shift - 1))) >> -shift
    y = y.clip(-(1 << 20), 1 << 20)
    condition = codec.coder.condition
    plane = np.full((1, *y.shape[1:]), octaves)
    x = convolved(condition.reduce, np.concatenate((y, plane))).clip(min=0)
    rows, columns = (
        resampling_taps(2 * n, source, net, 16)
        for n, source, net in zip(geometry.grid16, geometry.source_size, geometry.input_size)
    )
    x = np.einsum("ij,cjk,lk->cil", rows, x[:, : rows.shape[1], : columns.shape[1]], columns)
    x = (x + (1 << 15)) >> 16
    c, h, w = x.shape
    x = x.reshape(c, h // 2, 2, w // 2, 2).transpose(0, 2, 4, 1, 3).reshape(4 * c, h // 2, w // 2)
    for network in (condition.join, condition.body, condition.head):
        x = convolved(network, x).clip(min=0)
    conditioning = codec.coder.conditioning(machine.latents, octaves, 0.5, geometry)[0].numpy()
    assert np.array_equal(conditioning[:-1], x) and (conditioning[-1] == -256).all()


def test_the_float_twin_says_nearly_the_same(codec, data):
    """Training sees the condition in floats."""
    machine = codec.decode_latents(data).machine
    geometry, octaves = geometry_of(machine), codec.machine.octaves(machine.payload.value_range)
    y = torch.from_numpy(machine.latents.y)[None].float() / LATENT_STEPS
    conditioning = torch.tensor(octaves / 256).view(1, 1, 1, 1)
    acn = codec.pipeline.hvcn.acn
    with torch.no_grad():
        floats = acn.conditioning(
            scaled_back(y, conditioning), conditioning, torch.full((1, 1, 1, 1), -1.0), geometry
        )
    integers = codec.coder.conditioning(machine.latents, octaves, 0.5, geometry) / 256
    assert (floats - integers).abs().max() < 0.05
    assert floats[:, :-1].std() > 0.01


def test_without_conditioning_the_machine_layer_says_nothing(tmp_path, weights, data):
    codec = tiny_codec(tmp_path, replace(SIZES, conditioned=False), MachineCodec(weights))
    machine = codec.machine.decode_latents(data)
    conditioning = codec.coder.conditioning(machine.latents, 0, 0.5, geometry_of(machine))
    assert (conditioning[:, :-1] == 0).all()
    codec.decode(codec.encode(picture(), pyramid(), "1", "1"))


# --- the painted picture --------------------------------------------------------------------


def test_the_same_file_paints_the_same_picture(codec, data):
    _, first = codec.decode(data)
    torch.manual_seed(99)
    torch.randn(7)
    _, again = codec.decode(data)
    assert np.array_equal(first, again)


def test_the_unit_names_seed_and_steps(codec):
    painted = {}
    for sampling in (Sampling(), Sampling(seed=1), Sampling(steps=1), Sampling(start=500)):
        data = codec.encode(picture(), pyramid(), "1", "1", sampling)
        payload = HumanPayload.from_bytes(bitstream.read(data).units[1].payload)
        assert Sampling(payload.steps, payload.start, payload.seed) == sampling
        painted[sampling] = codec.decode(data)[1].tobytes()
    assert len(set(painted.values())) == len(painted)


# --- damaged files --------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused_but_after_the_machine_layer(codec, data):
    machine = bitstream.read(data).machine_bytes
    for size in (*range(0, len(data) - 1, 7), machine + 1, len(data) - 1):
        if size != machine:
            with pytest.raises(BitstreamError):
                codec.decode_latents(data[:size])
    with pytest.raises(BitstreamError, match="expected a human unit .* encode with --human"):
        codec.decode_latents(data[:machine])
    codec.machine.decode(data[:machine])


def with_payload(data: bytes, payload: bytes) -> bytes:
    """The file with another payload of its human unit, and right CRCs."""
    machine = data[: bitstream.read(data).machine_bytes]
    return machine + bitstream.write_unit(Unit("human", 0, payload))


def test_mutated_human_units_are_refused_or_decode_to_their_checksum(codec, data):
    rng = np.random.default_rng(6)
    whole = bitstream.read(data).units[1].payload
    other = codec.encode(picture(seed=8), pyramid(), "0.5", "2")
    files = []
    for number in range(MUTATIONS):
        if number % 4 == 0:
            changed = mutated(data, rng, [data, other])
        else:  # past the CRC and the weights id
            payload = mutated(whole[4:], rng, [whole[4:]])
            changed = with_payload(data, whole[:4] + payload)
        files.append(changed)
    refused, reached = refused_and_reached(files, codec.decode_latents, "auxiliary latents")
    assert refused > 0.6 * MUTATIONS
    assert reached > 0.15 * MUTATIONS  # the entropy decoder was really tried


@pytest.mark.parametrize(
    "change, message",
    [
        ({"step": 0.0}, "step above 0"),
        ({"step": 1024.0}, "step between"),
        ({"steps": 51}, "steps"),
        ({"start": 1000}, "start"),
        ({"start": 3}, "as many sampling steps"),
        ({"weights_id": 5}, "made with the weights 00000005"),
        ({"checksum": 5}, "the file says 00000005"),
    ],
)
def test_values_that_no_encoder_writes(codec, data, change, message, monkeypatch):
    payload = HumanPayload.from_bytes(bitstream.read(data).units[1].payload)
    monkeypatch.setattr(HumanPayload, "_check", lambda self: None)
    monkeypatch.setattr(bits, "_check", lambda *_: None)
    written = replace(payload, **change).to_bytes()
    monkeypatch.undo()
    with pytest.raises(BitstreamError, match=message):
        codec.decode(with_payload(data, written))


def test_a_picture_too_large_is_refused_before_anything_is_allocated(codec):
    large = codec.machine.encode(features_of((60000, 60000), (61, 90)), "1")
    payload = HumanPayload(codec.weights_id, 1.0, 0, 4, 300, 0, b"")
    data = large + bitstream.write_unit(Unit("human", 0, payload.to_bytes()))
    with pytest.raises(BitstreamError, match="found 60000 x 60000"):
        codec.decode(data)


# --- bad input ------------------------------------------------------------------------------


def test_a_file_of_another_profile(codec):
    header = bitstream.Header(
        "vvc_feature", "fpn", (90, 90), (32, 32), channels=(8,), value_range=(0.0, 1.0)
    )
    data = bitstream.write(header, [Unit("private", 0, b"")])
    with pytest.raises(BitstreamError, match="expected a human unit .* found only: private"):
        codec.decode(data)


def test_a_picture_that_is_not_that_of_the_features(codec):
    with pytest.raises(InputError, match="picture that the features were made of"):
        codec.encode(picture((120, 180)), pyramid(), "1", "1")


def test_a_picture_too_small(codec):
    with pytest.raises(InputError, match="at least 16 pixels a side"):
        codec.encode(picture((15, 90)), features_of((15, 90), (61, 90)), "1", "1")


def test_a_machine_layer_that_it_was_not_trained_on(codec, tmp_path):
    folder = tiny_folder(tmp_path / "hvcn", codec.machine)
    with pytest.raises(InputError, match="trained on the machine layer"):
        HumanCodec(MachineCodec(tiny_weights(tmp_path, seed=9)), folder)


def test_a_folder_without_its_prior(codec, tmp_path):
    folder = tiny_folder(tmp_path / "hvcn", codec.machine)
    (folder / "unet").rename(tmp_path / "unet")
    with pytest.raises(InputError, match="name the folder or hub id of the prior"):
        HumanCodec(codec.machine, folder)
    for name in ("vae", "scheduler"):
        (folder / name).rename(tmp_path / name)
    HumanCodec(codec.machine, folder, prior=str(tmp_path))


def test_sampling_that_no_file_can_say():
    for wrong in ({"steps": 0}, {"steps": 51}, {"start": 1000}, {"steps": 9, "start": 8}):
        with pytest.raises(InputError, match="sampling steps"):
            Sampling(**wrong)
    with pytest.raises(InputError, match="seed"):
        Sampling(seed=-1)


# --- files of the past ----------------------------------------------------------------------


@pytest.mark.parametrize("name, checksum", [("q0.25", 0x18B4E4E2), ("q2", 0xC57CD6D2)])
def test_golden_files_decode_to_their_checksum_for_ever(name, checksum):
    hvcn = load_hvcn(GOLDEN / "tiny_hvcn")
    assert golden_latents(hvcn, f"tiny_human_{name}").checksum() == checksum
