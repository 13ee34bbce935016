# SPDX-License-Identifier: BSD-3-Clause
"""Human vision: the measures, simulcast, runs that judge decoded pictures, and their tables."""

from pathlib import Path

import numpy as np
import pytest
import torch
from changed import changed
from hvcn_tiny import picture
from PIL import Image
from vfcn_tiny import pyramid, tiny_weights

from anchors import simulcast
from anchors.simulcast import SimulcastCodec
from anchors.vvc_remote import VvcRemoteCodec
from vcm_plugin.cli.main import main
from vcm_plugin.ctc import codecs
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.results import RunResult
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.ctc.run_folder import decoded_path
from vcm_plugin.ctc.typed_json import from_json
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.files import read_json
from vcm_plugin.metrics.pictures import (
    PAIR_METRICS,
    _network,
    averaged,
    pair_metrics,
    psnr_of_planes,
    set_metrics,
)
from vcm_plugin.metrics.psnr import psnr
from vcm_plugin.report.human_vision import human_vision
from vcm_plugin.report.titles import METRICS
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.testsets.pictures import read_picture

WORSE = [3, 10, 30]  # standard deviations of noise, in levels


def noisy(source: np.ndarray, level: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, level, source.shape)
    return (source + noise).clip(0, 255).round().astype(np.uint8)


# --- the measures ---------------------------------------------------------------------------


def test_measures_of_the_same_picture_are_perfect():
    source = picture((176, 200))
    found = pair_metrics(source, source)
    assert set(found) == set(PAIR_METRICS)
    for name in ("ssim", "ms_ssim", "vif", "haarpsi"):
        assert found[name] == pytest.approx(1.0, abs=1e-3)
    assert found["gmsd"] == pytest.approx(0.0, abs=1e-4)
    assert found["psnr"] > 75 and found["vmaf"] > 95


def test_measures_fall_with_noise():
    source = noisy(picture((176, 200)), 8)
    found = [pair_metrics(source, noisy(source, level)) for level in WORSE]
    for name in PAIR_METRICS:
        higher = METRICS[name].higher_is_better
        if name in ("lpips", "dists"):
            continue
        values = [measured[name] for measured in found]
        assert values == sorted(values, reverse=higher) and len(set(values)) == 3, name
    for level, measured in zip(WORSE, found):
        expected = psnr(source, noisy(source, level))
        assert measured["psnr"] == pytest.approx(expected, abs=0.01)


def test_psnr_of_planes_is_that_of_their_errors():
    grey = np.full((64, 96, 3), 100, np.uint8)
    found = psnr_of_planes(grey, grey + 8)  # grey: Y' alone changes, by 8 of 255
    step = round(8 * 876 / 255) / 1023
    assert found["psnr_y"] == pytest.approx(-20 * np.log10(step), abs=0.2)
    assert found["psnr_u"] == found["psnr_v"] == pytest.approx(80)
    assert found["psnr_yuv"] == pytest.approx((6 * found["psnr_y"] + 160) / 8)


