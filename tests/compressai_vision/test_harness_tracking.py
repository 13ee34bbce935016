# SPDX-License-Identifier: BSD-3-Clause
"""Do tracks of HiEve and TVD, inside the real CompressAI-Vision, come out as in our own runner?

Its stock command of split inference, with JDE as its authors wrote it, the narrow network of the
mini-CTC tracking set in JDE's whole input, and our installed wheel. Runs with -m harness where its
JDE is importable and NumPy is 1: its metrics call what NumPy 2 has no more.
"""

import csv
import importlib.util
import io
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jde_tiny
import numpy as np
import pytest
import torch
from drawn_tracking import SETS
from PIL import Image
from vfcn_tiny import CONFIG, tiny_weights

from vcm_plugin.bitstream import Timing
from vcm_plugin.conditions import TestCondition, bundled_weights, with_values
from vcm_plugin.ctc.codecs import load_condition, make_codec
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.environment import cfg_folder
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split.jde import JdeDetector
from vcm_plugin.split.jde_config import load_jde_config
from vcm_plugin.split_points import SPLIT_POINTS
from vcm_plugin.testsets.minictc_tracking import draw_sequence
from vcm_plugin.testsets.pictures import read_picture

MISSING = [
    name
    for name in ("compressai_vision", "jde", "cython_bbox", "cv2", "motmetrics")
    if importlib.util.find_spec(name) is None
]
pytestmark = [
    pytest.mark.harness,
    pytest.mark.skipif(bool(MISSING), reason=f"not importable: {', '.join(MISSING)}"),
    pytest.mark.skipif(np.__version__ >= "2", reason="motmetrics 1.4 needs NumPy 1"),
]
FRAMES, SIZE = 6, (608, 1088)  # the harness takes no other input
OURS = load_jde_config(cfg_folder() / "models" / "minictc_jde.yaml")
# Decoding and tracker as the harness has them, in the widths and with the anchors of our weights.
MODEL = replace(
    jde_tiny.FULL, stem=OURS.stem, stages=OURS.stages, embedding=OURS.embedding,
    anchors=OURS.anchors,
)  # fmt: skip
CATALOGS = {"hieve": ("MPEGHIEVE", "HIEVE"), "tvd_tracking": ("MPEGTVDTRACKING", "TVD")}
# cython_bbox of PyPI takes 64-bit floats only; the build that the harness asks for takes 32.
COMMAND = """
import numpy as np
from jde.tracker import matching
bbox_ious = matching.bbox_ious
matching.bbox_ious = lambda a, b: bbox_ious(a.astype(np.float64), b.astype(np.float64))
from compressai_vision.run.eval_split_inference import main
main()
"""


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    from harness_job import install

    return install(wheel, tmp_path_factory.mktemp("site"))


@dataclass(frozen=True)
class Job:
    """One sequence below `root` in the layout of its set, with network and weights; settings: of
    the codec, for the harness."""

    root: Path
    name: str
    codec: str
    point: str
    condition: TestCondition
    settings: dict

    @property
    def folder(self) -> Path:
        (sequence,) = self.condition.sequences
        return self.root / SETS[self.name][0] / sequence.rpartition("/")[2]

    @property
    def layers(self) -> list[int]:
        return [int(layer) for layer in SPLIT_POINTS[self.condition.split_point]]

    def encode(self, features: list[FeaturePyramid]) -> bytes:
        coded, timing = io.BytesIO(), Timing(len(features), (30, 1))
        codec = make_codec(self.codec, self.condition)
        codec.encode_frames(iter(features), self.point, timing, coded)
        return coded.getvalue()


