# SPDX-License-Identifier: BSD-3-Clause
"""Simulcast with a learned picture: exactly both streams, and refused where one is another's."""

import numpy as np
import pytest
import torch
from changed import changed
from picture_tiny import picture, tiny_codec, tiny_weights
from vfcn_tiny import pyramid
from vfcn_tiny import tiny_weights as machine_weights

from anchors import simulcast
from anchors.simulcast import SimulcastCodec
from anchors.vvc_remote import VvcRemoteCodec
from vcm_plugin.ctc import codecs
from vcm_plugin.ctc.codecs import load_condition, make_codec
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import BitstreamError


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> SimulcastCodec:
    folder = tmp_path_factory.mktemp("both")
    machine = MachineCodec(machine_weights(folder))
    return SimulcastCodec(machine, tiny_codec(folder), "simulcast_learned")


def test_it_is_exactly_both_streams(codec):
    source, features = picture((122, 180)), pyramid()
    data = codec.encode(source, features, "1", "37")
    machine, shown = codec.machine.encode(features, "1"), codec.picture.encode(source, "37")
    assert data == machine + shown and codec.machine_bits(data) == 8 * len(machine)
    decoded, decoded_picture = codec.decode(data)
    alone = codec.machine.decode(machine)
    assert all(torch.equal(x, alone.layers[name]) for name, x in decoded.layers.items())
    assert np.array_equal(decoded_picture, codec.picture.decode(shown))
    assert codecs.codec_of(data) == "simulcast_learned"
    text = "\n".join(codecs.describe_bitstream(data))
    assert "(simulcast_learned)" in text and "profile picture_learned" in text
    assert codec.parameters == codec.machine.parameters + codec.picture.parameters


def test_files_of_the_other_simulcast_are_refused_by_name(codec):
    source, features = picture((122, 180)), pyramid()
    learned = codec.encode(source, features, "1", "37")
    other = SimulcastCodec(codec.machine, VvcRemoteCodec())
    with pytest.raises(BitstreamError, match="a file of simulcast, found one of simulcast_learned"):
        other.decode(learned)
    with pytest.raises(BitstreamError, match="a file of simulcast_learned, found one of simulcast"):
        codec.decode(other.encode(source, features, "1", "37"))
    for cut in (len(simulcast.split(learned)[0]), len(learned) - 1):
        with pytest.raises(BitstreamError):
            codec.decode(learned[:cut])


def test_a_condition_makes_it(tiny_condition, tmp_path):
    weights = tiny_weights(tmp_path / "picture.safetensors")
    condition = changed(
        load_condition(tiny_condition), simulcast_learned_weights=str(weights),
        simulcast_learned_points=("1+22", "1+37"),
    )  # fmt: skip
    made = make_codec("simulcast_learned", condition)
    assert made.name == "simulcast_learned" and made.kind == "human"
    assert made.identity()["picture"]["weights_sha256"] == made.picture.sha256
    assert codecs.codec_rate_points("simulcast_learned", condition) == ["1+22", "1+37"]
