# SPDX-License-Identifier: BSD-3-Clause
"""The machine layer: round trips, the same latents everywhere, damaged files, bad input."""

import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import refused_and_reached
from precision import less_precise, threads_and_kernels
from vfcn_tiny import CONFIG, pyramid, tiny_model, tiny_weights

from vcm_plugin import bitstream
from vcm_plugin.bitstream import MAX_INPUT_PIXELS, MachinePayload
from vcm_plugin.diff_fchm.machine import folded, ivn
from vcm_plugin.diff_fchm.machine.codec import MachineCodec, export
from vcm_plugin.entropy.latent_coder import LATENT_STEPS
from vcm_plugin.environment import PACKAGE
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.features import FeaturePyramid

GOLDEN = Path(__file__).parents[1] / "golden"
TINY, BUNDLED = GOLDEN / "tiny.vfcn", PACKAGE / "weights" / "minictc_vfcn.safetensors"
MUTATIONS = int(os.environ.get("VCM_MUTATIONS", "300"))  # more: scripts/campaign_files.py


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("vfcn"))


@pytest.fixture(scope="module")
def codec(weights):
    return MachineCodec(weights)


@pytest.fixture(scope="module")
def files(codec):
    return {s: codec.encode(pyramid(), s) for s in ("0.25", "1", "4")}


def same_latents(a, b) -> bool:
    return np.array_equal(a.latents.y, b.latents.y) and np.array_equal(a.latents.z, b.latents.z)


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (61, 90), (100, 33), (200, 64)])
@pytest.mark.parametrize("s", ["0.25", "1", "4"])
def test_round_trip(codec, size, s):
    features = pyramid(size)
    data = codec.encode(features, s)
    decoded = codec.decode(data)
    assert (decoded.source_size, decoded.input_size) == (features.source_size, size)
    assert {k: v.shape for k, v in decoded.layers.items()} == {
        k: v.shape for k, v in features.layers.items()
    }
    decoded.require_finite()
    assert codec.encode(features, s) == data