def test_what_cannot_be_measured_says_why(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    _network.cache_clear()
    source = picture((160, 200))
    found = pair_metrics(source, source)
    assert found["ms_ssim"] == "n/a: a side under 161 pixels"
    assert found["lpips"] == found["dists"] == "n/a: weights missing"
    with pytest.raises(InputError, match="at the size of the source"):
        pair_metrics(source, source[:-1])
    mean = averaged([found, found | {"ms_ssim": 0.5}])
    assert mean["ms_ssim"] == found["ms_ssim"]
    assert mean["psnr"] == pytest.approx(found["psnr"])


@pytest.mark.slow
def test_networks_are_used_where_their_weights_are(monkeypatch, tmp_path):
    """piq's own networks with random weights, laid where torch.hub keeps downloaded ones."""
    from torchvision.models import vgg16

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(vgg16().state_dict(), folder / "vgg16-397923af.pth")
    channels = (64, 128, 256, 512, 512)
    torch.save([torch.rand(1, c, 1, 1) for c in channels], folder / "lpips_weights.pt")
    both = {name: torch.rand(1, 3 + sum(channels), 1, 1) for name in ("alpha", "beta")}
    torch.save(both, folder / "dists_weights.pt")
    _network.cache_clear()
    source = picture((176, 200))
    near, far = (pair_metrics(source, noisy(source, level)) for level in (5, 40))
    _network.cache_clear()
    assert 0 < near["lpips"] < far["lpips"] and 0 < near["dists"] < far["dists"]


def test_distances_of_sets():
    rng = np.random.default_rng(0)
    sets = [
        [{"detector": list(rng.normal(mean, 1, 32))} for _ in range(200)] for mean in (0, 0, 0.5)
    ]
    near, far = (set_metrics(sets[0], other) for other in sets[1:])
    assert abs(near["kid_detector"]) < 0.05 < 0.3 < far["kid_detector"]
    assert near["fid"] == near["kid"] == "n/a: weights missing"
    assert set_metrics(sets[0][:1], sets[1][:1])["fid"].startswith("n/a: needs two")


# --- simulcast ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> SimulcastCodec:
    weights = tiny_weights(tmp_path_factory.mktemp("vfcn"))
    return SimulcastCodec(MachineCodec(weights), VvcRemoteCodec())


def test_simulcast_is_exactly_both_streams(codec):
    source, features = picture(), pyramid()
    data = codec.encode(source, features, "1", "37")
    machine, vvc = codec.machine.encode(features, "1"), codec.picture.encode(source, "37")
    assert data == machine + vvc and codec.machine_bits(data) == 8 * len(machine)
    decoded, shown = codec.decode(data)
    alone = codec.machine.decode(machine)
    assert all(torch.equal(x, alone.layers[name]) for name, x in decoded.layers.items())
    assert np.array_equal(shown, codec.picture.decode(vvc))
    assert codecs.codec_of(data) == "simulcast" and codecs.codec_of(machine) == "diff_fchm"
    assert "simulcast" in codecs.describe_bitstream(data)[0]


def test_half_a_simulcast_is_refused(codec):
    machine = codec.machine.encode(pyramid(), "1")
    for data in (machine, machine + b"\0"):
        with pytest.raises(BitstreamError, match="expected a VVC stream or an .fcm file"):
            simulcast.split(data)


@pytest.mark.parametrize("text", ["2.8", "2.8+", "+37", "x+37", "2.8+99"])
def test_rate_points_of_both(text):
    with pytest.raises(InputError):
        codecs.CODECS["simulcast"].grammar.parse(text)


# --- runs and reports -----------------------------------------------------------------------


def test_a_run_judges_the_decoded_pictures(human_runs):
    found, folder = human_runs
    for name, result in found.items():
        assert result.uncompressed.human_vision is None
        for point in result.points:
            measured = point.human_vision
            needed = {"psnr", "vmaf", "kid_detector", "painted_box_ap"}
            assert needed <= set(measured), name
            if name == "vvc_remote":
                assert measured["painted_box_ap"] == point.accuracy["box_ap"]
            else:
                assert measured["machine_bits"] + measured["human_bits"] == point.bits
    first, second = found["simulcast"].points
    assert first.accuracy == second.accuracy  # the same machine layer
    assert first.human_vision["psnr"] > second.human_vision["psnr"]
    both = found["diff_fchm_human"].points[0].human_vision["machine_bits"]
    assert both == first.human_vision["machine_bits"]


def test_a_run_keeps_the_decoded_pictures(human_runs, own_cache):
    found, folder = human_runs
    for name, result in found.items():
        for point in result.points:
            run, listed = folder / name / point.rate_point, point.per_picture.image_id
            kept = sorted((run / "decoded").iterdir())
            assert kept == sorted(decoded_path(run, image_id) for image_id in listed)
            entries = open_test_set(load_condition(folder / name / "condition.yaml")).pictures
            originals = {entry.image_id: read_picture(entry.path) for entry in entries}
            values = [psnr(originals[i], read_picture(decoded_path(run, i))) for i in listed]
            assert np.mean(values) == pytest.approx(point.human_vision["psnr"], abs=0.01)
    assert not (folder / "vvc_remote" / "uncompressed" / "decoded").exists()


def test_the_report_shows_human_vision(human_runs):
    found, folder = human_runs
    report = read_json(folder / "report" / "report.json")
    rows = report["human_vision"]["points"]
    assert {row["curve"] for row in rows} == {"diff_fchm_human 1", "simulcast 1", "vvc_remote"}
    for row in rows:
        run = found[row["curve"].split()[0]]
        point = run.point(row["rate_point"])
        assert row["psnr"] == point.human_vision["psnr"]
        assert row["bpp"] == point.bits / point.pixels
    for name in ("human_vision.csv", "human_equal_value.csv", "human_vision.png"):
        assert (folder / "report" / name).stat().st_size > 100
    assert set(report["bd_rate"]) == set()  # two points: no curve of accuracy but vvc_remote's


def test_a_run_goes_on_where_it_stopped(human_runs, tiny_condition):
    _, folder = human_runs
    before = (folder / "simulcast" / "result.json").read_bytes()
    (folder / "simulcast" / "1+47" / "point.json").unlink()
    (folder / "simulcast" / "result.json").unlink()
    condition = changed(
        load_condition(tiny_condition), human_vision=True, diff_fchm_human_weights="painter",
        simulcast_points=("1+42", "1+47"), vvc_remote_qps=(37, 47), vvc_remote_sizes=(100,),
    )  # fmt: skip
    run(condition, "simulcast", folder / "simulcast", RunOptions())
    assert (folder / "simulcast" / "result.json").read_bytes() == before


def test_pictures_without_ground_truth(tiny_condition, own_cache, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in (1, 2):
        Image.fromarray(picture((170, 200), number)).save(tmp_path / f"pictures/{number}.png")
    condition = changed(
        load_condition(tiny_condition), minictc=None, images="pictures", tasks=(),
        human_vision=True, simulcast_points=("1+47",),
    )  # fmt: skip
    options = RunOptions(data_root=tmp_path)
    result = run(condition, "simulcast", tmp_path / "run", options)
    measured = result.points[0].human_vision
    assert result.points[0].accuracy == {} and "painted_box_ap" not in measured
    assert isinstance(measured["ms_ssim"], float)
    options = RunOptions(data_root=tmp_path / "elsewhere")
    with pytest.raises(InputError, match="expected a folder of pictures"):
        run(condition, "simulcast", tmp_path / "other", options)


def test_encode_and_decode_simulcast(tiny_condition, own_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture((70, 90))).save("picture.png")
    where = ("--condition", str(tiny_condition))
    words = ("encode", "picture.png", "-o", "x.bin", "--codec", "simulcast", "--rate-point", "1+40")
    assert main([*words, *where]) == 0
    assert main(["info", "x.bin"]) == 0 and "two streams" in capsys.readouterr().out
    assert main(["decode", "x.bin", "-o", "x.json", "--picture", "x.png", *where]) == 0
    assert Image.open("x.png").size == (90, 70) and Path("x.json").is_file()


# --- equal value ----------------------------------------------------------------------------


def result_of(points: dict[str, tuple]) -> RunResult:
    """A result of 1000 pixels: {rate point: (bits, machine bits, box AP, PSNR)}."""
    test = {
        "tasks": ["box"], "protocol": "coco", "score_threshold": 0.5, "iou_threshold": 0.5,
        "threads_per_job": 1, "min_overlap": 0, "near_lossless": None, "human_vision": True,
    }  # fmt: skip
    stored = {
        "key": "00", "condition": "x", "codec": "x", "codec_identity": {"kind": "human"},
        "model_identity": {}, "test": test, "environment": {}, "skipped": [], "expected": {},
        "dataset": {"name": "x", "pictures": 1, "pixels": 1000, "sha256": ""},
        "uncompressed": {"accuracy": {"box_ap": 70.0}},
        "points": [
            {
                "rate_point": name,
                "bits": bits,
                "pixels": 1000,
                "pictures": 1,
                "accuracy": {"box_ap": ap},
                "human_vision": {"psnr": psnr, "gmsd": 1 / psnr}
                | ({} if machine is None else {"machine_bits": machine}),
                "per_picture": {"image_id": [1], "bits": [bits]},
            }
            for name, (bits, machine, ap, psnr) in points.items()
        ],
    }  # fmt: skip
    return from_json(RunResult, stored, "result.json")


def test_bits_at_equal_value_and_equal_accuracy():
    """The test needs half the bits of VVC for its pictures, which the detector sees badly."""
    ours = {f"1+{q}": (100 * 2**q, 50, 60.0, 20.0 + q) for q in range(4)}
    vvc = {str(40 - q): (200 * 2**q, None, 40.0 + 5 * q, 20.0 + q) for q in range(6)}
    both = {f"1+{40 - q}": (250 * 2**q, 50, 60.0, 20.0 + q) for q in range(4)}
    results = {"ours": result_of(ours), "vvc": result_of(vvc), "both": result_of(both)}
    found = human_vision(results, ["vvc", "both"])
    assert [curve.name for curve in found.curves] == ["ours 1", "vvc", "both 1"]
    at_vvc = [e for e in found.equal if (e.anchor, e.metric) == ("vvc", "psnr")]
    # VVC reaches box AP 60 at 200 * 2^4 bits only
    assert [e.anchor_bpp for e in at_vvc] == pytest.approx([3.2] * 4, rel=0.02)
    assert at_vvc[0].percent == pytest.approx(100 * (0.1 / 3.2 - 1), rel=0.02)
    at_both = [e for e in found.equal if (e.anchor, e.metric) == ("both 1", "gmsd")]
    assert [e.percent for e in at_both] == pytest.approx([-60.0] * 4)
    rates = {(c.anchor, c.metric): c.result.percent for c in found.comparisons}
    assert [rates["vvc", m] for m in ("psnr", "gmsd")] == pytest.approx([-50.0] * 2, abs=0.01)


def test_the_share_of_pictures_at_which_one_picture_for_both_costs_the_same():
    ours = {f"1+{q}": (100 * 2**q, 50, 60.0, 20.0 + q) for q in range(4)}
    vvc = {str(40 - q): (75 * 2**q, None, 59.0 + q, 20.0 + q) for q in range(6)}
    both = {f"1+{40 - q}": (250 * 2**q, 50, 60.0, 20.0 + q) for q in range(4)}
    results = {"ours": result_of(ours), "vvc": result_of(vvc), "both": result_of(both)}
    equal = [e for e in human_vision(results, ["vvc", "both"]).equal if e.metric == "psnr"]
    for found in equal:
        if found.anchor != "vvc":
            assert found.break_even_share is None
            continue
        share = found.break_even_share
        assert found.expected_bpp(share) == pytest.approx(found.anchor_bpp)
        assert found.expected_bpp(0) == 0.05 and found.expected_bpp(1) == found.bpp
    at_vvc = [e.break_even_share for e in equal if e.anchor == "vvc"]
    # box AP 60 takes 150 bits of VVC, so the cheapest picture pays however many are looked at
    assert at_vvc == pytest.approx([100 / 50, 100 / 150, 250 / 350, 550 / 750], rel=0.01)


def test_an_anchor_of_several_sizes_is_their_envelope():
    values = (20.0, 21.0, 21.8, 22.4)
    ours = {f"1+{q}": (100 * 2**q, 50, 60.0, psnr) for q, psnr in enumerate(values)}
    both = {f"1+{40 - q}": (250 * 2**q, 50, 60.0, psnr) for q, psnr in enumerate(values)}
    results = {"ours": result_of(ours), "both": result_of(both)}
    alone = human_vision(results, ["both"])
    results["both"] = result_of(both | {"1+30@50": (400, 50, 60.0, 20.5)})  # worse than the others
    with_worse = human_vision(results, ["both"])
    assert with_worse.equal == alone.equal
    results["both"] = result_of(both | {"1+30@50": (450, 50, 60.0, 21.0)})  # better
    better = [e.percent for e in human_vision(results, ["both"]).equal if e.metric == "psnr"]
    assert better[1] > [e.percent for e in alone.equal if e.metric == "psnr"][1]


def test_another_machine_rate_is_no_anchor():
    ours = {f"1+{q}": (100 * 2**q, 50, 60.0, 20.0 + q) for q in range(4)}
    other = {f"2+{40 - q}": (200 * 2**q, 50, 50.0, 20.0 + q) for q in range(4)}
    found = human_vision({"ours": result_of(ours), "both": result_of(other)}, ["both"])
    assert found.equal == () and found.comparisons == ()
