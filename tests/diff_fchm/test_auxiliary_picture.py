# SPDX-License-Identifier: BSD-3-Clause
"""The auxiliary picture: round trips, plain VVC at strength 0, damaged files, bad input."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hvcn_tiny import picture, tiny_codec
from restorer_tiny import SIZES, tiny_picture_codec, tiny_restorer, tiny_restorer_weights
from test_machine_codec import mutated
from vfcn_tiny import pyramid, tiny_weights

from anchors.vvc_remote import VvcRemoteCodec
from vcm_plugin import bitstream
from vcm_plugin.bitstream import AuxiliaryPicturePayload, Unit
from vcm_plugin.ctc import coding
from vcm_plugin.diff_fchm.human.auxiliary import (
    AuxiliaryPictureCodec,
    auxiliary_picture,
    decode_planes,
)
from vcm_plugin.diff_fchm.human.restorer import Restorer, RestorerConfig, kmac_per_pixel
from vcm_plugin.diff_fchm.human.strength import (
    Strength,
    choose_strength,
    read_strength,
    restore,
)
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.vvc import VVenC

MUTATIONS = int(os.environ.get("VCM_MUTATIONS", "300"))  # more: scripts/campaign_files.py
DECODED_MUTATIONS = int(os.environ.get("VCM_MUTATIONS", "40"))  # a decoder's process for each
MOST_BYTES_BESIDE_VVC = 14


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return MachineCodec(tiny_weights(tmp_path_factory.mktemp("vfcn")))


@pytest.fixture(scope="module")
def codec(tmp_path_factory, machine):
    return tiny_picture_codec(tmp_path_factory.mktemp("restorer"), machine)


@pytest.fixture(scope="module")
def data(codec):
    return codec.encode(picture(), pyramid(), "0.5", "37")


def features_of(size, input_size):
    return replace(pyramid(input_size, seed=1), source_size=size)


def with_payload(file: bytes, **changes) -> bytes:
    """The file with another auxiliary picture, all checksums right."""
    stream = bitstream.read(file)
    payload = replace(AuxiliaryPicturePayload.from_bytes(stream.units[1].payload), **changes)
    unit = bitstream.write_unit(Unit("auxiliary_picture", 0, payload.to_bytes()))
    return file[: stream.machine_bytes] + unit


@pytest.mark.parametrize(
    "size, input_size, rate_point",
    [
        ((16, 16), (32, 32), "40"),
        ((122, 180), (61, 90), "32@75"),
        ((65, 33), (100, 51), "37@25"),
        ((97, 201), (97, 201), "auto:44"),
    ],
)
def test_round_trip(codec, size, input_size, rate_point):
    features = features_of(size, input_size)
    data = codec.encode(picture(size), features, "1", rate_point)
    decoded, restored = codec.decode(data)
    assert restored.shape == (*size, 3) and restored.dtype == np.uint8
    decoded.require_finite()
    assert codec.encode(picture(size), features, "1", rate_point) == data


def test_the_machine_layer_is_the_same_with_and_without_a_picture(codec, data):
    alone = codec.machine.encode(pyramid(), "0.5")
    assert data.startswith(alone) and codec.machine_bits(data) == 8 * len(alone)
    both, cut = codec.machine.decode(data), codec.machine.decode(alone)
    for name, layer in cut.layers.items():
        assert torch.equal(layer, both.layers[name])


@pytest.mark.parametrize("rate_point", ["22", "37", "32@50"])
def test_few_bytes_stand_beside_the_vvc_stream(codec, rate_point):
    data = codec.encode(picture(), pyramid(), "0.5", rate_point)
    payload = auxiliary_picture(data)
    beside = len(data) - codec.machine_bits(data) // 8 - len(payload.data)
    mapped = 0 if payload.block_map is None else 1 + len(payload.block_map)
    assert beside - mapped <= MOST_BYTES_BESIDE_VVC
    alone = VvcRemoteCodec().encode(picture(), rate_point)
    assert alone.endswith(payload.data), "the stream is the one that simulcast sends"


@pytest.mark.parametrize("rate_point", ["37", "32@75"])
def test_strength_0_is_plain_vvc_sample_for_sample(codec, machine, tmp_path, rate_point):
    plain = with_payload(
        codec.encode(picture(), pyramid(), "0.5", rate_point), strength=0, block_map=None
    )
    expected = VvcRemoteCodec().decode(VvcRemoteCodec().encode(picture(), rate_point))
    assert np.array_equal(codec.decode(plain)[1], expected)
    other = AuxiliaryPictureCodec(machine, tiny_restorer_weights(tmp_path, machine, seed=5))
    assert np.array_equal(other.decode(plain)[1], expected), "no restorer is needed"


def test_the_encoder_never_makes_a_picture_worse(codec, data):
    """Whatever a restorer does, here one with random weights."""
    source = picture().astype(float)
    plain = VvcRemoteCodec().decode(auxiliary_picture(data).data).astype(float)
    _, restored = codec.decode(data)
    assert np.square(restored - source).mean() <= np.square(plain - source).mean() + 1e-9


def test_the_samples_of_the_picture_do_not_depend_on_threads(data):
    payload = auxiliary_picture(data)
    one, two = (decode_planes(payload, (122, 180), VVenC(threads=n)) for n in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two))


# --- the network ----------------------------------------------------------------------------


def test_a_new_restorer_leaves_the_picture_as_it_is():
    model = Restorer(SIZES)
    planes, known = torch.rand(2, 6, 16, 24) * 1023, torch.tensor([[32.0, 100, 1.4]] * 2)
    layers = {"p2": torch.randn(2, 8, 8, 12), "p3": torch.randn(2, 8, 4, 6)}
    assert not model(planes, layers, known).any()


def test_a_restorer_begins_as_its_twin_without_features():
    model, twin = Restorer(SIZES), Restorer(replace(SIZES, features=False))
    model.last.weight.data.normal_()
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if k in twin.state_dict()})
    planes, known = torch.rand(1, 6, 16, 24) * 1023, torch.tensor([[32.0, 50, 4.0]])
    layers = {"p2": torch.randn(1, 8, 8, 12), "p3": torch.randn(1, 8, 4, 6)}
    assert torch.equal(model(planes, layers, known), twin(planes, None, known))
    model.fusion.zero.weight.data.normal_()
    assert not torch.equal(model(planes, layers, known), twin(planes, None, known))


def test_the_restorer_stays_within_its_arithmetic():
    assert kmac_per_pixel(RestorerConfig()) <= 60


def test_kmac_per_pixel_is_what_the_convolutions_multiply():
    model, counted = tiny_restorer(), []

    def count(conv, _, output):
        counted.append(conv.weight.numel() * output.shape[-2] * output.shape[-1])

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    layers = {"p2": torch.randn(1, 8, 8, 8), "p3": torch.randn(1, 8, 4, 4)}
    model(torch.rand(1, 6, 16, 16), layers, torch.tensor([[32.0, 100, 1.0]]))
    assert sum(counted) / 32**2 / 1000 == pytest.approx(kmac_per_pixel(SIZES))


# --- strength -------------------------------------------------------------------------------


def test_strength_is_the_best_multiple_of_the_residual():
    rng = np.random.default_rng(1)
    decoded, residual = rng.uniform(60, 190, (2, 100, 150, 3))
    residual = (residual - 125) / 10
    for value in range(16):
        source = np.rint(decoded + value / 12 * residual).astype(np.uint8)
        assert choose_strength(source, decoded, residual, 1e9) == Strength(value)


def test_a_map_where_only_some_blocks_gain():
    rng = np.random.default_rng(2)
    decoded = rng.uniform(60, 190, (100, 150, 3))
    residual = rng.normal(0, 8, decoded.shape)
    source = decoded.copy()
    source[:64, 64:128] += residual[:64, 64:128]
    source[64:] -= residual[64:]
    source = np.rint(source).clip(0, 255).astype(np.uint8)
    strength = choose_strength(source, decoded, residual, 1.0)
    assert strength.value == 12
    assert strength.blocks.tolist() == [[False, True, False], [False, False, False]]
    again = read_strength(12, strength.map_bytes(), (100, 150))
    assert np.array_equal(again.blocks, strength.blocks)
    restored = restore(decoded, residual, again)
    assert np.abs(restored[:64, 64:128].astype(int) - source[:64, 64:128]).max() <= 1
    assert np.array_equal(restored[64:], np.rint(decoded[64:]).astype(np.uint8))
    assert choose_strength(source, decoded, residual, 1e9).blocks is None, "bits are too dear"


# --- damaged files and bad input ------------------------------------------------------------


def test_mutated_files_are_refused(codec, data):
    """The CRC holds every byte of the unit."""
    rng = np.random.default_rng(7)
    start = codec.machine_bits(data) // 8
    for _ in range(MUTATIONS):
        changed = data[:start] + mutated(data[start:], rng, [data])
        if changed == data or changed == data[:start]:
            continue
        with pytest.raises(BitstreamError):
            codec.decode(changed)


def test_mutated_units_with_a_right_crc_are_refused_or_give_a_picture(codec, data):
    rng = np.random.default_rng(8)
    stream = bitstream.read(data)
    given = 0
    for _ in range(DECODED_MUTATIONS):
        payload = mutated(stream.units[1].payload, rng, [stream.units[1].payload])
        unit = bitstream.write_unit(Unit("auxiliary_picture", 0, payload))
        try:
            _, restored = codec.decode(data[: stream.machine_bytes] + unit)
        except BitstreamError:
            continue
        assert restored.shape == picture().shape
        given += 1
    assert 0 < given < DECODED_MUTATIONS


def bad_files(data: bytes):
    payload = auxiliary_picture(data)
    luma_only = VVenC().encode((np.full((122, 180), 500, np.uint16),), 40)
    cut = payload.data[: len(payload.data) // 2]
    return {
        "another size": (with_payload(data, percent=75), "75 percent of"),
        "4:0:0": (with_payload(data, data=luma_only), "in 4:2:0"),
        "cut stream": (with_payload(data, data=cut), "truncated|corrupt"),
        "no stream": (with_payload(data, data=b"abc"), "start code"),
        "another restorer": (
            with_payload(data, weights_id=payload.weights_id ^ 1, strength=12),
            "decode it with the weights that it names",
        ),
        "a map too long": (with_payload(data, block_map=b"\0\0\0"), "map of 2 x 3 blocks"),
        "a map with more blocks": (with_payload(data, block_map=b"\x01"), "map of 2 x 3 blocks"),
    }


@pytest.mark.parametrize(
    "name",
    ["another size", "4:0:0", "cut stream", "no stream", "another restorer", "a map too long",
     "a map with more blocks"],
)  # fmt: skip
def test_bad_files_are_refused_and_the_machine_decodes_them(codec, data, name):
    changed, message = bad_files(data)[name]
    with pytest.raises(BitstreamError, match=message):
        codec.decode(changed)
    codec.machine.decode(changed)


@pytest.mark.parametrize(
    "change", [{"strength": 16}, {"qp": 64}, {"percent": 60}, {"weights_id": 1 << 16}]
)
def test_values_out_of_range_are_not_written(data, change):
    with pytest.raises(BitstreamError, match="expected"):
        with_payload(data, **change)


def test_both_kinds_in_one_frame_are_refused(codec, data, machine, tmp_path):
    latent = tiny_codec(tmp_path, machine=machine).encode(picture(), pyramid(), "0.5", "1")
    start = codec.machine_bits(data) // 8
    with pytest.raises(BitstreamError, match="auxiliary_picture or learned_picture unit at most"):
        codec.decode(latent + data[start:])
    with pytest.raises(BitstreamError, match="expected an auxiliary_picture unit"):
        codec.decode(latent)
    with pytest.raises(BitstreamError, match="expected an auxiliary_picture unit"):
        codec.decode(data[:start])


@pytest.mark.parametrize(
    "rate_point, message",
    [("64", "QP from 0 to 63"), ("32@60", "percent"), ("auto:x", "after auto:"), ("1.5", "QP")],
)
def test_bad_rate_points(codec, rate_point, message):
    with pytest.raises(InputError, match=message):
        codec.encode(picture(), pyramid(), "0.5", rate_point)


def test_a_sequence_is_refused_by_name(codec):
    with pytest.raises(InputError, match="diff_fchm_picture codes pictures only, no sequences"):
        coding.require_sequences(codec)


def test_bad_pictures(codec):
    with pytest.raises(InputError, match="at least 16 pixels a side"):
        codec.encode(picture((15, 40)), features_of((15, 40), (32, 64)), "1", "40")
    with pytest.raises(InputError, match="expected the picture that the features were made of"):
        codec.encode(picture((122, 178)), pyramid(), "1", "40")


def test_weights_of_another_machine_layer(machine, tmp_path):
    other = MachineCodec(tiny_weights(tmp_path, seed=3))
    weights = tiny_restorer_weights(tmp_path, other)
    with pytest.raises(InputError, match="trained on the machine layer"):
        AuxiliaryPictureCodec(machine, weights)


@pytest.mark.parametrize("damage", ["cut", "foreign", "sizes"])
def test_damaged_weights(machine, tmp_path, damage):
    path = tiny_restorer_weights(tmp_path, machine)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "foreign":
        path = tiny_weights(tmp_path)
    else:
        path.write_bytes(path.read_bytes().replace(b'width2\\": 8', b'width2\\": 9'))
    with pytest.raises(InputError, match="expected RESTORER weights|weights file is damaged"):
        AuxiliaryPictureCodec(machine, path)
