# SPDX-License-Identifier: BSD-3-Clause
"""The auxiliary picture of a learned codec: round trips, strength 0, damaged files, bad input."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from changed import changed
from hvcn_tiny import picture
from mutations import mutated_bytes
from picture_tiny import tiny_weights as tiny_picture_weights
from restorer_tiny import golden_learned_codec, tiny_learned_codec, tiny_restorer_weights
from vfcn_tiny import pyramid, tiny_weights

from vcm_plugin import bitstream
from vcm_plugin.bitstream import LearnedPicturePayload, Unit
from vcm_plugin.ctc import codecs
from vcm_plugin.ctc.codecs import load_condition, make_codec
from vcm_plugin.diff_fchm.human.restoration import Restoration
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.vvc.choice import Coding
from vcm_plugin.vvc.planes import to_planes

MUTATIONS = int(os.environ.get("VCM_MUTATIONS", "300"))  # more: scripts/campaign_files.py
MOST_BYTES_BESIDE_LATENTS = 19
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return MachineCodec(tiny_weights(tmp_path_factory.mktemp("vfcn")))


@pytest.fixture(scope="module")
def codec(tmp_path_factory, machine):
    return tiny_learned_codec(tmp_path_factory.mktemp("learned"), machine)


@pytest.fixture(scope="module")
def data(codec):
    return codec.encode(picture(), pyramid(), "0.5", "37")


def payload_of(data: bytes) -> LearnedPicturePayload:
    payload = bitstream.read(data).payload_of("learned_picture")
    return LearnedPicturePayload.from_bytes(payload)


def with_payload(file: bytes, **changes) -> bytes:
    """The file with another learned picture, all checksums right."""
    payload = replace(payload_of(file), **changes)
    unit = bitstream.write_unit(Unit("learned_picture", 0, payload.to_bytes()))
    return file[: bitstream.read(file).machine_bytes] + unit


@pytest.mark.parametrize(
    "size, input_size, rate_point",
    [((16, 16), (32, 32), "40"), ((122, 180), (61, 90), "22"), ((65, 33), (100, 51), "45")],
)
def test_round_trip(codec, size, input_size, rate_point):
    features = replace(pyramid(input_size, seed=1), source_size=size)
    data = codec.encode(picture(size), features, "1", rate_point)
    decoded, restored = codec.decode(data)
    assert restored.shape == (*size, 3) and restored.dtype == np.uint8
    decoded.require_finite()
    assert codec.encode(picture(size), features, "1", rate_point) == data


def test_the_machine_layer_is_that_of_diff_fchm(codec, data):
    alone = codec.machine.encode(pyramid(), "0.5")
    assert data.startswith(alone) and codec.machine_bits(data) == 8 * len(alone)
    both, cut = codec.decode(data)[0], codec.machine.decode(data[: len(alone)])
    assert all(torch.equal(layer, both.layers[name]) for name, layer in cut.layers.items())


@pytest.mark.parametrize("qp", ["22", "37"])
def test_few_bytes_stand_beside_the_latents_of_picture_learned(codec, qp):
    data = codec.encode(picture(), pyramid(), "0.5", qp)
    payload = payload_of(data)
    beside = len(data) - codec.machine_bits(data) // 8 - len(payload.data)
    mapped = 0 if payload.block_map is None else 1 + len(payload.block_map)
    assert beside - mapped <= MOST_BYTES_BESIDE_LATENTS
    alone = bitstream.read(codec.picture.encode(picture(), qp)).units[0].payload
    assert alone.endswith(payload.data), "the latents are those that simulcast_learned sends"


def test_strength_0_is_the_picture_of_picture_learned(codec, data, machine, tmp_path):
    plain = with_payload(data, strength=0, block_map=None)
    expected = codec.picture.decode(codec.picture.encode(picture(), "37"))
    assert np.array_equal(codec.decode(plain)[1], expected)
    other = tiny_learned_codec(tmp_path, machine, seed=5)
    assert other.restorer.sha256 != codec.restorer.sha256
    assert np.array_equal(other.decode(plain)[1], expected), "no restorer is needed"


def test_the_encoder_never_makes_a_picture_worse(codec):
    """Whatever a restorer does, here one with random weights."""
    for seed, qp in enumerate(("24", "37", "45")):
        source = picture(seed=seed)
        plain = codec.picture.decode(codec.picture.encode(source, qp))
        _, restored = codec.decode(codec.encode(source, pyramid(), "1", qp))
        errors = (np.square(x.astype(float) - source).mean() for x in (restored, plain))
        assert next(errors) <= next(errors) + 1e-9


def test_a_restored_picture_is_the_decoded_one_and_the_strength_of_its_residual(codec, data):
    features, strong = codec.decode(with_payload(data, strength=15, block_map=None))
    plain = codec.picture.decode(codec.picture.encode(picture(), "37"))
    planes = to_planes(plain, (122, 180), resized=False)
    residual = codec.restorer.residual(planes, Coding(32, 100), features, 0.5)
    expected = np.rint(plain + 15 / 12 * residual).clip(0, 255).astype(np.uint8)
    assert np.array_equal(strong, expected) and not np.array_equal(strong, plain)


def test_it_is_described_and_found_by_its_unit(codec, data, tiny_condition):
    text = "\n".join(bitstream.describe(data))
    assert f"QP 37 by the weights {codec.picture.sha256[:4]}, restored with strength" in text
    assert codecs.codec_of(data) == "diff_fchm"
    condition = load_condition(tiny_condition)
    assert codecs.human_codec_of(data, condition) == "diff_fchm_learned"


def test_damaged_files_are_refused(codec, data):
    """The CRC holds every byte of the unit."""
    rng = np.random.default_rng(7)
    start = codec.machine_bits(data) // 8
    for _ in range(MUTATIONS):
        damaged = data[:start] + mutated_bytes(data[start:], rng, [data])
        if damaged not in (data, data[:start]):
            with pytest.raises(BitstreamError):
                codec.decode_latents(damaged)


def test_damaged_units_with_a_right_crc_are_refused_by_the_latents(codec, data):
    rng = np.random.default_rng(8)
    sent = bitstream.read(data).payload_of("learned_picture")
    latents, refused = codec.decode_latents(data)[-1], 0
    for _ in range(MUTATIONS):
        unit = Unit("learned_picture", 0, mutated_bytes(sent, rng, [sent]))
        changed_file = data[: codec.machine_bits(data) // 8] + bitstream.write_unit(unit)
        try:
            found = codec.decode_latents(changed_file)[-1]
        except BitstreamError:
            refused += 1
        else:
            assert np.array_equal(found.y, latents.y)
    assert refused > MUTATIONS / 2


BAD_FILES = {
    "another picture codec": ({"picture_id": 1}, "made with the weights 0001, these are"),
    "another restorer": ({"weights_id": 1, "strength": 12}, "made with the restorer 0001"),
    "a QP without training": ({"qp": 60}, "expected a QP from 20 to 45"),
    "a map too long": ({"block_map": b"\0\0\0"}, "map of 2 x 3 blocks"),
    "other latents": ({"checksum": 1}, "have the checksum"),
    "no latents": ({"data": b""}, "entropy-coded data|have the checksum"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_and_the_machine_decodes_them(codec, data, name):
    changes, message = BAD_FILES[name]
    file = with_payload(data, **changes)
    with pytest.raises(BitstreamError, match=message) as caught:
        codec.decode(file)
    assert "\n" not in str(caught.value)
    codec.machine.decode(file)


def test_files_without_it_are_refused_by_name(codec, data):
    alone = data[: codec.machine_bits(data) // 8]
    with pytest.raises(BitstreamError, match="a learned_picture unit after the machine unit"):
        codec.decode(alone)
    with pytest.raises(BitstreamError, match="truncated"):
        codec.decode(data[:-3])
    with pytest.raises(BitstreamError, match="auxiliary_picture or learned_picture unit at most"):
        codec.decode(data + data[len(alone) :])


@pytest.mark.parametrize("rate_point, message", [("46", "the QPs 20 to 45"), ("32@50", "QP from")])
def test_bad_rate_points(codec, rate_point, message):
    with pytest.raises(InputError, match=message):
        codec.encode(picture(), pyramid(), "0.5", rate_point)


def test_bad_pictures_and_weights(codec, machine, tmp_path):
    with pytest.raises(InputError, match="expected the picture that the features were made of"):
        codec.encode(picture((122, 178)), pyramid(), "1", "40")
    other = MachineCodec(tiny_weights(tmp_path, seed=3))
    with pytest.raises(InputError, match="trained on the machine layer"):
        Restoration(machine, tiny_restorer_weights(tmp_path, other))


def test_a_condition_makes_it(tiny_condition, tmp_path):
    machine = MachineCodec(tiny_condition.parent / "tiny.safetensors")
    keys = {
        "diff_fchm_learned_weights": str(tiny_picture_weights(tmp_path / "picture.safetensors")),
        "diff_fchm_learned_restorer": str(tiny_restorer_weights(tmp_path, machine)),
        "diff_fchm_learned_points": ("1+22", "1+37"),
    }
    condition = changed(load_condition(tiny_condition), **keys)
    made = make_codec("diff_fchm_learned", condition)
    assert made.name == "diff_fchm_learned" and made.kind == "human"
    assert made.identity()["picture"]["weights_sha256"] == made.picture.sha256
    assert made.parameters > made.picture.parameters + machine.parameters
    assert codecs.codec_rate_points("diff_fchm_learned", condition) == ["1+22", "1+37"]
    for key in ("diff_fchm_learned_weights", "diff_fchm_learned_restorer"):
        with pytest.raises(InputError, match=f"name them in the key {key}"):
            make_codec("diff_fchm_learned", changed(condition, **{key: None}))
    swapped = changed(condition, diff_fchm_learned_weights=keys["diff_fchm_learned_restorer"])
    with pytest.raises(InputError, match="expected PICTURE weights"):
        make_codec("diff_fchm_learned", swapped)


def test_the_golden_file_decodes_to_its_latents():
    """Whatever changes, a file of this unit type decodes for ever."""
    codec = golden_learned_codec(GOLDEN)
    for qp in ("27", "39"):
        data = (GOLDEN / f"tiny_learned_qp{qp}.fcm").read_bytes()
        _, payload, _, latents = codec.decode_latents(data)
        assert payload.qp == int(qp) and latents.checksum() == payload.checksum
