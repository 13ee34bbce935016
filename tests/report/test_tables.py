# SPDX-License-Identifier: BSD-3-Clause
"""Do run folders become the right tables, and is what cannot be compared refused?

The runs are small but real: drawn pictures, a codec (block means, quantised and deflated), a
detector (connected areas of one brightness), and the accuracy that COCOeval finds.
"""

import json
import shutil
import zlib

import numpy as np
import pytest
from pycocotools import mask as rle
from scipy import ndimage

from vcm_plugin.ctc.results import load_result
from vcm_plugin.errors import InputError
from vcm_plugin.metrics import coco_ap
from vcm_plugin.metrics.bd_rate import bd_rate
from vcm_plugin.metrics.convex_hull import convex_hull
from vcm_plugin.report import resampling, tables, views
from vcm_plugin.report.titles import AP_METRICS
from vcm_plugin.vvc import VVenC

SIDE = 96
LEVELS = {1: 90, 2: 160, 3: 230}  # category -> brightness
BLOCKS = {"22": 1, "27": 2, "32": 3, "37": 4, "42": 5, "47": 6}  # rate point -> block side


def draw(pictures, seed=3):
    """Pictures of squares and discs on a noisy ground, and their COCO ground truth."""
    rng = np.random.default_rng(seed)
    canvases, truth = {}, []
    y, x = np.mgrid[:SIDE, :SIDE]
    for image_id in range(1, pictures + 1):
        canvas = rng.normal(25, 6, (SIDE, SIDE))
        free = np.ones((SIDE, SIDE), bool)
        for _ in range(6):
            radius, (cy, cx) = rng.uniform(4, 15), rng.uniform(12, SIDE - 12, 2)
            if rng.random() < 0.5:
                mask = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
            else:
                mask = (abs(y - cy) < radius) & (abs(x - cx) < 0.7 * radius)
            if not free[mask].all():
                continue
            free &= ~ndimage.binary_dilation(mask, iterations=3)
            category_id = int(rng.integers(1, 4))
            canvas[mask] = LEVELS[category_id] + rng.normal(0, 6, mask.sum())
            truth.append(item(image_id, category_id, mask, id=len(truth) + 1, iscrowd=0))
        canvases[image_id] = np.clip(canvas, 0, 255).astype(np.uint8)
    images = [{"id": i, "height": SIDE, "width": SIDE} for i in canvases]
    names = [{"id": k, "name": f"level {k}"} for k in LEVELS]
    return canvases, {"images": images, "annotations": truth, "categories": names}


def item(image_id, category_id, mask, **more):
    code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    box = [float(value) for value in rle.toBbox(code)]
    mask = {"size": [SIDE, SIDE], "counts": code["counts"].decode("ascii")}
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "segmentation": mask,
            "area": box[2] * box[3], **more}  # fmt: skip


def encode(picture, block, step):
    """Block means, quantised and deflated: what a rate point costs."""
    padded = np.pad(picture.astype(float), (0, -SIDE % block), mode="edge")
    rows = len(padded) // block
    means = padded.reshape(rows, block, rows, block).mean(axis=(1, 3))
    return zlib.compress(np.round(means / step).astype(np.uint8).tobytes(), 9)


def decode(data, block, step):
    means = np.frombuffer(zlib.decompress(data), np.uint8).astype(float) * step
    side = int(np.sqrt(len(means)))
    at = (np.mgrid[:SIDE, :SIDE] + 0.5) / block - 0.5
    return ndimage.map_coordinates(means.reshape(side, side), at, order=1, mode="nearest")


def detect(picture, image_id):
    """Connected areas of the brightness of each category."""
    found = []
    nearest = np.argmin([abs(picture - level) for level in (25, *LEVELS.values())], axis=0)
    for category_id, level in LEVELS.items():
        areas, count = ndimage.label(nearest == category_id)
        for number in range(1, count + 1):
            mask = areas == number
            if mask.sum() >= 12:
                score = float(1 / (1 + abs(picture[mask] - level).mean()))
                found.append(item(image_id, category_id, mask, score=score))
    return found


