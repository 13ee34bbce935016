# SPDX-License-Identifier: BSD-3-Clause
"""Do our codecs, inside the real CompressAI-Vision, do what they do in our own runner?

Its stock commands run on our wheel, installed, with Detectron2 itself. Runs with -m harness.
"""

import csv
import hashlib
import importlib.util
import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vcm_plugin.ctc import complexity
from vcm_plugin.errors import InputError
from vcm_plugin.rate_points import qp_of_scale

MISSING = [n for n in ("compressai_vision", "detectron2") if importlib.util.find_spec(n) is None]
pytestmark = [
    pytest.mark.harness,
    pytest.mark.skipif(bool(MISSING), reason=f"not importable: {', '.join(MISSING)}"),
]
QPS, SCALES, VFCN = (22, 37), (0.7, 4), "minictc_vfcn.safetensors"
OURS = (f"++codec.encoder_config.diff_fchm_weights={VFCN}",)
OURS += ("++codec.encoder_config.diff_fchm_other_detector=True",)
RANGE = "++codec.encoder_config.vvc_feature_range=[-8,8]"
MD5 = "++pipeline.nn_task_part2.dump_features_hash=True"
CONFORMANCE = "++pipeline.conformance.save_conformance_files=True"
MSE = "++evaluator.calculate_feature_mse=True"
MAC = "++codec.mac_computation=True"
SHOWN = "++codec.save_visualization=True"


