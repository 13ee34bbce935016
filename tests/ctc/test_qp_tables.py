# SPDX-License-Identifier: BSD-3-Clause
"""Named tables of rate points: what they say, and what is refused."""

import pytest
from changed import changed

from vcm_plugin import settings
from vcm_plugin.cli.main import main
from vcm_plugin.ctc.codecs import codec_rate_points, load_condition
from vcm_plugin.ctc.qp_tables import index_of, is_label, load_qp_table
from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError
from vcm_plugin.rate_points import parse_qp

NAMES = tuple(settings.read_yaml(cfg_folder() / "qp_tables.yaml", "tables"))


def test_the_tables_cover_the_sequences_of_sfu_hw():
    names = [name.rpartition("/")[2] for name in load_condition("sfu_hw").sequences]
    for table in map(load_qp_table, ("vcm_rs_0.12_inter", "vcm_rs_0.12_intra")):
        assert set(names) <= set(table.of_sequence)
        assert table.rate_points == ["RP1", "RP2", "RP3", "RP4", "RP5", "RP6"]
        for name in names:
            qps = [int(table.qp(point, name)) for point in table.rate_points]
            assert [b - a for a, b in zip(qps, qps[1:])] == [4] * 5
    inter, intra = load_qp_table("vcm_rs_0.12_inter"), load_qp_table("vcm_rs_0.12_intra")
    assert (inter.qp("RP1", "Traffic_2560x1600_30"), intra.qp("RP6", "BQMall_832x480_60")) == (
        "32", "40"
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_qp_is_one_and_every_table_has_its_source(name):
    table = load_qp_table(name)
    for qps in (table.of_sequence or {"": table.qps}).values():
        assert len(qps) in (4, 6) and list(qps) == sorted(set(qps))
        assert all(parse_qp(str(qp)) == qp for qp in qps)
    assert settings.read_yaml(cfg_folder() / "qp_tables.yaml", "tables")[name]["source"]


def test_rate_points_of_a_run():
    condition = changed(load_condition("minictc_sequences"), qp_table="vcm_rs_0.12_pictures")
    assert codec_rate_points("vvc_remote", condition) == ["22", "27", "32", "37", "42", "47"]
    assert codec_rate_points("diff_fchm", condition)[0] == "0.35"  # which has no QPs
    condition = changed(condition, qp_table="vcm_rs_0.12_inter")
    points = codec_rate_points("vvc_feature", condition)
    assert [index_of(point) for point in points] == list(range(6)) and all(map(is_label, points))


def test_an_unknown_table_and_an_unknown_sequence(capsys):
    with pytest.raises(InputError, match="table .*: expected one of .*mean vcm_rs_0.12_inter?"):
        load_qp_table("vcm_rs_0.12_inte")
    with pytest.raises(InputError, match="one of its sequences, such as BQMall_832x480_60, found"):
        load_qp_table("vcm_rs_0.12_inter").qp("RP1", "BQMall")
    run = ["run", "minictc_sequences", "--codec"]
    for words, said in (
        (["diff_fchm", "--qp-table", NAMES[0]], "has no QPs: leave out --qp-table"),
        (["vvc_remote", "--qp-table", "best"], "did you mean"),
        (["vvc_remote", "--qp-table", NAMES[0], "--rate-points", "32"], "no --rate-points"),
        (["vvc_remote", "--low-delay", "--random-access"], "no --random-access beside it"),
        (["diff_fchm", "--intra-period", "0"], "expected 1 .every frame is intra. or more"),
        (["vvc_remote", "--intra-period", "4"], "leave out --intra-period"),
    ):
        assert main([*run, *words]) == 2
        message = capsys.readouterr().err
        assert said.replace(".every frame is intra.", "(every frame is intra)") in message
        assert len(message.strip().splitlines()) == 1