def write_run(folder, codec="vvc_feature", step=8, sizes=(1,), pictures=10, points=BLOCKS):
    """A complete run folder, as the runner leaves it."""
    canvases, coco = draw(pictures)
    uncompressed = [found for i, canvas in canvases.items() for found in detect(canvas * 1.0, i)]
    stored = []
    for size in sizes:
        for name, block in points.items():
            rate_point = name if size == 1 else f"{name}@{100 // size}"
            files = {i: encode(canvas, block * size, step) for i, canvas in canvases.items()}
            decoded = {i: decode(data, block * size, step) for i, data in files.items()}
            predictions = [found for i, canvas in decoded.items() for found in detect(canvas, i)]
            bits = [8 * len(data) for data in files.values()]
            (folder / rate_point).mkdir(parents=True)
            stored.append({
                "rate_point": rate_point,
                "bits": sum(bits),
                "pixels": pictures * SIDE * SIDE,
                "pictures": pictures,
                "accuracy": judge(coco, predictions, folder / rate_point / "matches.npz"),
                "per_picture": {"image_id": list(files), "bits": bits},
            })  # fmt: skip
    seconds = {stage: {"sum": 2.5, "median": 0.25} for stage in ("encode", "decode", "nn_part2")}
    first = {"nn_part1": {"sum": 4.0, "median": 0.4}}
    timings = {"wall_seconds": 20.0, "complexity": None, "jobs": 1}
    timings["points"] = {p["rate_point"]: {**seconds, **first} for p in stored}
    timings["points"]["uncompressed"] = first
    (folder / "timings.json").write_text(json.dumps(timings))
    result = {
        "format": "vcm-plugin result",
        "version": 1,
        "key": "00",
        "condition": "drawn",
        "codec": codec,
        "codec_identity": {"step": step, "kind": "picture" if len(sizes) > 1 else "feature"},
        "model_identity": {"detector": "connected areas", "runtime": "scipy"},
        "test": {"tasks": ["box", "mask"], "protocol": "coco", "score_threshold": 0.5,
                 "iou_threshold": 0.5, "threads_per_job": 1, "min_overlap": 0.0,
                 "near_lossless": None, "human_vision": False},
        "environment": {"numpy": np.__version__},
        "dataset": {"name": "drawn", "pictures": pictures, "pixels": pictures * SIDE * SIDE,
                    "sha256": f"{pictures:064d}"},
        "skipped": [],
        "uncompressed": {"accuracy": judge(coco, uncompressed, None)},
        "expected": {},
        "points": stored,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def judge(coco, predictions, path):
    matches = {task: coco_ap.match_pictures(coco, predictions, task) for task in coco_ap.TASKS}
    if path:
        coco_ap.write_matches(path, matches)
    return {k: v for found in matches.values() for k, v in coco_ap.accuracy(found).items()}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Two runs of one condition: a feature-like one, and a remote-like one at two sizes."""
    root = tmp_path_factory.mktemp("runs")
    feature = write_run(root / "vvc_feature", step=4)
    remote = write_run(root / "vvc_remote", codec="vvc_remote", step=24, sizes=(1, 2))
    return feature, remote


@pytest.fixture(scope="session")
def report(runs):
    return tables.build_report(runs, ["vvc_remote", "vvc_feature"], tables.Rules(resamples=80))


def edited(run, target, change):
    """A copy of a run folder with another result.json."""
    shutil.copytree(run, target)
    result = json.loads((run / "result.json").read_text())
    change(result)
    (target / "result.json").write_text(json.dumps(result))
    return target


def test_points_are_those_of_the_runs_and_bpp_is_derived(report, runs):
    stored = [p for run in runs for p in json.loads((run / "result.json").read_text())["points"]]
    assert len(report.points) == len(stored) == 6 + 12
    for point, expected in zip(report.points, stored, strict=True):
        assert (point.rate_point, point.bits) == (expected["rate_point"], expected["bits"])
        assert type(point.bits) is int and type(point.pixels) is int
        assert point.bpp == expected["bits"] / expected["pixels"]
        assert point.accuracy == expected["accuracy"]
    falls = [point.accuracy["box_ap"] for point in report.points[:6]]
    assert falls[0] - falls[-1] > 10  # the drawn test shows coding loss


def test_a_run_at_several_sizes_gives_its_hull_and_its_plain_curve(report):
    feature, hull, plain = report.curves
    assert [feature.name, hull.name, plain.name] == ["vvc_feature", "vvc_remote", "vvc_remote_100"]
    assert hull.hull and not plain.hull
    assert {point.percent for point in hull.points} == {100, 50}
    assert [point.rate_point for point in plain.points] == list(BLOCKS)
    for metric in report.ap_metrics:
        every = [(point.bpp, point.accuracy[metric]) for point in hull.points]
        assert hull.rate_accuracy(metric) == convex_hull(every)


def test_comparisons_equal_bd_rate_on_the_curves(report):
    curves = {curve.name: curve for curve in report.curves}
    pairs = {(found.test, found.anchor) for found in report.comparisons}
    assert pairs == {
        ("vvc_feature", "vvc_remote"),
        ("vvc_remote", "vvc_feature"),
        ("vvc_remote_100", "vvc_remote"),
        ("vvc_remote_100", "vvc_feature"),
    }
    assert {found.metric for found in report.comparisons} == set(report.ap_metrics)
    for found in report.comparisons:
        both = [curves[name].rate_accuracy(found.metric) for name in (found.anchor, found.test)]
        assert found.raw == bd_rate(*both, min_overlap=5)
        assert found.fit == bd_rate(*both, "monotone", min_overlap=5)
    assert any(found.raw.percent is not None for found in report.comparisons)
    assert all((f.raw.percent is None) == (f.raw.reason is not None) for f in report.comparisons)


def test_intervals_hold_the_figure_and_are_narrow_for_paired_resamples(report):
    found = next(
        f for f in report.comparisons if f.metric == "box_ap" and f.anchor == "vvc_feature"
    )
    low, high = found.fit_interval.low_high
    assert low < found.fit.percent < high
    assert found.fit_interval.used > 60


def test_resampled_points_average_to_the_measured_ones(runs):
    stored = load_result(runs[0]).points[2]
    path = runs[0] / stored.rate_point / "matches.npz"
    values = resampling._resampled_point(path, stored, resamples=400, seed=1)
    assert values["bpp"].mean() == pytest.approx(stored.bits / stored.pixels, rel=0.02)
    assert values["box_ap"].mean() == pytest.approx(stored.accuracy["box_ap"], abs=4)
    assert set(AP_METRICS) - {"miou", "mota", "idf1", "hota"} < set(values)


def test_near_lossless_bits_lie_between_the_points_around(report):
    for found in report.near_lossless:
        assert found.accuracy == report.uncompressed[found.metric] - 1
        points = next(c for c in report.curves if c.name == found.curve).chosen(found.metric)
        if found.raw.bits is None:
            assert found.raw.reason
        else:
            above = [p.bits for p in points if p.accuracy[found.metric] >= found.accuracy]
            below = [p.bits for p in points if p.accuracy[found.metric] < found.accuracy]
            assert max(below) <= found.raw.bits <= min(above)


def test_runs_of_one_codec_are_told_apart_by_their_folders(runs, tmp_path):
    slower = edited(runs[0], tmp_path / "vvc_feature_slower", lambda result: None)
    report = tables.build_report([runs[0], slower], ["vvc_feature"])
    assert [run.name for run in report.runs] == ["vvc_feature_slower", "vvc_feature"]
    assert report.comparisons[0].raw.percent in (None, pytest.approx(0))
    with pytest.raises(InputError, match="2 runs would be called vvc_feature"):
        tables.build_report([runs[0], runs[0]], [])


def test_another_runtime_of_the_same_detector_is_the_same_condition(runs, tmp_path):
    def other(result):
        result["model_identity"]["runtime"] = "another"
        result["codec"] = "other"

    again = edited(runs[0], tmp_path / "again", other)
    assert len(tables.build_report([runs[0], again], []).runs) == 2


def test_one_point_and_no_matches_make_a_report_with_reasons(tmp_path):
    run = write_run(tmp_path / "one", pictures=2, points={"22": 1})
    other = write_run(tmp_path / "other", codec="other", pictures=2, points={"22": 1})
    (other / "22" / "matches.npz").unlink()
    report = tables.build_report([run, other], ["vvc_feature"])
    found = report.comparisons[0]
    assert found.raw.percent is None and "1 points" in found.raw.reason
    assert found.raw_interval.reason == "the runs keep no matches of their pictures"


def set_to(*path):
    *keys, last, value = path

    def change(result):
        for key in keys:
            result = result[key]
        result[last] = value

    return change


def drop(*path):
    *keys, last = path

    def change(result):
        for key in keys:
            result = result[key]
        del result[last]

    return change


REFUSED = [
    ("another condition", set_to("condition", "else"), "the condition is drawn and else"),
    ("another data set", set_to("dataset", "sha256", "ab"), "the data set is 0+10 and ab"),
    ("fewer pictures", set_to("dataset", "pictures", 9), "the number of pictures is 10 and 9"),
    (
        "skipped pictures",
        set_to("skipped", [{"image_id": 4, "file_name": "4.png"}]),
        "the skipped pictures",
    ),
    ("another detector", set_to("model_identity", "detector", "x"), "the detector is"),
    ("another accuracy", set_to("uncompressed", "accuracy", "box_ap", 1.0), "disagree on uncompr"),
    ("a metric less", drop("uncompressed", "accuracy", "mask_ap"), "other has no mask AP, the"),
    ("a gap", drop("points", 1, "accuracy", "mask_ap"), "rate point 27 has no mask_ap"),
    (
        "no bits",
        drop("points", 0, "bits"),
        r"result.json: expected a field points\[0\].bits, found none",
    ),
    ("no points", set_to("points", []), "holds no rate point"),
    ("a field too much", set_to("points", 1, "bit", 3), r"unknown field points\[1\].bit;"),
    ("bits of fewer pictures", set_to("points", 0, "per_picture", "bits", [8]), "1 and 10"),
    ("text for a number", set_to("points", 0, "bits", "8"), "expected a whole number, found '8'"),
    ("a gap in an accuracy", set_to("points", 2, "accuracy", "box_ap", None), "box_ap: exp"),
    ("no kind", drop("codec_identity", "kind"), "expected a field codec_identity.kind"),
    ("another version", set_to("version", 2), "expected vcm-plugin result 1, found"),
]


@pytest.mark.parametrize("_, change, line", REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_line(_, change, line, runs, tmp_path):
    def other(result):
        change(result)
        result["codec"] = "other"

    with pytest.raises(InputError, match=line) as caught:
        tables.build_report([runs[0], edited(runs[0], tmp_path / "other", other)], [])
    assert "\n" not in str(caught.value)


def test_incomplete_runs_unknown_anchors_and_no_runs_are_refused(runs, tmp_path):
    (tmp_path / "begun").mkdir()
    with pytest.raises(InputError, match="not complete"):
        tables.build_report([tmp_path / "begun"], [])
    with pytest.raises(InputError, match="anchor vtm: expected one of vvc_feature, vvc_remote, vv"):
        tables.build_report(runs, ["vtm"])
    with pytest.raises(InputError, match="at least one run"):
        tables.build_report([], [])


def test_matches_of_other_pictures_are_refused(runs, tmp_path):
    def other(result):
        result["points"][0]["per_picture"]["image_id"][0] = 77

    with pytest.raises(InputError, match="expected the pictures of result.json"):
        tables.build_report([edited(runs[0], tmp_path / "other", other)], [])


def test_the_encoder_of_an_anchor_stands_beside_its_bd_rate(runs, report, tmp_path):
    def change(result):
        result["codec_identity"]["inner_codec"] = VVenC("fast").identity(luma_only=False)

    both = [edited(run, tmp_path / run.name, change) for run in runs]
    notes = views.bd_rates(
        tables.build_report(both, ["vvc_remote"], tables.Rules(resamples=2))
    ).notes
    assert notes[-1].startswith("vvc_feature, vvc_remote: coded by VVenC 1.")
    assert "preset fast. The anchors of MPEG's tables are coded by VTM" in notes[-1]
    assert not any("coded by" in note for note in views.bd_rates(report).notes)