def test_a_grid_that_does_not_follow_from_the_input_size(codec):
    features = pyramid((61, 90))
    odd = {k: v[:, : -(-69 // n), : -(-97 // n)] for (k, v), n in
           zip(pyramid((96, 128)).layers.items(), (4, 8, 16, 32))}  # fmt: skip
    odd["p3"] = odd["p3"][:, : -(-odd["p2"].shape[1] // 2), : -(-odd["p2"].shape[2] // 2)]
    odd["p4"] = odd["p4"][:, : -(-odd["p2"].shape[1] // 4), : -(-odd["p2"].shape[2] // 4)]
    odd["p5"] = odd["p5"][:, : -(-odd["p2"].shape[1] // 8), : -(-odd["p2"].shape[2] // 8)]
    given = FeaturePyramid(odd, features.source_size, features.input_size)
    decoded = codec.decode(codec.encode(given, "1"))
    assert {k: v.shape for k, v in decoded.layers.items()} == {k: v.shape for k, v in odd.items()}


def test_bits_fall_as_s_rises(files):
    sizes = [len(data) for data in files.values()]
    assert sizes == sorted(sizes, reverse=True)


def test_all_but_the_entropy_coded_data_take_at_most_48_bytes(codec):
    layers = pyramid((61, 90)).layers
    features = FeaturePyramid(layers, (65535, 65535), (61, 90))
    data = codec.encode(features, "0.25")
    payload = MachinePayload.from_bytes(bitstream.read(data).units[0].payload)
    assert len(data) - len(payload.data) <= 48


def test_the_estimate_of_training_is_the_size_of_the_file(codec):
    model, features = tiny_model(), pyramid((200, 300))
    for s in ("2", "4"):  # within the scales, so without escapes
        data = codec.encode(features, s)
        payload = MachinePayload.from_bytes(bitstream.read(data).units[0].payload)
        layers = {
            k: v[None] for k, v in ivn.normalise(features.layers, payload.value_range).items()
        }
        model.eval()  # rounds instead of adding noise
        _, bits = model(layers, torch.tensor([payload.value_range]))
        assert bits.item() == pytest.approx(8 * len(payload.data), rel=0.03)


def test_the_decoder_sees_what_training_showed_it(codec):
    model, features = tiny_model().eval(), pyramid()
    layer = codec.decode_latents(codec.encode(features, "0.5"))
    value_range = layer.payload.value_range
    layers = {k: v[None] for k, v in ivn.normalise(features.layers, value_range).items()}
    with torch.no_grad():
        shown, _ = model(layers, torch.tensor([value_range]))
    shown = ivn.invert(shown, value_range)
    decoded = codec.synthesise(layer)
    error = (shown["p2"][0] - decoded.layers["p2"]).square().mean()
    assert error < 0.02 * shown["p2"].square().mean()


# --- one analysis, and what stands folded in the weights ------------------------------------


@pytest.mark.parametrize("variant", ["robust", "plain", "gain"])
def test_a_sweep_makes_the_bytes_of_single_files(tmp_path, variant):
    codec = MachineCodec(tiny_weights(tmp_path, replace(CONFIG, variant=variant)))
    points, features = ["0.25", "0.7", "1", "4"], pyramid((200, 64))
    assert list(codec.encode_sweep(features, points)) == [codec.encode(features, s) for s in points]


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("variant", ["robust", "gain"])
@pytest.mark.parametrize("cells", [1, 4096])
def test_folded_networks_are_those_of_training(tmp_path, monkeypatch, fuse, variant, cells):
    """Whole, and in strips of a single row; an odd number of rows and columns."""
    monkeypatch.setattr(folded, "STRIP_CELLS", cells)
    codec = MachineCodec(tiny_weights(tmp_path, replace(CONFIG, fuse=fuse, variant=variant)))
    features = pyramid((97, 170))
    layer = codec.decode_latents(codec.encode(features, "0.7"))
    value_range = layer.payload.value_range
    normal = {k: v[None] for k, v in ivn.normalise(features.layers, value_range).items()}
    ranges = torch.tensor([value_range])
    with torch.no_grad():
        y = codec.model.analysis(normal, ranges)
        found = codec.analyse(features).y * codec.model.done(ranges)
        y_hat = torch.from_numpy(layer.latents.y)[None].float() / LATENT_STEPS
        wanted = ivn.invert(codec.model.synthesis(y_hat, ranges), value_range)
    assert torch.allclose(found, y, atol=2e-5 * y.abs().max())
    for name, decoded in codec.synthesise(layer).layers.items():
        assert decoded.is_contiguous()
        assert torch.allclose(decoded, wanted[name][0], atol=2e-5 * wanted[name].abs().max())


def test_another_entropy_network_leaves_what_latents_mean(tmp_path):
    def codec_of(name: str, change) -> MachineCodec:
        model = tiny_model()
        with torch.no_grad():
            change(model)
        return MachineCodec(export(model, "0" * 64, ["1"], {}, tmp_path / name))

    one = codec_of("one", lambda model: None)
    other = codec_of("other", lambda model: model.entropy.contexts[0][0].weight.mul_(0.5))
    third = codec_of("third", lambda model: model.g_s.p5.bias.add_(1))
    assert one.sha256 != other.sha256 and one.latents_sha256 == other.latents_sha256
    assert other.carries(one.latents_sha256) and one.carries(one.sha256)
    assert not third.carries(one.latents_sha256) and not other.carries(one.sha256)


# --- the same latents everywhere ------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_latents_do_not_depend_on_the_precision_of_the_synthesis(weights, files, codec, dtype):
    other = MachineCodec(weights, dtype=dtype)
    for data in files.values():
        assert same_latents(other.decode_latents(data), codec.decode_latents(data))
        other.decode(data)


def test_latents_do_not_depend_on_threads_and_kernels(files, codec):
    expected = [codec.decode_latents(data) for data in files.values()]
    for _ in threads_and_kernels():
        for data, layer in zip(files.values(), expected):
            assert same_latents(codec.decode_latents(data), layer)


def test_latents_do_not_depend_on_the_precision_of_float32_products(files, codec):
    with less_precise():
        for data in files.values():
            codec.decode_latents(data)  # compares with the checksum
            other = codec.encode(pyramid(), "1")
    codec.decode_latents(other)


def test_integer_networks_do_not_depend_on_batch_and_memory_format(codec):
    networks = codec.coder.networks
    generator = torch.Generator().manual_seed(3)
    psi = torch.randint(0, 1 << 20, (8, CONFIG.hyper_width, 6, 5), generator=generator).double()
    y = torch.randint(-(1 << 20), 1 << 20, (8, CONFIG.latents, 6, 5), generator=generator).double()
    for own in networks.slices:
        for colour in (0, 1):
            one = [networks.of_y(p[None], x[None], own, colour) for p, x in zip(psi, y)]
            channels_last = torch.channels_last
            for a, b in (
                (psi, y),
                (psi.contiguous(memory_format=channels_last), y.flip(1).flip(1)),
                (psi.contiguous(), y.contiguous(memory_format=channels_last)),
            ):
                whole = networks.of_y(a, b, own, colour)
                for k in (0, 1):
                    assert torch.equal(whole[k], torch.cat([x[k] for x in one]))


def test_integer_networks_are_exact_at_their_limits(codec):
    """float64 against Python-exact int64 arithmetic, at the largest activations."""
    network = codec.coder.networks.contexts[-1][0]
    x = torch.full((1, network.weight.shape[1] // 9, 4, 4), float(1 << 20), dtype=torch.float64)
    columns = torch.nn.functional.unfold(x, 3, padding=1).long()  # channels, then taps
    total = network.taps.flatten(1).long() @ columns + network.bias.long()[:, None]
    expected = ((total + (1 << 13)) >> 14).clamp(-(1 << 20), 1 << 20)
    assert torch.equal(network(x).flatten(2).long(), expected)
    assert network.largest_sum < 2**52


def test_networks_whose_sums_could_overflow_are_refused(tmp_path):
    model = tiny_model()
    model.entropy.contexts[0][0].weight.data *= 1e6
    with pytest.raises(InputError, match="would not be exact"):
        export(model, "0" * 64, ["1"], {}, tmp_path / "large.vfcn")


# --- damaged files --------------------------------------------------------------------------


def mutated(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    """A file with flipped bits, a cut, a splice or changed bytes."""
    out = bytearray(data)
    kind = rng.integers(4)
    if kind == 0:
        for _ in range(rng.integers(1, 4)):
            out[rng.integers(len(out))] ^= 1 << rng.integers(8)
    elif kind == 1:
        del out[rng.integers(len(out)) :]
    elif kind == 2:
        other = others[rng.integers(len(others))]
        at = rng.integers(min(len(out), len(other)))
        out[at:] = other[at:]
    else:
        start = rng.integers(len(out))
        out[start : start + 4] = rng.bytes(4)
    return bytes(out)


def with_right_crcs(data: bytes, header_size: int) -> bytes:
    """The same bytes with the CRCs of a header of this size and of one unit after it."""
    if len(data) < header_size + 8:
        return data
    header = data[: header_size - 4]
    unit = data[header_size:-4]
    length_at = 2  # unit type and frame take a byte each
    body = unit[length_at:]
    skip = next((i for i, byte in enumerate(body) if byte < 0x80), 0) + 1
    count, coded = len(body) - skip, b""
    while count >= 0x80:
        coded, count = coded + bytes([count & 0x7F | 0x80]), count >> 7
    unit = unit[:length_at] + coded + bytes([count]) + body[skip:]
    return b"".join(part + struct.pack(">I", zlib.crc32(part)) for part in (header, unit))


@pytest.mark.parametrize(("name", "count"), [("tiny", MUTATIONS), ("minictc", MUTATIONS // 10)])
def test_mutated_files_are_refused_or_decode_to_their_checksum(name, count):
    codec = MachineCodec(TINY if name == "tiny" else BUNDLED)
    rng = np.random.default_rng(5)
    pool = [path.read_bytes() for path in sorted(GOLDEN.glob(f"{name}_s[0-9]*.fcm"))]
    _, header_size = bitstream.read_header(pool[0])
    files = []
    for number in range(count):
        data = mutated(pool[number % len(pool)], rng, pool)
        if number % 2:
            data = with_right_crcs(data, header_size)
        files.append(data)
    refused, reached = refused_and_reached(files, codec.decode_latents, "decoded latents")
    assert refused > 0.8 * count
    assert reached > 0.15 * count  # the entropy decoder was really tried


def test_a_picture_too_large_is_refused_before_anything_is_allocated(codec):
    header = bitstream.Header("diff_fchm", "fpn", (9, 9), (4096, 4096), weights_id=codec.weights_id)
    payload = MachinePayload((-1.0, 1.0), 1.0, 0, b"")
    data = bitstream.write(header, [bitstream.Unit("machine", 0, payload.to_bytes())])
    with pytest.raises(BitstreamError, match=f"at most {MAX_INPUT_PIXELS} pixels"):
        codec.decode(data)


# --- bad input ------------------------------------------------------------------------------


def test_weights_that_did_not_make_the_file(codec, files, tmp_path):
    other = MachineCodec(tiny_weights(tmp_path, seed=9))
    with pytest.raises(BitstreamError, match=f"made with the weights {codec.weights_id:08x}"):
        other.decode(files["1"])


def test_another_split_point(codec):
    layer = pyramid().layers["p2"]
    with pytest.raises(InputError, match=r"p2, p3, p4, p5 \(split point fpn\), found r2"):
        codec.encode(FeaturePyramid({"r2": layer}, (122, 180), (61, 90)), "1")


def test_another_number_of_channels(codec):
    with pytest.raises(InputError, match="for 8 channels, found 4"):
        codec.encode(pyramid(channels=4), "1")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite(codec, value):
    features = pyramid()
    features.layers["p4"][0, 0, 0] = value
    with pytest.raises(InputError, match="p4: expected finite features, found NaN"):
        codec.encode(features, "1")


def test_constant_features(codec):
    layers = {name: torch.zeros_like(layer) for name, layer in pyramid().layers.items()}
    with pytest.raises(InputError, match="found 0 everywhere"):
        codec.encode(FeaturePyramid(layers, (122, 180), (61, 90)), "1")


def test_a_file_of_another_profile(codec):
    header = bitstream.Header(
        "vvc_feature", "fpn", (9, 9), (32, 32), channels=(8,), value_range=(0.0, 1.0)
    )
    data = bitstream.write(header, [bitstream.Unit("private", 0, b"")])
    with pytest.raises(BitstreamError, match="expected a file of profile diff_fchm"):
        codec.decode(data)


def test_weights_files_that_are_none(tmp_path, weights):
    with pytest.raises(InputError, match="cannot read the VFCN weights"):
        MachineCodec(tmp_path / "missing.vfcn")
    for number, data in enumerate((b"", b"FCM", weights.read_bytes()[:-9])):
        path = tmp_path / f"{number}.vfcn"
        path.write_bytes(data)
        with pytest.raises(InputError, match="expected VFCN weights"):
            MachineCodec(path)


def test_weights_with_a_nan(tmp_path):
    model = tiny_model()
    model.g_a.p2.weight.data[0, 0, 0, 0] = float("nan")
    path = export(model, "0" * 64, ["1"], {}, tmp_path / "nan.safetensors")
    with pytest.raises(InputError, match="nan.safetensors: the weights file is damaged: a weight"):
        MachineCodec(path)


def test_an_export_is_the_same_bytes_every_time(tmp_path):
    files = [export(tiny_model(), "0" * 64, ["1"], {}, tmp_path / str(n)) for n in range(8)]
    assert len({path.read_bytes() for path in files}) == 1


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("variant", ["robust", "plain", "gain"])
def test_every_variant_makes_a_round_trip(tmp_path, fuse, variant):
    config = replace(CONFIG, fuse=fuse, variant=variant)
    codec = MachineCodec(tiny_weights(tmp_path, config))
    codec.decode(codec.encode(pyramid(), "1")).require_finite()
    assert codec.identity()["variant"] == variant


# --- files of the past ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "name", "checksum"),
    [
        (TINY, "tiny_s0.25", 0x956B08F8),
        (TINY, "tiny_s1", 0x30268927),
        (TINY, "tiny_s4", 0x3873A88E),
        (BUNDLED, "minictc_s0.35", 0x6D011CDA),
        (BUNDLED, "minictc_s1.4", 0xB52DE5A9),
        (BUNDLED, "minictc_s5.6", 0x278CFE80),
    ],
)
def test_golden_files_decode_to_their_checksum_for_ever(weights, name, checksum):
    layer = MachineCodec(weights).decode_latents((GOLDEN / f"{name}.fcm").read_bytes())
    assert layer.latents.checksum() == checksum
    sizes = (layer.header.input_size, layer.header.source_size)
    assert sizes == (((61, 90), (122, 180)) if weights == TINY else ((256, 320), (256, 320)))