@pytest.fixture(scope="session")
def site(wheel, tmp_path_factory) -> Path:
    from harness_job import install

    return install(wheel, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def r50(site, tmp_path_factory):
    """R50-FPN with random weights, pseudo ground truth: its own best boxes."""
    from harness_job import make_job
    from split_parity import drawn_scene

    pictures = [(f"{n}.png", drawn_scene(*size, seed=n)) for n, size in enumerate(SIZES[:3])]
    codecs = {"vvc_feature_qps": list(QPS), "vvc_feature_preset": "faster"}
    codecs |= {"vvc_feature_range": "picture"}
    codecs |= {"vvc_remote_qps": [32], "vvc_remote_sizes": [50], "vvc_remote_preset": "faster"}
    return make_job(tmp_path_factory.mktemp("r50"), site, pictures, codecs)


@pytest.fixture(scope="session")
def scenes(site, tmp_path_factory):
    """A sequence of drawn scenes, the built-in detector as Detectron2 runs it, true boxes."""
    from harness_job import make_job

    from vcm_plugin.environment import PACKAGE
    from vcm_plugin.testsets import minictc
    from vcm_plugin.testsets.coco import load_coco
    from vcm_plugin.testsets.pictures import read_picture

    folder = tmp_path_factory.mktemp("scenes")
    annotations = minictc.generate("val", folder / "drawn", count=12)
    entries = load_coco(folder / "drawn" / "images", annotations).pictures
    first = entries[0]  # frames have one size
    entries = [p for p in entries if (p.height, p.width) == (first.height, first.width)][:3]
    pictures = [(p.path.name, read_picture(p.path)) for p in entries]
    truth, ids = json.loads(annotations.read_text()), {p.image_id for p in entries}
    truth["images"] = [x for x in truth["images"] if x["id"] in ids]
    truth["annotations"] = [x for x in truth["annotations"] if x["image_id"] in ids]
    codecs = {"diff_fchm_weights": VFCN, "diff_fchm_scales": list(SCALES)}
    weights = PACKAGE / "weights" / "minictc_mask_rcnn.pth"
    return make_job(
        folder, site, pictures, codecs, model="minictc_mask_rcnn", weights=weights,
        ground_truth=truth,
    )  # fmt: skip


@pytest.fixture(scope="session")
def cells(site, tmp_path_factory):
    """Real pictures of blood cells, and a detector that Detectron2's own trainer fine-tuned."""
    if "VCM_DATA" not in os.environ:
        pytest.skip("VCM_DATA names no real pictures")
    from harness_job import blood_cells

    from vcm_plugin.environment import PACKAGE

    data, folder = Path(os.environ["VCM_DATA"]), tmp_path_factory.mktemp("cells")
    script = Path(__file__).parents[2] / "scripts" / "finetune_detectron2.py"
    command = [
        sys.executable, script, "bccd_faster_rcnn", "-o", folder / "tuned", "--iterations", 30,
        "--init", PACKAGE / "weights/bccd_faster_rcnn.pth", "--images", data / "bccd/train",
        "--annotations", data / "bccd/instances_train.json",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    subprocess.run(list(map(str, command)), check=True, env=environment)
    codecs = {"vvc_feature_qps": [30, 47], "vvc_feature_preset": "faster"}
    codecs |= {"vvc_feature_range": "picture", "diff_fchm_weights": "bccd_vfcn.safetensors"}
    codecs |= {"diff_fchm_scales": [0.7, 5.6], "diff_fchm_other_detector": True}
    return blood_cells(folder, site, data, codecs, 5, folder / "tuned" / "model_final.pth")


SIZES = [(160, 224), (224, 160), (150, 233), (97, 301), (200, 200), (301, 97)]


def files(folder: Path, pattern: str) -> dict[int, bytes]:
    """Files by the number that ends their names."""
    found = folder.glob(pattern)
    return {int(path.stem.split("_")[-1]): path.read_bytes() for path in found}


def detector(job):
    from vcm_plugin.split import load_split_model

    return load_split_model(
        job.folder / "model.yaml", job.folder / "model.pth", runtime="detectron2"
    )


def pyramids(job) -> list:
    """The features of the pictures of a job, from our own split model on Detectron2."""
    from vcm_plugin.testsets.pictures import read_picture

    model = detector(job)
    return [model.nn_part1(read_picture(path)) for path in job.pictures]


def md5_of(features, **more) -> str:
    """What the harness dumps for features that it hands to NN-Part2."""
    from compressai_vision.utils import contiguous_features, freeze_zip_timestamps

    height, width = features.source_size
    x = {
        "data": {name: layer[None] for name, layer in features.layers.items()},
        "org_input_size": {"height": height, "width": width},
        "input_size": [features.input_size],
    }
    dumped = io.BytesIO()
    with freeze_zip_timestamps():
        torch.save(contiguous_features(x | more), dumped, pickle_protocol=4)
    return hashlib.md5(dumped.getvalue()).hexdigest()


def test_pictures_of_the_feature_anchor(r50):
    from harness_job import summary

    from anchors.vvc_feature import VvcFeatureCodec

    result, run = r50.run_ours("vvc_feature")
    accuracies, errors = [], []
    for qp in QPS:
        folder = r50.run_harness(
            "vvc_feature", f"++codec.encoder_config.rate_point={qp}", MD5, CONFORMANCE, MSE
        )
        assert folder.name == f"qp{qp}"
        ours = files(run / str(qp) / "bitstreams", "*.fcm")
        assert files(folder / "codec_output", "*.bin") == ours and len(ours) == 3
        dumped = files(folder / "features_pre_nn_part2", "*.md5")
        for image_id, data in ours.items():
            decoded = VvcFeatureCodec().decode(data)
            assert dumped[image_id].decode().strip() == md5_of(decoded)
        row, own = summary(folder), result.point(str(qp))
        assert float(row["avg_bpp"]) == pytest.approx(own.bits / own.pixels, rel=1e-12)
        assert float(row["end_accuracy"]) == pytest.approx(own.accuracy["box_ap"], abs=0.01)
        stages = [k for k in row if k.startswith(("encode_", "decode_"))]
        assert stages == ["encode_conversion", "encode_inner_codec"] + [
            "decode_inner_codec", "decode_conversion",
        ]  # fmt: skip
        assert float(row["encode_inner_codec"]) <= float(row["encode"])
        assert len(list((folder / "conformance_files").glob("*.dump"))) == 3
        accuracies.append(float(row["end_accuracy"]))
        errors.append(1 / float(row["inv_mse"]))
    assert accuracies[0] > accuracies[1]
    assert 0 < errors[0] < errors[1]


def test_encode_only_then_decode_only(r50):
    from harness_job import summary

    point = "++codec.encoder_config.qp=31"
    whole = r50.run_harness("vvc_feature", point, "++codec.experiment=_whole", MD5)
    encoded = r50.run_harness("vvc_feature", point, "++pipeline.codec.encode_only=True")
    assert not list(encoded.rglob("summary.csv"))
    folder = r50.run_harness("vvc_feature", point, "++pipeline.codec.decode_only=True", MD5)
    assert folder == encoded
    for names in ("codec_output/*.bin", "codec_output/*.sha256", "features_pre_nn_part2/*.md5"):
        found = [{p.name: p.read_bytes() for p in f.glob(names)} for f in (whole, folder)]
        assert found[0] == found[1] and len(found[0]) == 3
    assert summary(whole)["end_accuracy"] == summary(folder)["end_accuracy"]
    assert float(summary(folder)["avg_bpp"]) == pytest.approx(float(summary(whole)["avg_bpp"]))


def test_pictures_of_the_proposal_and_its_macs(scenes):
    from harness_job import summary

    from vcm_plugin.diff_fchm.machine.codec import MachineCodec
    from vcm_plugin.environment import PACKAGE

    result, run = scenes.run_ours("diff_fchm")
    codec = MachineCodec(PACKAGE / "weights" / VFCN)
    accuracies = []
    for s, qp in zip(SCALES, (29, 44), strict=True):
        own = result.point(f"{s:g}")
        options = (f"++codec.encoder_config.rate_point={s}", *OURS, MD5, MAC)
        folder = scenes.run_harness("diff_fchm", *options)
        assert folder.name == f"qp{qp}" == f"qp{qp_of_scale(s)}"
        ours = files(run / f"{s:g}" / "bitstreams", "*.fcm")
        assert files(folder / "codec_output", "*.bin") == ours and len(ours) == 3
        dumped = files(folder / "features_pre_nn_part2", "*.md5")
        for image_id, data in ours.items():
            assert dumped[image_id].decode().strip() == md5_of(codec.decode(data))
        row = summary(folder)
        assert float(row["avg_bpp"]) == pytest.approx(own.bits / own.pixels, rel=1e-12)
        assert float(row["end_accuracy"]) == pytest.approx(own.accuracy["box_ap"], abs=0.01)
        accuracies.append(float(row["end_accuracy"]))
    assert accuracies[0] > accuracies[1]
    _check_macs(folder, codec, codec.decode(ours[min(ours)]))


@pytest.mark.parametrize(
    ("codec", "points", "overrides"),
    [
        ("vvc_feature", (30, 47), ()),
        ("diff_fchm", (0.7, 5.6), (OURS[0].replace(VFCN, "bccd_vfcn.safetensors"), OURS[1])),
    ],
)
def test_a_detector_of_detectron2s_own_training(cells, codec, points, overrides):
    from harness_job import summary

    result, run = cells.run_ours(codec)
    accuracies = []
    for rate_point in points:
        folder = cells.run_harness(
            codec, f"++codec.encoder_config.rate_point={rate_point}", *overrides
        )
        ours = files(run / f"{rate_point:g}" / "bitstreams", "*.fcm")
        assert files(folder / "codec_output", "*.bin") == ours and len(ours) == 5
        row, own = summary(folder), result.point(f"{rate_point:g}")
        assert float(row["avg_bpp"]) == pytest.approx(own.bits / own.pixels, rel=1e-12)
        assert float(row["end_accuracy"]) == pytest.approx(own.accuracy["box_ap"], abs=0.01)
        accuracies.append(float(row["end_accuracy"]))
    assert accuracies[0] > accuracies[1]


def _check_macs(folder, codec, features):
    """The harness divides by 3 * pixels of the padded input: it counts the samples of RGB."""
    with (folder / "evaluation" / "summary_complexity.csv").open() as file:
        (row,) = csv.DictReader(file)
    samples = 3 * 16 * features.layers["p2"][0].numel()
    counts = {
        "feature reduction": complexity.count(codec.encode, features, "1"),
        "feature restoration": complexity.count(codec.decode, codec.encode(features, "1")),
    }
    for name, macs in counts.items():
        assert float(row[name]) == pytest.approx(macs.total / 1e3 / samples, rel=1e-9)


def test_video_of_the_proposal(scenes):
    from harness_job import summary

    from vcm_plugin.bitstream import Timing
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec
    from vcm_plugin.environment import PACKAGE

    codec = MachineCodec(PACKAGE / "weights" / VFCN)
    result, _ = scenes.run_ours("diff_fchm")
    options = ("++codec.encoder_config.rate_point=4", *OURS, MD5, MSE, SHOWN, MAC)
    folder = scenes.run_harness("diff_fchm", *options, kind="video")
    (coded,) = (folder / "codec_output").glob("*.bin")
    ours = io.BytesIO()
    codec.encode_frames(pyramids(scenes), "4", Timing(3, (25, 1)), ours)
    assert coded.read_bytes() == ours.getvalue()
    dumped = sorted((folder / "features_pre_nn_part2").glob("*.md5"))
    for path, features in zip(dumped, codec.decode_frames(coded), strict=True):
        assert path.read_text().strip() == md5_of(features, qp=44)
    assert len(list((folder / "visualization").glob("*.jpg"))) == 3
    _check_macs(folder, codec, next(codec.decode_frames(coded)))
    row = summary(folder)
    assert float(row["inv_mse"]) > 0
    assert float(row["bitrate (kbps)"]) == pytest.approx(len(ours.getvalue()) * 8 * 25 / 3 / 1000)
    own = result.point("4").accuracy["box_ap"]
    assert float(row["end_accuracy"]) == pytest.approx(own, abs=0.01)


def test_video_of_the_proposal_with_inter_frames(scenes):
    from vcm_plugin.bitstream import FrameReader, Timing
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec
    from vcm_plugin.environment import PACKAGE

    names = (VFCN, "minictc_inter.safetensors", "minictc_importance.safetensors")
    weights = [PACKAGE / "weights" / name for name in names]
    codec = MachineCodec(weights[0], inter=weights[1], importance=weights[2])
    keys = ("diff_fchm_inter_weights", "diff_fchm_importance_weights")
    more = [f"++codec.encoder_config.{k}={path.name}" for k, path in zip(keys, weights[1:])]
    options = ("++codec.encoder_config.rate_point=4", *OURS, *more, "++codec.experiment=_INTER")
    folder = scenes.run_harness("diff_fchm", *options, MD5, kind="video")
    (coded,) = (folder / "codec_output").glob("*.bin")
    ours = io.BytesIO()
    codec.encode_frames(pyramids(scenes), "4", Timing(3, (25, 1)), ours)
    assert coded.read_bytes() == ours.getvalue()
    assert FrameReader.open(coded).kinds[0] == "machine"
    dumped = sorted((folder / "features_pre_nn_part2").glob("*.md5"))
    for path, features in zip(dumped, codec.decode_frames(coded), strict=True):
        assert path.read_text().strip() == md5_of(features, qp=44)


def test_video_of_the_feature_anchor_in_two_steps(scenes):
    from harness_job import summary

    from anchors.vvc_feature import VvcFeatureCodec
    from vcm_plugin.bitstream import Timing

    options = ("++codec.encoder_config.qp=37", RANGE)
    done = scenes.start_harness(
        "vvc_feature", *options, "++pipeline.codec.encode_only=True", kind="video"
    )
    assert done.returncode == 0, done.stderr
    folder = scenes.run_harness(
        "vvc_feature", *options, "++pipeline.codec.decode_only=True", kind="video"
    )
    (coded,) = (folder / "codec_output").glob("*.bin")
    ours = io.BytesIO()
    codec = VvcFeatureCodec(value_range=(-8.0, 8.0))
    codec.encode_frames(pyramids(scenes), "37", Timing(3, (25, 1)), ours)
    assert coded.read_bytes() == ours.getvalue()
    bitrate = len(ours.getvalue()) * 8 * 25 / 3 / 1000
    assert float(summary(folder)["bitrate (kbps)"]) == pytest.approx(bitrate)
    lines = coded.with_suffix(".latents.sha256").read_text().split()
    assert len(lines) == 3


def test_remote_inference_of_pictures(r50):
    from harness_job import summary

    result, run = r50.run_ours("vvc_remote")
    options = ("++codec.encoder_config.rate_point=32", "++codec.encoder_config.size=50")
    folder = r50.run_harness("vvc_remote", *options, pipeline="remote")
    assert folder.parts[-4] == "vvc_remote_50"
    ours = files(run / "32@50" / "bitstreams", "*.vvc")
    assert files(folder / "codec_output", "*.bin") == ours and len(ours) == 3
    row, own = summary(folder), result.point("32@50")
    assert float(row["avg_bpp"]) == pytest.approx(own.bits / own.pixels, rel=1e-12)
    assert float(row["end_accuracy"]) == pytest.approx(own.accuracy["box_ap"], abs=0.01)


def test_remote_inference_of_a_sequence(scenes):
    from harness_job import summary

    from anchors.vvc_remote import VvcRemoteCodec
    from vcm_plugin.bitstream import Timing
    from vcm_plugin.testsets.pictures import read_picture

    folder = scenes.run_harness(
        "vvc_remote", "++codec.encoder_config.rate_point=32", pipeline="remote", kind="video"
    )
    (coded,) = (folder / "codec_output").glob("*.bin")
    ours = io.BytesIO()
    pictures = map(read_picture, scenes.pictures)
    VvcRemoteCodec().encode_frames(pictures, "32", Timing(3, (25, 1)), ours)
    assert coded.read_bytes() == ours.getvalue()
    assert float(summary(folder)["bitrate (kbps)"]) == pytest.approx(
        len(ours.getvalue()) * 8 * 25 / 3 / 1000
    )


def test_packing_parity(r50):
    """Our packed picture is the harness's, sample by sample."""
    from compressai_vision.codecs.utils import FpnUtils, min_max_normalization
    from split_parity import drawn_scene

    from anchors import packing

    model = detector(r50)
    for number, size in enumerate(SIZES):
        layers = model.nn_part1(drawn_scene(*size, seed=number)).layers
        low, high = (float(f(torch.stack([f(x) for x in layers.values()]))) for f in (
            torch.amin, torch.amax))  # fmt: skip
        for value_range in ((low, high), (0.6 * low, 0.5 * high)):
            theirs = FpnUtils().reshape_feature_pyramid_to_frame(
                {name: x[None] for name, x in layers.items()}, packing_all_in_one=True
            )
            theirs, level = min_max_normalization(theirs, *value_range, bitdepth=10)
            ours = packing.pack({n: x.numpy() for n, x in layers.items()}, value_range)
            np.testing.assert_array_equal(ours, theirs[0].numpy().astype(np.uint16))
            assert packing.zero_level(value_range) == level


def adapter(name: str, dataset=None, layers=None, eval_encode="bpp", folder="", **encoder_config):
    """A codec as the harness makes it; layers: those that its vision model is split at."""
    from compressai_vision.registry import CODECS

    from vcm_plugin import compressai_vision

    compressai_vision.register()
    return CODECS[name](
        device="cpu", mac_computation=False, eval_encode=eval_encode,
        encoder_config=encoder_config, vision_model=SimpleNamespace(split_layer_list=layers or []),
        dataset=dataset, output_dir=str(folder), bitstream_name="job",
    )  # fmt: skip


def harness_input(features) -> dict:
    height, width = features.source_size
    return {
        "data": {name: layer[None] for name, layer in features.layers.items()},
        "org_input_size": {"height": height, "width": width},
        "input_size": [features.input_size],
    }


def test_the_hash_of_the_latents_does_not_depend_on_threads(scenes, tmp_path):
    codec = adapter(
        "diff_fchm", rate_point=1, qp=None, diff_fchm_weights=VFCN, diff_fchm_other_detector=True
    )
    coded, seconds, macs = codec.encode(
        harness_input(pyramids(scenes)[0]), tmp_path, "job", "img_id_1"
    )
    assert coded["bytes"] == [Path(coded["bitstream"]).stat().st_size] and macs is None
    assert list(seconds) == ["feature_reduction", "inner_codec"]
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        codec.decode(coded["bitstream"])
        found.append((tmp_path / "job-img_id_1.latents.sha256").read_text())
    torch.set_num_threads(1)
    assert found[0] == found[1] and len(found[0].strip()) == 64


def test_frames_are_views_and_are_not_kept(scenes):
    """What the codec sees of a frame is the harness's own memory."""
    from vcm_plugin.compressai_vision.codec import pyramids as frames_of

    features = pyramids(scenes)
    x = harness_input(features[0])
    x["data"] = {
        name: torch.stack([f.layers[name] for f in features]) for name in features[0].layers
    }
    for number, frame in enumerate(frames_of(x)):
        for name, layer in frame.layers.items():
            assert layer.data_ptr() == x["data"][name][number].data_ptr()
            assert torch.equal(layer, features[number].layers[name])


@pytest.mark.parametrize(
    ("codec", "config", "line"),
    [
        ("diff_fchm", {}, "expected one of rate_point and qp, found none"),
        ("diff_fchm", {"rate_point": 1, "qp": 32}, "expected one of rate_point and qp, found 1"),
        ("diff_fchm", {"qp": 32}, "diff_fchm_weights: expected weights"),
        ("diff_fchm", {"rate_point": 99}, "expected a scale s between"),
        ("vvc_feature", {"rate_point": 0.5}, "expected an integer QP, found 0.5"),
        ("vvc_feature", {"qp": 32, "vvc_feature_presett": "fast"}, "did you mean vvc_feature_p"),
        ("vvc_feature", {"qp": 32, "intra_period": 1}, "unknown key intra_period"),
    ],
)
def test_bad_settings_end_in_one_line(codec, config, line):
    with pytest.raises(SystemExit, match=line) as ended:
        adapter(codec, **config)
    assert str(ended.value).startswith("vcm-plugin: error: ") and "\n" not in str(ended.value)


def test_a_vision_model_split_elsewhere_is_refused_before_any_frame():
    for layers in (["c2", "c3", "c4", "c5"], ["r2"], [36, 61, 74], [105, 90, 75]):
        found = ", ".join(map(str, layers))
        with pytest.raises(SystemExit, match=rf"split point fpn\), found {found}; set split_point"):
            adapter(
                "diff_fchm", layers=layers, rate_point=1, diff_fchm_weights=VFCN,
                diff_fchm_other_detector=True,
            )  # fmt: skip


@pytest.mark.parametrize("split_point", ["jde_tvd", "jde_hieve"])
@pytest.mark.parametrize("name", ["vvc_feature", "diff_fchm"])
def test_the_layers_of_jde_make_the_same_file_as_in_our_runner(name, split_point, tmp_path):
    """They come under whole numbers, which the vision model says, too."""
    from pyramids import config, pyramid
    from vfcn_tiny import tiny_weights

    from anchors.vvc_feature import VvcFeatureCodec
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec

    features = pyramid(split_point)
    layers = [int(layer) for layer in features.layers]
    weights = tiny_weights(tmp_path, config(split_point))
    if name == "diff_fchm":
        settings = {"rate_point": 1, "diff_fchm_weights": str(weights)}
        settings["diff_fchm_other_detector"] = True
        wanted = MachineCodec(weights).encode(features, "1")
    else:
        settings = {"qp": 32, "vvc_feature_preset": "faster", "vvc_feature_range": [-9, 9]}
        wanted = VvcFeatureCodec("faster", (-9.0, 9.0)).encode(features, "32")
    codec = adapter(name, layers=layers, **settings)
    x = harness_input(features)
    x["data"] = {int(layer): values for layer, values in x["data"].items()}
    coded, _, _ = codec.encode(x, tmp_path, "job", "img_id_1")
    assert Path(coded["bitstream"]).read_bytes() == wanted
    decoded, _, _ = codec.decode(coded["bitstream"])
    assert decoded["input_size"] == [features.input_size]
    for found, layer in zip(decoded["data"].values(), features.layers.values(), strict=True):
        assert found[0].shape == layer.shape


def test_layers_of_no_known_network_are_refused_before_any_frame():
    with pytest.raises(SystemExit, match="expected the layers of one split point.* found fpn0, fp"):
        adapter("vvc_feature", layers=["fpn0", "fpn1", "fpn_pool"], qp=32)


def test_a_file_of_another_split_point_is_refused_by_name(r50, tmp_path):
    settings = {"qp": 32, "vvc_feature_preset": "faster", "vvc_feature_range": [-8, 8]}
    codec = adapter("vvc_feature", **settings)
    coded, _, _ = codec.encode(harness_input(pyramids(r50)[0]), tmp_path, "job", "img_id_1")
    for layers in (["c2", "c3", "c4", "c5"], ["r2"]):
        with pytest.raises(SystemExit, match="job-img_id_1.bin: expected features of " + layers[0]):
            adapter("vvc_feature", layers=layers, **settings).decode(coded["bitstream"])
    _, seconds, _ = adapter("vvc_feature", layers=["p2", "p3", "p4", "p5"], **settings).decode(
        coded["bitstream"]
    )
    assert list(seconds) == ["inner_codec", "conversion"], "in the order of the harness"
    Path(coded["bitstream"]).write_bytes(b"FCM damaged")
    with pytest.raises(SystemExit, match="error: .*job-img_id_1.bin: "):
        codec.decode(coded["bitstream"])


def test_other_settings_in_the_folder_of_one_integer_are_refused(tmp_path):
    from vfcn_tiny import pyramid

    settings = {"vvc_feature_preset": "faster", "vvc_feature_range": [-8, 8]}
    first = adapter("vvc_feature", folder=tmp_path / "qp32", qp=32, **settings)
    assert not (tmp_path / "qp32").exists(), "only results claim a folder"
    first.encode(harness_input(pyramid()), tmp_path / "qp32" / "codec_output", "job", "img_id_1")
    adapter("vvc_feature", folder=tmp_path / "qp32", rate_point=32, **settings)
    with pytest.raises(SystemExit, match="qp32 holds results of another .*codec.experiment"):
        other = settings | {"vvc_feature_range": [-9, 8]}
        adapter("vvc_feature", folder=tmp_path / "qp32", qp=32, **other)


def test_a_refused_rate_point_leaves_no_folder(tmp_path):
    """The harness has made the folder of its evaluation by then."""
    (tmp_path / "qp32" / "evaluation").mkdir(parents=True)
    with pytest.raises(SystemExit, match="expected one of faster, fast"):
        adapter("vvc_feature", folder=tmp_path / "qp32", qp=32, vvc_feature_preset="placebo")
    assert not (tmp_path / "qp32").exists()
    (tmp_path / "qp32" / "evaluation").mkdir(parents=True)
    (tmp_path / "qp32" / "summary.csv").write_text("")
    with pytest.raises(SystemExit, match="expected one of faster, fast"):
        adapter("vvc_feature", folder=tmp_path / "qp32", qp=32, vvc_feature_preset="placebo")
    assert (tmp_path / "qp32" / "summary.csv").is_file(), "what holds something stays"


def test_a_refused_rate_point_does_not_end_a_sweep(r50):
    """99 is no QP and `slowest` no preset: one of four points is left."""
    sweep = "++codec.encoder_config.vvc_feature_preset=slowest,faster"
    done = r50.start_harness(
        "vvc_feature", "++codec.encoder_config.rate_point=99,47", sweep,
        "++codec.experiment=_sweep", f"hydra.sweep.dir={r50.folder}/multirun", "--multirun",
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
    refusals = [line for line in done.stderr.splitlines() if line.startswith("vcm-plugin: error:")]
    assert len(refusals) == 4 and refusals[-1] in refusals[:3], refusals  # Hydra repeats the first
    (folder,) = (r50.folder / "harness" / "split-inference-image" / "vvc_feature_sweep").glob("*/*")
    assert [path.name for path in folder.iterdir()] == ["qp47"]
    assert (folder / "qp47" / "evaluation" / "summary.csv").is_file()


def test_columns_of_time_come_in_the_order_of_the_harness():
    from vcm_plugin.compressai_vision.contract import DECODE_COLUMNS, in_order

    given = {"conversion": 2.0, "hash": 1.0, "feature_restoration": 3.0, "inner_codec": 4.0}
    assert list(in_order(given, DECODE_COLUMNS)) == list(DECODE_COLUMNS)


def test_the_type_that_the_example_configurations_set_is_named():
    from vcm_plugin.compressai_vision.contract import folder_qp

    with pytest.raises(InputError, match=r"codec.type: .* found bypass: .*\+\+codec.type=NAME"):
        folder_qp("bypass", 0.5, None)


def test_a_sequence_needs_its_range_before_any_frame(tmp_path):
    from omegaconf import OmegaConf

    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nname=job\nseqLength=1\nframeRate=50\n")
    dataset = OmegaConf.create({"config": {"root": str(tmp_path), "seqinfo": "seqinfo.ini"}})
    with pytest.raises(SystemExit, match="vvc_feature_range: expected the range of the data set"):
        adapter(
            "vvc_feature", dataset, eval_encode="bitrate", qp=32, vvc_feature_preset="faster",
            vvc_feature_range="picture",
        )  # fmt: skip


def test_a_range_that_clips_everything_is_refused(r50, tmp_path):
    """As the harness's own table does for OIV6: its lower bound is the maximum of the data."""
    codec = adapter(
        "vvc_feature", qp=32, vvc_feature_preset="faster", vvc_feature_range=[20.2466, 28.3975]
    )
    with pytest.raises(SystemExit, match="100% of the features lie outside 20.2466 .. 28.3975"):
        codec.encode(harness_input(pyramids(r50)[0]), tmp_path, "job", "img_id_1")


def test_a_sequence_without_frame_rate_is_refused(r50, tmp_path):
    from omegaconf import OmegaConf

    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nname=job\nseqLength=1\n")
    dataset = OmegaConf.create({"config": {"root": str(tmp_path), "seqinfo": "seqinfo.ini"}})
    codec = adapter(
        "vvc_feature", dataset, qp=32, vvc_feature_preset="faster", vvc_feature_range=[-8, 8]
    )
    with pytest.raises(SystemExit, match=r"seqinfo.ini: expected frameRate in \[Sequence\]"):
        codec.encode(harness_input(pyramids(r50)[0]), tmp_path, "job")


def test_a_harness_with_another_contract_is_refused_in_one_line(monkeypatch):
    from compressai_vision.pipelines.base import BasePipeline

    def newer(self, codec, x, codec_output_dir, bitstream_name, filename, options=None):
        pass

    monkeypatch.setattr(BasePipeline, "_compress", newer)
    with pytest.raises(SystemExit, match=r"_compress takes \(.*options\), expected") as ended:
        adapter("vvc_feature", qp=32)
    assert "\n" not in str(ended.value) and "CompressAI-Vision" in str(ended.value)


def test_a_harness_without_the_registry_is_named(monkeypatch):
    from compressai_vision import registry

    from vcm_plugin import compressai_vision

    monkeypatch.delattr(registry, "register_codec")
    with pytest.raises(InputError, match="its registry has no register_codec"):
        compressai_vision.register()


def test_bad_input_ends_the_stock_command_with_one_line(r50):
    done = r50.start_harness("vvc_feature")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("vcm-plugin: error: codec.encoder_config: exp")
    assert "Traceback" not in done.stderr
    other = r50.start_harness("diff_fchm", "++codec.encoder_config.qp=32", OURS[0])
    assert other.returncode == 1 and "Traceback" not in other.stderr
    assert "was trained for a detector" in other.stderr.splitlines()[-1]


def test_the_contract_is_that_of_this_harness():
    from vcm_plugin.compressai_vision import ADAPTERS
    from vcm_plugin.compressai_vision.contract import check_contract

    check_contract()
    for answers in ADAPTERS.values():
        assert list(inspect.signature(answers.decode).parameters)[1] == "bitstream"
