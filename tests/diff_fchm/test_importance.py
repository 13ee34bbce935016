# SPDX-License-Identifier: BSD-3-Clause
"""Does an encoder that knows what matters save bits where nothing does, and change no decoder?"""

import io

import numpy as np
import pytest
import torch
from inter_tiny import moving, tiny_inter
from vfcn_tiny import pyramid, tiny_weights

from vcm_plugin.bitstream import Timing
from vcm_plugin.diff_fchm.machine import ivn
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.diff_fchm.machine.importance import (
    LEAST,
    MORE,
    Importance,
    ImportanceConfig,
    ImportanceNetwork,
    export,
)
from vcm_plugin.entropy.latent_coder import LATENT_STEPS
from vcm_plugin.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("importance")


@pytest.fixture(scope="module")
def weights(folder):
    return tiny_weights(folder)


@pytest.fixture(scope="module")
def importance(folder, weights):
    plain = MachineCodec(weights)
    torch.manual_seed(0)
    network = ImportanceNetwork(ImportanceConfig(plain.config.latents, 4))
    return export(network, plain.latents_sha256, {}, folder / "importance.safetensors")


def test_pictures_are_rounded_as_ever(weights, importance):
    features = pyramid((96, 128))
    knowing = MachineCodec(weights, importance=importance)
    assert knowing.encode(features, "1") == MachineCodec(weights).encode(features, "1")


def test_errors_are_where_little_matters(weights, importance):
    codec = MachineCodec(weights, importance=importance)
    analysed = codec.analyse(pyramid((96, 128)))
    each = codec.importance.error_weights(analysed.y)
    assert each.shape == tuple(analysed.y.shape[-2:])
    assert (LEAST < each).all() and (each < LEAST + MORE).all()
    half = np.full_like(each, 1e6)
    half[:, half.shape[1] // 2 :] = 0.1  # the right half matters hardly at all
    value_range = ivn.scaled_range(analysed.value_range, 1.0)
    z, y = codec.latents_at(analysed, value_range)
    data, latents = codec.coder.encode(z, y, codec.octaves(value_range), half)
    assert len(data) < len(codec.coder.encode(z, y, codec.octaves(value_range))[0])
    error = np.square(y.numpy() - latents.y / LATENT_STEPS).sum(0)
    left, right = np.split(error, [half.shape[1] // 2], axis=1)
    assert left.max() <= 0.25 * len(y) + 1e-3  # as rounded
    assert right.mean() > 2 * left.mean()


def test_inter_frames(folder, weights, importance):
    inter = tiny_inter(folder, weights)
    sizes = []
    for path in (None, importance):
        codec = MachineCodec(weights, inter=inter, importance=path)
        file = io.BytesIO()
        sizes.append(sum(codec.encode_frames(iter(moving(4)), "1", Timing(4, (30, 1)), file)))
    path = folder / "sequence.fcm"
    path.write_bytes(file.getvalue())
    assert sizes[1] < sizes[0]
    assert len(list(MachineCodec(weights, inter=inter).decode_frames(path))) == 4


def test_the_identity_names_them(weights, importance):
    knowing = MachineCodec(weights, importance=importance)
    assert knowing.identity()["importance_weights_sha256"] == knowing.importance.sha256
    assert "importance_weights_sha256" not in MachineCodec(weights).identity()


def test_weights_of_other_latents_and_damaged_ones(folder, weights, importance):
    with pytest.raises(InputError, match="for the latents .{8}, found 00000000; train them over"):
        Importance(importance, "0" * 64)
    with pytest.raises(InputError, match="expected IMPORTANCE weights"):
        Importance(weights, MachineCodec(weights).latents_sha256)
    network = ImportanceNetwork(ImportanceConfig(8, 4))
    network.layers[0].weight.data[0, 0] = float("nan")
    broken = export(network, "0" * 64, {}, folder / "broken.safetensors")
    with pytest.raises(InputError, match="damaged: a weight is NaN"):
        Importance(broken, "0" * 64)
