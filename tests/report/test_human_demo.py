# SPDX-License-Identifier: BSD-3-Clause
"""Is the picture that the demo shows fair: does VVC get no more bits than ours?"""

import numpy as np
import pytest

from vcm_plugin.ctc.codecs import load_condition, make_codec
from vcm_plugin.errors import InputError
from vcm_plugin.report.human_demo import vvc_within


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(3)
    smooth = rng.normal(128, 40, (16, 16, 3)).repeat(8, axis=0).repeat(8, axis=1)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def test_vvc_has_no_more_bits_and_the_next_qp_would_have(picture):
    codec = make_codec("vvc_remote", load_condition("minictc"))
    budget = 8 * len(codec.encode(picture, "40")) + 7
    shown = vvc_within(codec, picture, budget)
    assert shown.bits <= budget and shown.picture.shape == picture.shape
    qp = int(shown.title.split("QP ")[1].split(":")[0])
    assert 8 * len(codec.encode(picture, str(qp - 1))) > budget
    assert f"VVC, QP {qp}: the lowest QP with no more bits than ours" in shown.caption()
    assert f"{shown.bits} bits" in shown.caption()


def test_where_full_size_takes_too_many_bits_a_smaller_one_is_shown():
    codec = make_codec("vvc_remote", load_condition("minictc"))
    cells = np.random.default_rng(3).normal(128, 60, (48, 48, 3))
    picture = np.clip(cells.repeat(8, axis=0).repeat(8, axis=1), 0, 255).astype(np.uint8)
    budget = 8 * len(codec.encode(picture, "63")) - 8
    shown = vvc_within(codec, picture, budget)
    assert shown.bits <= budget and "% size" in shown.title
    with pytest.raises(InputError, match="VVC spends more than 8 bits at every QP and size"):
        vvc_within(codec, picture, 8)
