# SPDX-License-Identifier: BSD-3-Clause
"""latent_scalable and multi_head: layers, cut files, exact latents, foreign and damaged files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from changed import changed
from heads_tiny import ALL, BASE, golden_codecs, tiny_codecs, tiny_transform
from mutations import mutated_bytes, sealed
from picture_tiny import picture, tiny_codec, tiny_weights
from vfcn_tiny import CONFIG as MACHINE
from vfcn_tiny import tiny_weights as machine_weights

from anchors.feature_head import FeatureHead
from anchors.picture_config import TransformConfig, octaves_of, step_of
from anchors.picture_heads import LatentScalableCodec, MultiHeadCodec
from anchors.picture_networks import LEVELS
from vcm_plugin import bitstream
from vcm_plugin.bitstream import EnhancementPayload, LatentsPayload, Unit
from vcm_plugin.ctc import coding
from vcm_plugin.ctc.codecs import codec_of, describe_bitstream, load_condition, make_codec
from vcm_plugin.ctc.coding import Source
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import BitstreamError, InputError

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ("latent_scalable", "multi_head")


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    return tiny_codecs(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def files(codecs):
    return {name: codec.encode(picture(), "32") for name, codec in codecs.items()}


# --- what a file holds ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (16, 48), (61, 90), (130, 17)])
def test_round_trip(codecs, name, size):
    codec, source = codecs[name], picture(size)
    data = codec.encode(source, "27")
    decoded = coding.decode(codec, data)
    assert decoded.picture.shape == source.shape and decoded.picture.dtype == np.uint8
    assert decoded.features.source_size == decoded.features.input_size == size
    assert decoded.features.split_point == "fpn"
    assert coding.encode(codec, Source(source), "27") == data
    assert codec_of(data) == name


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_is_that_of_picture_learned(codecs, name):
    """One analysis, one entropy model, one synthesis: the same latents in other units."""
    codec, source = codecs[name], picture()
    alone = codec.picture.encode(source, "32")
    assert np.array_equal(codec.decode(codec.encode(source, "32"))[1], codec.picture.decode(alone))
    wanted, found = codec.picture.decode_latents(alone)[2], codec.decode_latents(
        codec.encode(source, "32")
    )[2]  # fmt: skip
    assert np.array_equal(wanted.y, found.y) and np.array_equal(wanted.z, found.z)


def test_a_file_that_ends_after_its_base_has_the_same_features_and_no_picture(codecs, files):
    codec, data = codecs["latent_scalable"], files["latent_scalable"]
    bits = codec.machine_bits(data)
    assert 0 < bits < 8 * len(data)
    base = data[: bits // 8]
    features, shown = codec.decode(data)
    cut, nothing = codec.decode(base)
    assert nothing is None and shown is not None
    assert all(torch.equal(x, cut.layers[name]) for name, x in features.layers.items())
    assert LatentScalableCodec(codec.head, both=False).encode(picture(), "32") == base
    for end in (bits // 8 - 1, bits // 8 + 1, len(data) - 1):
        with pytest.raises(BitstreamError):
            codec.decode(data[:end])


def test_all_bits_of_multi_head_are_the_machines(codecs, files):
    codec, data = codecs["multi_head"], files["multi_head"]
    assert codec.machine_bits(data) == 8 * len(data)
    assert [unit.type for unit in bitstream.read(data).units] == ["latents"]


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_the_networks(codecs, name):
    """By hand: transform of y_hat, unfolded synthesis of VFCN, statistics."""
    codec, source = codecs[name], picture((64, 96))
    data = codec.encode(source, "25")
    _, qp, latents = codec.decode_latents(data)
    y_hat = torch.from_numpy(latents.y)[None].float() / 16 * (step_of(qp) / LEVELS)
    transform, vfcn = codec.head.model, codec.head.machine.model
    with torch.no_grad():
        y = (y_hat[:, : transform.config.latents] - transform.y_mean.view(1, -1, 1, 1)) / (
            transform.y_std.view(1, -1, 1, 1)
        )
        octaves = torch.full((1, 1, 4, 6), octaves_of(qp) / 256)
        y_m = transform.body(torch.cat((y, octaves), 1)) + transform.linear(y)
        standard = vfcn.g_s(
            y_m * transform.std.view(1, -1, 1, 1) + transform.mean.view(1, -1, 1, 1)
        )
        wanted = {
            layer: standard[layer] * std + mean for layer, (mean, std) in vfcn.statistics().items()
        }
    found = codec.decode(data)[0].layers
    for layer in wanted:
        assert torch.allclose(found[layer], wanted[layer][0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_explains_itself(codecs, files, name):
    codec, data = codecs[name], files[name]
    text = "\n".join(describe_bitstream(data))
    assert f"profile {name}, split point fpn" in text
    assert f"weights id {codec.head.weights_id:08x}" in text and "QP 32" in text
    assert f"machine bits {codec.machine_bits(data)}, total bits {8 * len(data)}" in text
    units = bitstream.read(data).units
    inside = sum(len(LatentsPayload.from_bytes(u.payload).data) for u in units[:1])
    inside += sum(len(EnhancementPayload.from_bytes(u.payload).data) for u in units[1:])
    assert len(data) - inside <= 48


def test_bits_fall_as_the_qp_rises(codecs):
    for codec in codecs.values():
        data = [codec.encode(picture((128, 160)), qp) for qp in ("22", "31", "40")]
        machine = [codec.machine_bits(x) for x in data]
        assert machine == sorted(machine, reverse=True)


@pytest.mark.parametrize(
    "name, qp, checksum",
    [
        ("latent_scalable", 27, "37471860"),
        ("latent_scalable", 39, "bc18dc31"),
        ("multi_head", 33, "b428fe1d"),
    ],
)
def test_golden_files_decode_to_their_checksum_for_ever(name, qp, checksum):
    codec = golden_codecs(GOLDEN)[name]
    data = (GOLDEN / f"tiny_{name}_qp{qp}.fcm").read_bytes()
    header, found, latents = codec.decode_latents(data)
    assert header.source_size == (61, 90) and found == qp
    assert f"{latents.checksum():08x}" == checksum
    features, shown = codec.decode(data)
    assert shown.shape == (61, 90, 3) and features.input_size == (61, 90)


# --- foreign and damaged files --------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_mutated_files_are_refused_or_decode_to_the_latents_that_they_state(codecs, files, name):
    codec, rng = codecs[name], np.random.default_rng(1)
    others = [*files.values(), codec.encode(picture((30, 50), seed=3), "39")]
    outcomes = {True: 0, False: 0}
    for number in range(300):
        damage = sealed if number % 2 else mutated_bytes
        try:
            codec.decode_latents(damage(files[name], rng, others))
            outcomes[True] += 1
        except BitstreamError as error:
            assert "\n" not in str(error)
            outcomes[False] += 1
    assert outcomes[False] > 150


def test_units_of_two_files_are_no_file(codecs, files):
    codec = codecs["latent_scalable"]
    other = codec.encode(picture(seed=5), "32")
    first, second = (bitstream.read(x) for x in (files["latent_scalable"], other))
    mixed = bitstream.write(first.header, [first.units[0], second.units[1]])
    with pytest.raises(BitstreamError, match="latents of both units|entropy-coded data"):
        codec.decode(mixed)


def test_files_of_the_other_codec_and_of_other_weights(codecs, files, tmp_path):
    with pytest.raises(BitstreamError, match="expected a file of profile multi_head"):
        codecs["multi_head"].decode(files["latent_scalable"])
    with pytest.raises(BitstreamError, match="expected a file of profile picture_learned"):
        codecs["multi_head"].picture.decode(files["multi_head"])
    stream = bitstream.read(files["multi_head"])
    other = replace(stream.header, weights_id=1)
    with pytest.raises(BitstreamError, match="was made with the weights 00000001"):
        codecs["multi_head"].decode(bitstream.write(other, stream.units))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_header_and_a_payload_cannot_say(codecs, files, name):
    codec, stream = codecs[name], bitstream.read(files[name])
    payload = replace(LatentsPayload.from_bytes(stream.units[0].payload), qp=45)
    units = [Unit(stream.units[0].type, 0, payload.to_bytes()), *stream.units[1:]]
    with pytest.raises(BitstreamError, match="expected a QP from 22 to 40"):
        codec.decode(bitstream.write(stream.header, units))
    resized = replace(stream.header, input_size=(122, 180))
    with pytest.raises(BitstreamError, match="network input of the source's size"):
        codec.decode(bitstream.write(resized, stream.units))
    huge = replace(stream.header, source_size=(65535, 60000), input_size=(65535, 60000))
    with pytest.raises(BitstreamError, match="at most"):
        codec.decode(bitstream.write(huge, stream.units))


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_rate_points_that_are_none(codecs, name):
    with pytest.raises(InputError, match=r"expected a uint8 picture \(H, W, 3\)"):
        codecs[name].encode(picture()[:, :, 0], "32")
    for point in ("21", "41"):
        with pytest.raises(InputError, match="trained for the QPs 22 to 40"):
            codecs[name].encode(picture(), point)


def test_weights_that_do_not_belong_together(codecs, tmp_path):
    head = codecs["latent_scalable"].head
    with pytest.raises(InputError, match="name those in the key picture_learned_weights"):
        FeatureHead(head.path, tiny_codec(tmp_path, seed=4), head.machine)
    other = MachineCodec(machine_weights(tmp_path, replace(MACHINE, width8=12)))
    with pytest.raises(InputError, match="name those VFCN weights in the key diff_fchm_weights"):
        FeatureHead(head.path, head.picture, other)
    odd = tiny_transform(tmp_path / "odd.safetensors", head.picture, head.machine, BASE + 1)
    with pytest.raises(InputError, match="expected a transform of 4 or 12 or 24 channels"):
        FeatureHead(odd, head.picture, head.machine)
    with pytest.raises(InputError, match="use it with multi_head"):
        LatentScalableCodec(codecs["multi_head"].head)
    with pytest.raises(InputError, match=f"reads {BASE} of {ALL} channels: use it with latent_s"):
        MultiHeadCodec(head)


def test_weights_files_that_are_none(codecs, tmp_path):
    head = codecs["latent_scalable"].head
    with pytest.raises(InputError, match="cannot read the TRANSFORM weights"):
        FeatureHead(tmp_path / "missing", head.picture, head.machine)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(head.path.read_bytes()[:-5])
    with pytest.raises(InputError, match="expected TRANSFORM weights") as caught:
        FeatureHead(cut, head.picture, head.machine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"qps": (30, 20)}, {"latents": 0}, {"blocks": 0}])
def test_sizes_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="must be"):
        TransformConfig(**wrong)


def test_a_condition_makes_them(tiny_condition, tmp_path):
    shown = tiny_weights(tmp_path / "picture.safetensors")
    condition = changed(load_condition(tiny_condition), picture_learned_weights=str(shown))
    for name in NAMES:
        with pytest.raises(InputError, match=f"name them in the key {name}_weights"):
            make_codec(name, condition)
    pair = make_codec("picture_learned", condition), make_codec("diff_fchm", condition)
    detector = condition.detector_sha256()
    paths = {
        name: str(tiny_transform(tmp_path / name, *pair, latents, detector))
        for name, latents in zip(NAMES, (BASE, ALL))
    }
    named = changed(condition, **{f"{name}_weights": path for name, path in paths.items()})
    both, alone = (
        make_codec("latent_scalable", changed(named, latent_scalable_layers=layers))
        for layers in ("both", "machine")
    )
    assert both.both and not alone.both and both.identity() != alone.identity()
    assert make_codec("multi_head", named).identity()["synthesis"]
    with pytest.raises(InputError, match="expected machine or both, found 'base'"):
        make_codec("latent_scalable", changed(named, latent_scalable_layers="base"))
    shows = changed(named, latent_scalable_layers="machine", human_vision=True)
    with pytest.raises(InputError, match="expected both where pictures are measured"):
        make_codec("latent_scalable", shows)
    other = tiny_transform(tmp_path / "other", *pair, BASE)
    with pytest.raises(InputError, match="trained for a detector with the SHA-256 000000000000"):
        make_codec("latent_scalable", changed(named, latent_scalable_weights=str(other)))
