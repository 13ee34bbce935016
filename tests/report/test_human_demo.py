# SPDX-License-Identifier: BSD-3-Clause
"""Is the picture that the demo shows fair: does VVC get no more bits than ours? Is it whole?"""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text

from vcm_plugin.ctc.codecs import load_condition, make_codec
from vcm_plugin.errors import InputError
from vcm_plugin.report.human_demo import SHOWN, Shown, drawn, vvc_within


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


def test_no_caption_runs_into_another_or_over_the_edge():
    wide = np.zeros((256, 320, 3), np.uint8)
    title = "VVC, QP 38 at 75 % size: the lowest QP with no more bits than ours"
    shown = Shown(title, wide, 123456, dict.fromkeys(SHOWN, 88.8888))
    rows = [(wide, shown, shown)] * 3 + [(wide[:, :120], shown, shown)]
    figure = drawn(
        [(source, *(replace(x, picture=source) for x in both)) for source, *both in rows]
    )
    figure.draw_without_rendering()
    for first, *captioned in zip(*[iter(figure.axes)] * 3):
        ends = [axes.get_window_extent().x0 for axes in captioned[1:]] + [figure.bbox.x1]
        for axes, end in zip(captioned, ends, strict=True):
            (caption,) = [x for x in axes.get_children() if isinstance(x, Text) and x.get_text()]
            assert caption.get_window_extent().x1 <= end
        assert first.get_window_extent().x0 >= 0
