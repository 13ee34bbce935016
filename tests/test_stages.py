# SPDX-License-Identifier: BSD-3-Clause
"""Do the stages of a codec add up to the time it took, under the names of the test conditions?"""

import doctest
import time

import pytest
from split_parity import drawn_picture
from vfcn_tiny import pyramid, tiny_weights

from anchors.vvc_feature import VvcFeatureCodec
from anchors.vvc_remote import VvcRemoteCodec
from vcm_plugin import stages
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.rate_points import parse_scale, qp_of_scale, scale_of_qp
from vcm_plugin.stages import collected


@pytest.mark.parametrize(
    ("codec", "encoding", "decoding"),
    [
        ("diff_fchm", ["feature_reduction"], ["feature_restoration"]),
        ("vvc_feature", ["conversion"], ["conversion"]),
        ("vvc_remote", ["conversion"], ["conversion"]),
    ],
)
def test_stages_of_a_codec(tmp_path, codec, encoding, decoding):
    source = drawn_picture(40, 60) if codec == "vvc_remote" else pyramid()
    made = {
        "diff_fchm": lambda: MachineCodec(tiny_weights(tmp_path)),
        "vvc_feature": VvcFeatureCodec,
        "vvc_remote": VvcRemoteCodec,
    }[codec]()
    point = "1" if codec == "diff_fchm" else "40"
    started = time.perf_counter()
    with collected() as seconds:
        data = made.encode(source, point)
    assert list(seconds) == [*encoding, "inner_codec"]
    assert 0 < min(seconds.values()) and sum(seconds.values()) <= time.perf_counter() - started
    with collected() as seconds:
        made.decode(data)
    assert list(seconds) == [*decoding, "inner_codec"]


def test_stages_add_up_and_need_no_collector():
    with stages.stage("conversion"):
        pass
    with collected() as seconds:
        for _ in range(2):
            with stages.stage("conversion"):
                time.sleep(0.002)
    assert seconds["conversion"] >= 0.004
    assert doctest.testmod(stages).failed == 0


@pytest.mark.parametrize("qp", range(8, 57))
def test_integers_stand_for_scales_and_back(qp):
    assert qp_of_scale(float(scale_of_qp(qp))) == qp
    parse_scale(scale_of_qp(qp))


def test_rising_integers_are_rising_scales():
    scales = [0.35, 0.7, 1.4, 2.8, 4, 5.6]
    assert [qp_of_scale(s) for s in scales] == [23, 29, 35, 41, 44, 47]
