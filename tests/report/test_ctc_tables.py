# SPDX-License-Identifier: BSD-3-Clause
"""Are the tables for MPEG those that the harness's own script makes of the same runs?"""

import json

import pytest
from drawn_runs import drawn_oiv6, drawn_sfu
from table_script import assert_same_rows, rows_of, script_rows

from vcm_plugin.cli.main import main
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.results import load_result
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json
from vcm_plugin.report.ctc_tables import write_ctc_tables

pytestmark = pytest.mark.usefixtures("own_cache")
VIDEO = ["Dataset", "fps", "num_of_coded_frame", "qp", "bitrate (kbps)", "end_accuracy",
         "nn_part_1", "encode", "decode", "nn_part_2"]  # fmt: skip


def test_tables_of_sequences(sfu, tmp_path):
    result = load_result(sfu)
    path = write_ctc_tables([sfu], tmp_path)
    assert path == tmp_path / "SFUHW/final_SFU.csv"
    rows = rows_of(path)
    assert list(rows[0]) == ["", *[name for name in VIDEO if name not in VIDEO[1:3]]]
    assert [row[""] for row in rows] == [str(n) for n in range(3 * 4 + 2 * 4)]
    names = [sequence.name for sequence in result.dataset.sequences]
    assert names == ["RaceHorses_832x480_30", "BQSquare_416x240_60", "RaceHorses_416x240_30"]
    assert [row["Dataset"] for row in rows[:12:4]] == names
    assert [row["Dataset"] for row in rows[12::4]] == ["CLASS-C", "CLASS-D"]
    assert [row["qp"] for row in rows[:4]] == ["29", "35", "41", "47"]
    assert [row["qp"] for row in rows[12:16]] == ["0", "1", "2", "3"]
    named = rows_of(tmp_path / "SFUHW/rate_points_SFU.csv")
    assert list(named[0]) == ["Dataset", "harness_qp", "rate_point"]
    assert [tuple(row.values()) for row in named[:2]] == [
        (names[0], "29", "0.7"), (names[0], "35", "1.4"),
    ]  # fmt: skip
    assert [(row["Dataset"], row["harness_qp"]) for row in named] == [
        (row["Dataset"], row["qp"]) for row in rows[:12]
    ]
    point = result.points[1]
    summary = rows_of(tmp_path / "SFUHW/sfu-hw-BQSquare_416x240_60_val/qp35/evaluation/summary.csv")
    assert len(summary) == 1 and list(summary[0]) == VIDEO
    bits = sum(bits for i, bits in point.bits_by_picture.items() if i // 100000 == 2)
    assert float(summary[0]["bitrate (kbps)"]) == pytest.approx(bits * 60 / 2000)
    expected = point.sequences["BQSquare_416x240_60"]["box_ap"]
    assert float(summary[0]["end_accuracy"]) == pytest.approx(expected)
    rates = [float(row["bitrate (kbps)"]) for row in (rows[5], rows[9], rows[17])]
    weighted = (rates[0] * 2 / 60 + rates[1] * 2 / 30) / (2 / 60 + 2 / 30)
    assert rates[2] == pytest.approx(weighted)
    assert float(rows[17]["end_accuracy"]) == pytest.approx(point.classes["CLASS-D"]["box_ap"])


def test_tables_by_command(sfu, tmp_path, capsys):
    assert main(["tables", str(sfu), "-o", str(tmp_path)]) == 0
    assert "final_SFU.csv" in capsys.readouterr().out
    assert main(["tables", str(sfu), str(sfu), "-o", str(tmp_path)]) == 2
    assert "expected one run, which holds all sequences" in capsys.readouterr().err


@pytest.fixture(scope="module")
def oiv6(tmp_path_factory, shared_cache):
    """Runs of both tasks on drawn pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCM_CACHE", str(shared_cache))
        return drawn_oiv6(tmp_path_factory.mktemp("oiv6"))


def test_tables_of_open_images(oiv6, tmp_path):
    path = write_ctc_tables([oiv6 / "segmentation", oiv6 / "detection"], tmp_path)
    rows = rows_of(path)
    assert path.name == "final_OIV6.csv" and len(rows) == 8
    assert [row["Dataset"] for row in rows[::4]] == [
        "mpeg-oiv6-detection",
        "mpeg-oiv6-segmentation",
    ]
    point = load_result(oiv6 / "detection").points[0]
    assert float(rows[0]["avg_bpp"]) == pytest.approx(point.bits / point.pixels)
    assert float(rows[0]["end_accuracy"]) == pytest.approx(point.accuracy["box_ap50"])
    summary = tmp_path / "MPEGOIV6/mpeg-oiv6-detection/qp29/evaluation/summary.csv"
    assert float(rows_of(summary)[0]["end_accuracy"]) == pytest.approx(
        point.accuracy["box_ap50"] / 100
    )


def test_runs_that_make_no_table(sfu, oiv6, tmp_path):
    with pytest.raises(InputError, match="expected runs of one codec on one test set"):
        write_ctc_tables([sfu, oiv6 / "detection"], tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    result = read_json(sfu / "result.json")
    del result["dataset"]["sequences"]
    (other / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match="sfu_hw is no test set of MPEG"):
        write_ctc_tables([other], tmp_path)
    result = read_json(sfu / "result.json")
    result["points"][1]["rate_point"] = "0.71"
    (other / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match="two rate points have the same integer QP"):
        write_ctc_tables([other], tmp_path)
    del result["points"][1]
    (other / "result.json").write_text(json.dumps(result))
    with pytest.raises(
        InputError, match="take 4 rate points .FCM. or 6 .VCM. at full size, found 3"
    ):
        write_ctc_tables([other], tmp_path)


# --- the harness's table script -------------------------------------------------------------


@pytest.mark.harness
def test_the_harness_makes_the_same_table_of_sequences(tmp_path):
    run = drawn_sfu(tmp_path, load_condition("sfu_hw").sequences, frames=1)
    path = write_ctc_tables([run], tmp_path / "tables")
    ours = rows_of(path)
    assert len(ours) == 14 * 4 + 3 * 4
    assert_same_rows(ours, script_rows(path.parent, tmp_path / "SFU_HW_Obj", "SFU"))


@pytest.mark.harness
def test_the_harness_makes_the_same_table_of_open_images(oiv6, tmp_path):
    path = write_ctc_tables([oiv6 / "detection", oiv6 / "segmentation"], tmp_path)
    ours = rows_of(path)
    data = tmp_path / "OIV6"
    data.mkdir()
    assert_same_rows(ours, script_rows(path.parent, data, "OIV6"))