@pytest.mark.parametrize(
    ("name", "codec", "point", "least"),
    [("tvd_tracking", "diff_fchm", "1", 20.0), ("hieve", "vvc_feature", "27", 0.0)],
)
@pytest.mark.usefixtures("own_cache")
def test_a_sequence_is_coded_and_tracked_as_in_our_runner(
    name, codec, point, least, site, tmp_path
):
    job = drawn(tmp_path, name, codec, point)
    result = run(job.condition, codec, tmp_path / "run", RunOptions(data_root=tmp_path))
    out = run_harness(job, site)
    (coded,) = (out / "codec_output").glob("*.bin")
    assert coded.read_bytes() == job.encode(their_features(job))
    with (out / "evaluation" / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    mota = result.points[0].accuracy["mota"]
    assert float(row["end_accuracy"]) == pytest.approx(mota / 100.0, abs=1e-4)
    assert least <= mota < 100.0


def test_hieve_is_coded_by_the_proposal(site, tmp_path):
    """Random weights, as none are trained for its layers: nothing could be tracked behind them."""
    job = drawn(tmp_path, "hieve", "diff_fchm", "1")
    out = run_harness(job, site, "++pipeline.codec.encode_only=True")
    (coded,) = (out / "codec_output").glob("*.bin")
    features = their_features(job)
    assert coded.read_bytes() == job.encode(features)
    decoded = list(make_codec("diff_fchm", job.condition).decode_frames(coded))
    for found, source in zip(decoded, features, strict=True):
        assert [x.shape for x in found.layers.values()] == [x.shape for x in source.layers.values()]


def drawn(root: Path, name: str, codec: str, point: str) -> Job:
    """The tracker of the mini-CTC, and frames of its set in the middle of JDE's whole input."""
    made = load_condition(name)
    jde_tiny.write_cfg(MODEL, root / "drawn.cfg")
    weights = shutil.copy(bundled_weights("minictc_jde.pth"), root / "drawn.pt")
    detector = JdeDetector(MODEL, weights, made.split_point)
    if codec == "vvc_feature":
        values = {"vvc_feature_range": (-40.0, 60.0), "vvc_feature_qps": (int(point),)}
        settings = {"vvc_feature_range": "[-40,60]", "vvc_feature_preset": "faster"}
    elif name == "hieve":
        channels = MODEL.sizes().channels(made.split_point)
        sizes = replace(CONFIG, split_point=made.split_point, layer_channels=channels)
        tiny = tiny_weights(root, sizes, detector=detector.weights_sha256)
        settings = {"diff_fchm_weights": tiny}
        values = {"diff_fchm_scales": (float(point),)}
    else:
        settings = {
            "diff_fchm_weights": "minictc_jde_vfcn.safetensors",
            "diff_fchm_inter_weights": "minictc_jde_inter.safetensors",
        }
        values = {"diff_fchm_scales": (float(point),)}
    if codec == "diff_fchm":
        values |= {key: str(value) for key, value in settings.items()}
        settings["diff_fchm_other_detector"] = True
    values |= {
        "model": str(jde_tiny.write_model(MODEL, root / "drawn.yaml")),
        "weights": str(weights), "sequences": made.sequences[:1], "sequence_frames": (),
    }  # fmt: skip
    job = Job(root, name, codec, point, with_values(made, values), settings)
    write_sequence(job.folder)
    return job


def write_sequence(folder: Path) -> None:
    (folder / "img1").mkdir(parents=True)
    (folder / "gt").mkdir()
    lines = []
    for number, (picture, objects) in enumerate(draw_sequence("val", 2, FRAMES), start=1):
        canvas = np.full((*SIZE, 3), 127, np.uint8)
        top, left = (SIZE[0] - picture.shape[0]) // 2, (SIZE[1] - picture.shape[1]) // 2
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        Image.fromarray(canvas).save(folder / "img1" / f"{number:06d}.png")
        for thing in objects:
            x, y, width, height = thing.box
            box = f"{x + left + 1},{y + top + 1},{width},{height}"
            lines.append(f"{number},{thing.identity},{box},1,1,1\n")
    (folder / "gt" / "gt.txt").write_text("".join(lines))
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate=30\nseqLength={FRAMES}\n"
        f"imWidth={SIZE[1]}\nimHeight={SIZE[0]}\nimExt=.png\n"
    )


def their_features(job: Job) -> list[FeaturePyramid]:
    """What the harness's network makes of the frames."""
    from compressai_vision.model_wrappers.jde import jde_1088x608
    from jde.utils.datasets import letterbox

    network = jde_1088x608(
        "cpu", model_path_prefix=str(job.root), cfg="drawn.cfg", weights="drawn.pt",
        integer_conv_weight=False, splits=job.layers,
    )  # fmt: skip
    found = []
    for path in sorted((job.folder / "img1").iterdir()):
        bgr = np.ascontiguousarray(read_picture(path)[:, :, ::-1])
        canvas, *_ = letterbox(bgr, height=608, width=1088)
        canvas = np.ascontiguousarray(canvas[:, :, ::-1].transpose(2, 0, 1), np.float32)
        x = {"image": torch.from_numpy(canvas) / 255.0, "height": SIZE[0], "width": SIZE[1]}
        layers = network.input_to_features([x], "cpu")["data"]
        layers = {str(number): layers[number][0].clone() for number in job.layers}
        found.append(FeaturePyramid(layers, SIZE, (608, 1088)))
    return found


def run_harness(job: Job, site: Path, *more: str) -> Path:
    """The stock command over the sequence: the folder of its rate point."""
    catalog, evaluator = CATALOGS[job.name]
    model, config = "++vision_model.jde_1088x608", "++dataset.config"
    words = [
        "--config-name=eval_split_inference_example.yaml",
        "++pipeline.type=video",
        f"++paths._run_root={job.root / 'harness'}",
        "++vision_model.arch=jde_1088x608",
        f"{model}.model_path_prefix={job.root}",
        f"{model}.cfg=drawn.cfg",
        f"{model}.weights=drawn.pt",
        f"{model}.splits={job.layers}",
        "++dataset.type=TrackingDataset",
        f"++dataset.datacatalog={catalog}",
        "++dataset.settings.patch_size=[608,1088]",
        f"{config}.root={job.folder}",
        f"{config}.imgs_folder=img1",
        f"{config}.annotation_file=gt/gt.txt",
        f"{config}.dataset_name=mpeg-{job.folder.name}",
        "++dataset.loader.num_workers=0",
        f"++evaluator.type=MOT-{evaluator}-EVAL",
        "++misc.device.nn_parts=cpu",
        f"codec={job.codec}",
        f"++codec.type={job.codec}",
        "++codec.eval_encode=bitrate",
        *more,
    ]
    for key, value in {**job.settings, "rate_point": job.point}.items():
        words.append(f"++codec.encoder_config.{key}={value}")
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words],
        capture_output=True, text=True, cwd=job.root, env=environment(site),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    (out,) = (job.root / "harness" / "split-inference-video").glob(f"{job.codec}*/{catalog}/*/qp*")
    return out


def environment(site: Path) -> dict[str, str]:
    """As a user of the installed wheel, with the JDE and the NumPy that this process has."""
    paths = [str(site), *map(folder_of, ("jde", "cython_bbox", "numpy"))]
    own = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return {"USER": "tests"} | own


def folder_of(name: str) -> str:
    """Where Python finds a package or a module."""
    spec = importlib.util.find_spec(name)
    inside = spec.submodule_search_locations
    return str(Path(inside[0] if inside else spec.origin).parent)
