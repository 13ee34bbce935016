# SPDX-License-Identifier: BSD-3-Clause
"""The learned picture codec: round trips, exact latents, foreign and damaged files, training."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from changed import changed
from mutations import mutated_bytes, sealed
from picture_tiny import CONFIG, picture, tensor, tiny_codec, tiny_model, tiny_weights
from restorer_tiny import tiny_restorer_weights

from anchors.picture_config import PictureConfig, octaves_of, step_of
from anchors.picture_learned import PictureLearnedCodec
from anchors.picture_networks import LEVELS, PictureNetworks, export, start_linear
from vcm_plugin import bitstream
from vcm_plugin.bitstream import MAX_INPUT_PIXELS, NO_SPLIT, Header, LatentsPayload, Unit
from vcm_plugin.ctc.codecs import (
    codec_of,
    codec_rate_points,
    describe_bitstream,
    integer_qp,
    load_condition,
    make_codec,
)
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.training.loop import read_average
from vcm_plugin.training.picture import feature_losses, train
from vcm_plugin.training.picture_samples import PictureStore, prepare
from vcm_plugin.training.schedules import PictureTraining

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEDULE = PictureTraining(iterations=4, batch_size=2, warmup=2, checkpoint_every=2, crop=64)


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    return tiny_codec(tmp_path_factory.mktemp("picture"))


@pytest.fixture(scope="module")
def data(codec):
    return codec.encode(picture(), "32")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


# --- the codec ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (61, 90), (130, 17)])
def test_round_trip(codec, size):
    source = picture(size)
    coded = codec.encode(source, "27")
    decoded = codec.decode(coded)
    assert decoded.shape == source.shape and decoded.dtype == np.uint8
    assert codec.encode(source, "27") == coded


def test_bits_fall_and_errors_grow_as_the_qp_rises(codec):
    source = picture((128, 160))
    coded = [codec.encode(source, qp) for qp in ("20", "32", "45")]
    sizes = [len(x) for x in coded]
    assert sizes == sorted(sizes, reverse=True)
    found = [psnr(source, codec.decode(x)) for x in coded]
    assert found == sorted(found, reverse=True)


def test_the_decoder_sees_what_the_networks_made(codec, monkeypatch):
    """The codec's picture is that of the float networks on rounded latents, without any coder."""
    monkeypatch.setattr("anchors.picture_learned.ERROR_WEIGHT", math.inf)
    source = picture((64, 96))
    x = tensor(source)[None]
    step = step_of(20) / LEVELS
    _, payload, latents = codec.decode_latents(codec.encode(source, "20"))
    with torch.no_grad():
        y = codec.model.g_a(x) / step
        assert (y[0] - torch.from_numpy(latents.y) / 16).abs().max() <= 0.5 + 1e-3
        octaves = torch.full((1, 1, 1, 1), (20 - 32) / 6)
        x_hat = codec.model.g_s(y * step, octaves)[0]
    wanted = ((x_hat + 1) * LEVELS).clamp(0, 255).permute(1, 2, 0).numpy()
    assert psnr(wanted, codec.decode(codec.encode(source, "20"))) > 35.0


def test_the_encoder_weighs_bits_against_errors(codec, monkeypatch):
    source = picture((128, 160))
    with torch.no_grad():
        y = codec.model.g_a(tensor(source)[None])[0] / (step_of(32) / LEVELS)
    weighed = codec.encode(source, "32")
    errors = (y - torch.from_numpy(codec.decode_latents(weighed)[2].y) / 16).abs()
    assert errors.max() <= 1.0 + 1e-3 and (errors > 0.5 + 1e-3).any()
    monkeypatch.setattr("anchors.picture_learned.ERROR_WEIGHT", math.inf)
    assert len(weighed) < len(codec.encode(source, "32"))


def test_octaves_and_steps_agree():
    for qp in range(64):
        assert octaves_of(qp) / 256 == pytest.approx(np.log2(step_of(qp) / step_of(32)), abs=2e-3)


def test_the_linear_start_is_the_best_block_transform():
    """Against numpy's eigenvectors: the same subspace, so the same error."""
    pictures = [picture((192, 256), seed=k) for k in range(2)]
    model = PictureNetworks(CONFIG)
    start_linear(model, [tensor(x) for x in pictures])
    with torch.no_grad():
        found = [model.g_s(model.g_a(tensor(x)[None]), torch.zeros(1, 1, 1, 1))[0]
                 for x in pictures]  # fmt: skip
    error = np.mean([(a - tensor(b)).square().mean().item() for a, b in zip(found, pictures)])
    planes = [tensor(x).numpy().reshape(3, 12, 16, 16, 16).transpose(1, 3, 0, 2, 4)
              for x in pictures]  # fmt: skip
    blocks = np.concatenate([x.reshape(-1, 768) for x in planes]).astype(np.float64)
    singular = np.linalg.svd(blocks - blocks.mean(0), compute_uv=False)
    best = np.square(singular[CONFIG.latents :]).sum() / blocks.size
    assert error == pytest.approx(best, rel=1e-3)


