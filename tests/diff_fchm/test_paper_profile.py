# SPDX-License-Identifier: BSD-3-Clause
"""The paper profile of the human layer: each of its parts is what the paper's figure shows, its
files decode alike everywhere, and nothing of it is taken for ours."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hvcn_tiny import (
    GOLDEN,
    PAPER,
    SIZES,
    golden_latents,
    picture,
    tiny_codec,
    tiny_prior,
    zero_convolutions,
)
from mutations import refused_and_reached, sealed
from test_human_codec import features_of, with_payload
from test_human_pipeline import MACHINE, attending_prior, machine_batch
from test_machine_codec import mutated
from vfcn_tiny import pyramid, tiny_weights

from vcm_plugin import bitstream
from vcm_plugin.bitstream import HumanPayload
from vcm_plugin.diff_fchm.human.codec import HumanCodec, Sampling, load_hvcn
from vcm_plugin.diff_fchm.human.config import CHOICES, HvcnConfig
from vcm_plugin.diff_fchm.human.fcn import HEADS, WINDOW, FineToCoarse, WindowAttention
from vcm_plugin.diff_fchm.human.geometry import Geometry
from vcm_plugin.diff_fchm.human.hvcn import Hvcn
from vcm_plugin.diff_fchm.human.pipeline import HVCNPipeline
from vcm_plugin.diff_fchm.human.sampler import LAST, sample, time_steps
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.entropy.estimate import estimate_factorised
from vcm_plugin.entropy.factorised import FactorisedCoder
from vcm_plugin.entropy.integer import integer_networks, integer_weights
from vcm_plugin.entropy.latent_coder import gaussian_tables
from vcm_plugin.entropy.networks import FactorisedNetworks
from vcm_plugin.errors import BitstreamError, InputError

MUTATIONS = int(os.environ.get("VCM_MUTATIONS", "300"))  # more: scripts/campaign_files.py
PUBLISHED = {name: paper for name, (_, paper) in CHOICES.items()}
VARIANTS = {"paper": PAPER} | {
    name: replace(SIZES, **{name: paper}) for name, paper in PUBLISHED.items()
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("vfcn"))


@pytest.fixture(scope="module")
def codecs(tmp_path_factory, weights):
    """A codec of every variant, and ours."""
    machine, folder = MachineCodec(weights), tmp_path_factory.mktemp("hvcn")
    sizes = VARIANTS | {"ours": SIZES}
    return {name: tiny_codec(folder / name, of, machine) for name, of in sizes.items()}


@pytest.fixture(scope="module")
def codec(codecs):
    return codecs["paper"]


@pytest.fixture(scope="module")
def data(codec):
    return codec.encode(picture(), pyramid(), "0.5", "0.5")


@pytest.fixture(scope="module")
def paper() -> Hvcn:
    """Random networks of the paper profile."""
    torch.manual_seed(1)
    prior = tiny_prior()
    return Hvcn.new(PAPER, MACHINE, prior.fit(), prior.unet).eval()


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size, input_size", [((122, 180), (61, 90)), ((65, 33), (100, 51))])
def test_every_variant_codes_and_decodes_its_latents(codecs, name, size, input_size):
    codec, features = codecs[name], features_of(size, input_size)
    data = codec.encode(picture(size), features, "1", "0.5")
    assert data.startswith(codec.machine.encode(features, "1"))
    layer = codec.decode_latents(data)
    assert layer.latents.checksum() == layer.payload.checksum and layer.latents.y.any()
    decoded, painted = codec.decode(data)
    decoded.require_finite()
    assert painted.shape == (*size, 3) and painted.std() > 0
    assert codec.encode(picture(size), features, "1", "0.5") == data


def test_bits_fall_as_q_rises(codec):
    sizes = [len(codec.encode(picture(), pyramid(), "1", q)) for q in ("0.25", "1", "4")]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2]


def test_floats_do_not_reach_the_latents(codec, weights, data, tmp_path):
    """Other weights and another precision wherever floats rule: the latents stay."""
    other = tiny_codec(tmp_path, PAPER, MachineCodec(weights, dtype=torch.bfloat16))
    with torch.no_grad():
        hvcn = other.pipeline.hvcn
        for part in (hvcn.fcn, hvcn.control, hvcn.acn.latent_decoder, hvcn.acn.up):
            for parameter in part.parameters():
                parameter.normal_()
    expected = codec.decode_latents(data).latents
    assert np.array_equal(other.decode_latents(data).latents.y, expected.y)
    assert expected.z.size == 0, "there is no hyperprior"


def test_the_auxiliary_bits_know_nothing_of_the_machine_layer(codecs):
    """The same bytes at every machine rate; ours are others."""
    for name, same in (("paper", True), ("auxiliary", True), ("ours", False)):
        coded = set()
        for s in ("0.5", "3"):
            data = codecs[name].encode(picture(), pyramid(), s, "0.5")
            coded.add(HumanPayload.from_bytes(bitstream.read(data).units[1].payload).data)
        assert (len(coded) == 1) == same, name


def test_mutated_human_units_are_refused_or_decode_to_their_checksum(codec, data):
    rng = np.random.default_rng(6)
    whole = bitstream.read(data).units[1].payload
    other = codec.encode(picture(seed=8), pyramid(), "0.5", "2")
    files = []
    for number in range(MUTATIONS):
        if number % 4 == 0:
            changed = sealed(data, rng, [data, other])
        elif number % 4 == 1:
            changed = mutated(data, rng, [data, other])
        else:  # past the CRC and the weights id
            changed = with_payload(data, whole[:4] + mutated(whole[4:], rng, [whole[4:]]))
        files.append(changed)
    refused, reached = refused_and_reached(files, codec.decode_latents, "auxiliary latents")
    assert refused > 0.5 * MUTATIONS
    assert reached > 0.1 * MUTATIONS  # the entropy decoder was really tried


@pytest.mark.parametrize("name, checksum", [("q0.25", 0x1B5A933A), ("q2", 0x0AB35642)])
def test_golden_files_decode_to_their_checksum_for_ever(name, checksum):
    hvcn = load_hvcn(GOLDEN / "tiny_hvcn_paper")
    assert hvcn.sizes.profile == "paper"
    assert golden_latents(hvcn, f"tiny_human_paper_{name}").checksum() == checksum


# --- what is of another variant -------------------------------------------------------------


def test_profiles_have_names():
    assert (SIZES.profile, PAPER.profile) == ("ours", "paper")
    names = {sizes.profile for sizes in VARIANTS.values()}
    assert len(names) == len(VARIANTS) and "ours with fusion fine_to_coarse" in names
    assert replace(PAPER, control="side_encoder").profile == "paper with control side_encoder"


def test_a_file_of_another_variant_is_refused(codecs, data):
    for name in codecs.keys() - {"paper"}:
        with pytest.raises(BitstreamError, match="made with the weights .*, these are"):
            codecs[name].decode(data)


def test_the_choices_are_part_of_the_weights_identity(codecs):
    assert len({codec.weights_id for codec in codecs.values()}) == len(codecs)
    hvcn = codecs["paper"].pipeline.hvcn
    changed = asdict(replace(hvcn.sizes, sampled_from="c"))
    other = Hvcn.from_config({**hvcn.config, "sizes": changed})
    other.load_state_dict(hvcn.state_dict())
    assert other.sha256() != hvcn.sha256(), "the same weights, sampled from c"


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_that_nobody_knows(name, codec, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: expected .* or .*, found 'sideways'"):
        HvcnConfig(**{name: "sideways"})
    config = saved(codec, tmp_path)
    config["sizes"][name] = "sideways"
    (tmp_path / "hvcn" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"weights of a human layer .*{name}: expected"):
        load_hvcn(tmp_path)


@pytest.mark.parametrize("name", ["fusion", "auxiliary", "control"])
def test_weights_that_are_not_what_their_description_says(name, codec, tmp_path):
    config = saved(codec, tmp_path)
    config["sizes"][name] = CHOICES[name][0]
    (tmp_path / "hvcn" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="expected the weights of a human layer"):
        load_hvcn(tmp_path)


def saved(codec: HumanCodec, folder: Path) -> dict:
    """The description of weights saved below the folder."""
    codec.pipeline.hvcn.save_pretrained(folder / "hvcn")
    return json.loads((folder / "hvcn" / "config.json").read_text())


def test_a_start_that_is_not_noise_alone(codec, data):
    with pytest.raises(InputError, match="expected a start at time step 999, found 150"):
        codec.encode(picture(), pyramid(), "1", "1", Sampling())
    with pytest.raises(InputError, match="expected a start at time step 999"):
        codec.repaint(data, picture(), Sampling())
    payload = HumanPayload.from_bytes(bitstream.read(data).units[1].payload)
    assert (payload.start, payload.steps) == (LAST, codec.sampling.steps)
    with pytest.raises(BitstreamError, match="expected a start at time step 999, found 500"):
        codec.decode(with_payload(data, replace(payload, start=500).to_bytes()))


# --- FCN ------------------------------------------------------------------------------------


def fused(hvcn: Hvcn, **changes: torch.Tensor) -> torch.Tensor:
    batch = machine_batch(Geometry((61, 93), (48, 80)))
    with torch.no_grad():
        return hvcn.fcn(batch.layers | changes, batch.ranges, batch.s, batch.geometry)


def test_the_papers_fcn_sees_p2_and_p3_alone_in_raw_units(paper):
    layers = machine_batch(Geometry((61, 93), (48, 80))).layers
    first = fused(paper)
    assert first.shape == (1, SIZES.width, 8, 12)
    for name, looked_at in (("p2", True), ("p3", True), ("p4", False), ("p5", False)):
        other = fused(paper, **{name: layers[name] + 1.0})
        assert torch.equal(first, other) != looked_at, name
    batch = machine_batch(Geometry((61, 93), (48, 80)))
    with torch.no_grad():
        other = paper.fcn(layers, batch.ranges * 3.0, batch.s * 2.0, batch.geometry)
    assert torch.equal(first, other)


def test_c_joins_last(paper):
    control, c = fused(paper), torch.randn(1, 4, 8, 12)
    with torch.no_grad():
        joined = paper.fcn.join(control, c)
        assert joined.shape == control.shape
        assert not torch.equal(joined, paper.fcn.join(control, c + 1.0))
        assert not torch.equal(joined, paper.fcn.join(control + 1.0, c))


@pytest.mark.parametrize("size", [(16, 16), (9, 21), (1, 3)])
def test_attention_is_that_of_each_window(size):
    """Against a second implementation, window by window and head by head."""
    torch.manual_seed(3)
    attention, x = WindowAttention(8).double(), torch.randn(2, 8, *size, dtype=torch.float64)
    padded = torch.nn.functional.pad(
        attention.qkv(attention.norm(x)), (0, -size[1] % WINDOW, 0, -size[0] % WINDOW), "replicate"
    )
    found = torch.zeros(2, 8, *padded.shape[-2:], dtype=torch.float64)
    for top in range(0, padded.shape[2], WINDOW):
        for left in range(0, padded.shape[3], WINDOW):
            place = (slice(top, top + WINDOW), slice(left, left + WINDOW))
            cells = padded[(..., *place)].flatten(2)  # (N, 24, 64)
            for head in range(HEADS):
                own = slice(2 * head, 2 * head + 2)
                q, k, v = (part[:, own] for part in cells.chunk(3, dim=1))
                share = torch.softmax(q.transpose(1, 2) @ k / 2**0.5, dim=2)
                found[(slice(None), own, *place)] = (v @ share.transpose(1, 2)).unflatten(
                    2, (WINDOW, WINDOW)
                )
    wanted = x + attention.out(found[..., : size[0], : size[1]])
    torch.testing.assert_close(attention(x), wanted)


# --- ACN ------------------------------------------------------------------------------------


def factorised(seed: int = 0, spread: float = 1.0) -> FactorisedNetworks:
    torch.manual_seed(seed)
    networks = FactorisedNetworks(6)
    for parameter in networks.parameters():
        parameter.data *= spread
    return networks


@pytest.mark.parametrize("octaves", [-700, 0, 512])
@pytest.mark.parametrize("largest", [2.0, 300.0, 1e6])
def test_factorised_latents_come_back(octaves, largest):
    networks = factorised(spread=3.0)
    integers = integer_networks(networks, integer_weights(networks))
    coder = FactorisedCoder(integers, gaussian_tables())
    y = largest * torch.randn(6, 5, 9)
    conditioning = torch.full((1, 1, 1, 1), float(octaves), dtype=torch.float64)
    data, latents = coder.encode(y, conditioning)
    again = coder.decode(data, (5, 9), conditioning)
    assert np.array_equal(again.y, latents.y) and again.checksum() == latents.checksum()
    if largest < 1000:  # the others are clipped
        coded = np.abs(latents.y / 16 - y.numpy()) <= 0.5 + 1e-6
        assert coded.all(axis=(1, 2)).any()
    for cut in range(len(data)):  # refused, or others, which the checksum of the unit refuses
        try:
            assert coder.decode(data[:cut], (5, 9), conditioning).checksum() != latents.checksum()
        except BitstreamError as error:
            assert "entropy-coded data" in str(error)


def test_a_channel_has_one_mean_and_one_table():
    networks = factorised()
    integers = integer_networks(networks, integer_weights(networks))
    coder = FactorisedCoder(integers, gaussian_tables())
    mean, level = coder._of(torch.full((1, 1, 1, 1), 256.0, dtype=torch.float64), (4, 7))
    assert (mean == mean[:, :1, :1]).all() and (level == level[:, :1, :1]).all()
    with torch.no_grad():
        floats, raw = networks.of_y(torch.ones(1, 1, 1, 1))
    assert np.abs(mean[:, 0, 0] / 16 - floats[0, :, 0, 0].numpy()).max() <= 1 / 32 + 0.01
    assert np.abs(level[:, 0, 0] - (16 + 8 * raw[0, :, 0, 0].numpy())).max() <= 0.5 + 0.1


def test_the_estimate_of_training_is_the_size_of_the_code():
    networks = factorised()
    integers = integer_networks(networks, integer_weights(networks))
    y = torch.randn(1, 6, 40, 50)
    with torch.no_grad():
        y_hat, bits = estimate_factorised(networks, False, y, torch.zeros(1, 1, 1, 1))
    conditioning = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    data, latents = FactorisedCoder(integers, gaussian_tables()).encode(y[0], conditioning)
    assert bits.item() == pytest.approx(8 * len(data), rel=0.03)
    assert np.abs(latents.y / 16 - y_hat[0].numpy()).max() < 1.1  # a tie may fall either way


# --- control and sampler --------------------------------------------------------------------


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("kind", [tiny_prior, attending_prior])
def test_control_begins_as_the_prior_and_adds_nothing(kind, joined):
    prior = kind()
    fusion = CHOICES["fusion"][joined]
    torch.manual_seed(1)
    hvcn = Hvcn.new(replace(PAPER, fusion=fusion), MACHINE, prior.fit(), prior.unet).eval()
    hvcn.empty_prompt.normal_()
    own, outer = hvcn.control.network.state_dict(), prior.unet.state_dict()
    shared = [name for name in own if name.startswith(("conv_in", "time_", "down_", "mid_"))]
    assert len(shared) > 20 and all(torch.equal(own[name], outer[name]) for name in shared)
    pipeline = HVCNPipeline(prior.vae, prior.unet, prior.scheduler, hvcn)
    z, c, control = (torch.randn(2, n, 9, 7) for n in (4, 4, SIZES.width))
    t, text = torch.tensor([3, 700]), hvcn.prompt(2)
    with torch.no_grad():
        alone = prior.unet(z, t, encoder_hidden_states=text).sample
        assert torch.equal(pipeline.denoise(z, t, c, control, text), alone)
        for conv in zero_convolutions(hvcn):  # each of them reaches the network
            conv.weight.normal_()
            before, alone = alone, pipeline.denoise(z, t, c, control, text)
            reached = not torch.equal(before, alone)
            assert reached or conv in hvcn.control.encoder  # on what is still zero


def test_control_sees_c_where_fcn_has_not_joined_it(codecs):
    z, c, control, t = (*(torch.randn(1, n, 8, 8) for n in (4, 4, SIZES.width)), torch.tensor([9]))
    for name, sees in (("paper", False), ("control", True)):
        network = codecs[name].pipeline.hvcn.control
        with torch.no_grad():
            first, other = (network(z, x, control, t) for x in (c, c + 1.0))
        key = "mid_block_additional_residual"
        assert torch.equal(first[key], other[key]) != sees, name


def test_the_sampler_starts_from_noise_alone(codec):
    scheduler = codec.pipeline.scheduler
    noise, seen = torch.randn(1, 4, 5, 6), []
    sample(lambda z, t: seen.append((z, t)) or z, scheduler, None, noise, time_steps(LAST, 3))
    assert torch.equal(seen[0][0], noise) and seen[0][1].tolist() == [LAST]
    c = torch.zeros(1, 4, 5, 6)
    painted = [
        codec.pipeline.paint(c, torch.zeros(1, SIZES.width, 5, 6), x, 2, LAST)
        for x in (noise, noise + 1.0)
    ]
    assert not torch.equal(*painted)


def test_the_papers_fcn_is_that_of_the_profile(paper):
    assert isinstance(paper.fcn, FineToCoarse)
    assert not hasattr(paper.acn, "condition") and not hasattr(paper.acn, "h_a")