def test_the_file_explains_itself_and_costs_little_beside_latents(codec, data):
    text = "\n".join(describe_bitstream(data))
    assert codec_of(data) == "picture_learned"
    assert f"weights id {codec.weights_id:08x}" in text and "QP 32" in text
    assert "source 61 x 90 (height x width)" in text and "layer" not in text
    payload = LatentsPayload.from_bytes(bitstream.read(data).units[0].payload)
    assert len(data) - len(payload.data) <= 36


def test_settings(codec):
    assert codec.identity() == {"weights_sha256": codec.sha256, "loss_detector_sha256": None}
    assert integer_qp("picture_learned", "37") == 37
    for point in ("19", "46"):
        with pytest.raises(InputError, match="trained for the QPs 20 to 45"):
            codec.encode(picture(), point)
    with pytest.raises(InputError, match="QP from 0 to 63"):
        codec.encode(picture(), "0.5")


@pytest.mark.parametrize("qp, checksum", [(27, "6e0a5353"), (42, "771262bb")])
def test_golden_files_decode_to_their_checksum_for_ever(qp, checksum):
    codec = PictureLearnedCodec(GOLDEN / "tiny.picture")
    data = (GOLDEN / f"tiny_picture_qp{qp}.fcm").read_bytes()
    header, payload, latents = codec.decode_latents(data)
    assert f"{latents.checksum():08x}" == f"{payload.checksum:08x}" == checksum
    assert header.source_size == (61, 90) and payload.qp == qp
    assert psnr(picture(), codec.decode(data)) > {27: 21.0, 42: 18.0}[qp]


# --- foreign and damaged files --------------------------------------------------------------


def test_weights_that_did_not_make_the_file(codec, data, tmp_path):
    with pytest.raises(BitstreamError, match=f"made with the weights {codec.weights_id:08x}"):
        tiny_codec(tmp_path, seed=9).decode(data)


def test_damaged_files(codec, data):
    for size in (0, 3, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(BitstreamError):
            codec.decode(data[:size])
    header = bitstream.read(data).header
    for payload in (b"", b"\x20", b"\x20\0\0\0\0", b"\x40\0\0\0\0data"):
        with pytest.raises(BitstreamError):
            codec.decode(bitstream.write(header, [Unit("latents", 0, payload)]))


def test_mutated_files_are_refused_or_decode_to_the_latents_that_they_state(codec, data):
    rng = np.random.default_rng(1)
    others = [data, codec.encode(picture((30, 50), seed=3), "41")]
    outcomes = {True: 0, False: 0}
    for number in range(400):
        damage = sealed if number % 2 else mutated_bytes
        try:
            _, payload, latents = codec.decode_latents(damage(data, rng, others))
            assert latents.checksum() == payload.checksum
            outcomes[True] += 1
        except BitstreamError as error:
            assert "\n" not in str(error)
            outcomes[False] += 1
    assert outcomes[False] > 200


def test_files_that_fit_other_codecs_or_pictures(codec, data):
    stream = bitstream.read(data)
    with pytest.raises(BitstreamError, match="expected none; a profile of pictures"):
        replace(stream.header, split_point="fpn")
    with pytest.raises(BitstreamError, match="a profile of pictures has"):
        replace(stream.header, frames=2, frame_rate=(25, 1))
    with pytest.raises(BitstreamError, match="expected layers"):
        Header("diff_fchm", NO_SPLIT, (61, 90), (61, 90), weights_id=1)
    huge = replace(stream.header, source_size=(65535, 65535), input_size=(65535, 65535))
    with pytest.raises(BitstreamError, match=f"at most {MAX_INPUT_PIXELS} pixels"):
        codec.decode(bitstream.write(huge, stream.units))
    payload = replace(LatentsPayload.from_bytes(stream.units[0].payload), qp=63)
    with pytest.raises(BitstreamError, match="expected a QP from 20 to 45"):
        codec.decode(bitstream.write(stream.header, [Unit("latents", 0, payload.to_bytes())]))


# --- bad input ------------------------------------------------------------------------------


def test_what_is_no_picture(codec):
    for wrong in (picture()[:, :, 0], picture().astype(np.float32), picture()[:, :, :2]):
        with pytest.raises(InputError, match=r"expected a uint8 picture \(H, W, 3\)"):
            codec.encode(wrong, "32")


@pytest.mark.usefixtures("own_cache")
def test_a_run_refuses_a_qp_without_training_before_it_measures(tiny_condition, tmp_path):
    path = str(tiny_weights(tmp_path / "tiny.safetensors"))
    condition = changed(
        load_condition(tiny_condition), picture_learned_weights=path, picture_learned_qps=(37, 62),
        simulcast_learned_weights=path, simulcast_learned_points=("1+37", "1+62"),
        diff_fchm_learned_weights=path, diff_fchm_learned_points=("1+37", "1+62"),
        diff_fchm_learned_restorer=str(
            tiny_restorer_weights(tmp_path, make_codec("diff_fchm", load_condition(tiny_condition)))
        ),
    )  # fmt: skip
    for name in ("picture_learned", "simulcast_learned", "diff_fchm_learned"):
        with pytest.raises(InputError, match="^rate point 62: these weights were trained for"):
            run(condition, name, tmp_path / "run", RunOptions())
    assert not (tmp_path / "run").exists()


def test_weights_files_that_are_none(tmp_path, codec):
    with pytest.raises(InputError, match="cannot read the PICTURE weights"):
        PictureLearnedCodec(tmp_path / "missing.safetensors")
    sound = tiny_weights(tmp_path / "sound.safetensors").read_bytes()
    for number, content in enumerate((b"", b"FCM", sound[:-9])):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        with pytest.raises(InputError, match="expected PICTURE weights") as caught:
            PictureLearnedCodec(path)
        assert "\n" not in str(caught.value)


def test_weights_of_other_networks(tmp_path):
    model = tiny_model()
    model.config = replace(CONFIG, width8=12)
    with pytest.raises(InputError, match="the weights file is damaged") as caught:
        PictureLearnedCodec(export(model, None, {}, tmp_path / "odd.safetensors"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"qps": (30, 20)}, {"qps": (20, 64)}, {"slices": (0, 4)}])
def test_sizes_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="must be"):
        PictureConfig(**wrong)


def test_a_condition_names_the_weights(tiny_condition, tmp_path):
    condition = load_condition(tiny_condition)
    with pytest.raises(InputError, match="name them in the key picture_learned_weights"):
        make_codec("picture_learned", condition)
    plain = tiny_weights(tmp_path / "plain.safetensors")
    named = changed(condition, picture_learned_weights=str(plain), picture_learned_qps=(22, 37))
    assert make_codec("picture_learned", named).detector_sha256 is None
    assert codec_rate_points("picture_learned", named) == ["22", "37"]
    bound = tiny_weights(tmp_path / "bound.safetensors", detector="0" * 64)
    with pytest.raises(InputError, match="trained for a detector with the SHA-256 000000000000"):
        make_codec("picture_learned", changed(named, picture_learned_weights=str(bound)))


# --- training -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    paths = list(prepare(folder, 2))[-1]
    stamps = [path.stat().st_mtime_ns for path in paths]
    assert [path.stat().st_mtime_ns for path in list(prepare(folder, 2))[-1]] == stamps
    return paths


def test_a_training_goes_on_and_ends_in_the_same_weights(drawn, tmp_path):
    config = replace(CONFIG, qps=(27, 42))
    store = PictureStore(drawn)
    whole = train(config, store, SCHEDULE, tmp_path / "whole").state_dict()
    train(config, store, replace(SCHEDULE, iterations=2), tmp_path / "parts")
    assert read_average(tmp_path / "parts/picture_state.pth")[0]["qps"] == (27, 42)
    with pytest.raises(InputError, match="checkpoint with rate_weight"):
        train(config, store, replace(SCHEDULE, rate_weight=0.1), tmp_path / "parts")
    begun = train(config, store, SCHEDULE, tmp_path / "other", tmp_path / "whole/picture_state.pth")
    assert begun.config == config
    again = train(config, store, SCHEDULE, tmp_path / "whole").state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_training_begins_with_networks_of_its_own_sizes(drawn, tmp_path):
    store = PictureStore(drawn)
    train(CONFIG, store, replace(SCHEDULE, iterations=2), tmp_path)
    with pytest.raises(InputError, match="expected networks of the same sizes"):
        state = tmp_path / "picture_state.pth"
        train(replace(CONFIG, width8=12), store, SCHEDULE, tmp_path / "other", state)


def test_the_loss_of_features_is_zero_for_the_source_and_grows(tiny_condition):
    from vcm_plugin.split import load_split_model

    condition = load_condition(tiny_condition)
    detector = load_split_model(
        condition.model_path(), condition.weights_path(), runtime="torchvision"
    )
    source = torch.from_numpy(picture((64, 96)).transpose(2, 0, 1)[None].copy()).float()
    same = feature_losses(detector, source, source)
    assert set(same) == {"p2", "p3", "p4", "p5"} and all(
        x.abs().max() < 1e-9 for x in same.values()
    )
    near, far = (
        sum(feature_losses(detector, source, (source + d).clamp(0, 255)).values()).sum().item()
        for d in (2.0, 40.0)
    )
    assert 0.0 < near < far


def test_pictures_that_a_training_cannot_take(drawn, tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="at least 512 pixels a side"):
        PictureStore(drawn).draw(1, 512, rng)
    with pytest.raises(InputError, match="expected pictures to train on"):
        PictureStore([])
    with pytest.raises(InputError, match="found_share"):
        PictureStore(drawn, found_share=1.5)
    with pytest.raises(InputError, match="expected 0 to 6000 pictures"):
        next(prepare(tmp_path, 6001))
    for wrong in ({"crop": 100}, {"rate_weight": 0.0}, {"distortion_weight": 0.0}):
        with pytest.raises(InputError, match="expected"):
            replace(SCHEDULE, **wrong)
