# SPDX-License-Identifier: BSD-3-Clause
"""How CompressAI-Vision calls our codecs: its codec contract, and nothing else of it.

The codecs are those of vcm_plugin.codecs, untouched: what they write inside the harness is, byte
for byte, what `vcm-plugin run` writes for the same features. This is the one file that knows the
harness; vcm_plugin.hydra_plugins loads it there, cfg/compressai_vision configures it.
"""

from __future__ import annotations

import configparser
import functools
import hashlib
import importlib
import inspect
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vcm_plugin import codecs, conditions, environment, ivn, results
from vcm_plugin.bitstream import Timing
from vcm_plugin.datasets import read_picture
from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split import detectron2_is_installed
from vcm_plugin.stages import collected

KNOWN_VERSION = "1.1.14"  # of CompressAI-Vision, that this file was tested with
# What its pipelines hand to a codec, read off the functions that do it.
CONTRACT = {
    "_compress": "self codec x codec_output_dir bitstream_name filename remote_inference",
    "_decompress": "self codec bitstream codec_output_dir filename org_img_size remote_inference "
    "vcm_mode output10b",
}
RATE_KEYS = ("rate_point", "qp", "size")
log = logging.getLogger("vcm_plugin")


def one_line(function: Callable) -> Callable:
    """The function, ending the program with one line on bad input, as our command line does.

    The harness catches no InputError: Hydra would print a trace.
    """

    @functools.wraps(function)
    def ending(*arguments, **named):
        try:
            return function(*arguments, **named)
        except InputError as error:
            raise SystemExit(f"vcm-plugin: error: {error}") from error

    return ending


# --- being found ------------------------------------------------------------------------------


def register() -> None:
    """Make the codecs known by their names; raises InputError where the harness has no registry."""
    from omegaconf import OmegaConf

    try:
        from compressai_vision.registry import register_codec
    except ImportError as error:
        raise InputError(
            f"{_expected_harness()}: its registry has no register_codec ({error})"
        ) from error
    if detectron2_is_installed():
        importlib.import_module("vcm_plugin.split.detectron2")  # the backbone of our own detectors
    for name, adapter in ADAPTERS.items():
        register_codec(name)(functools.partial(adapter, name))
    OmegaConf.register_new_resolver("vcm_plugin_qp", one_line(folder_qp), replace=True)


def check_contract() -> None:
    """Raise InputError where the harness calls a codec in another way than this file answers."""
    from compressai_vision.pipelines.base import BasePipeline

    for name, expected in CONTRACT.items():
        method = getattr(BasePipeline, name, None)
        found = "nothing" if method is None else " ".join(inspect.signature(method).parameters)
        if found != expected:
            raise InputError(
                f"{_expected_harness()}: {name} takes ({found}), expected ({expected})"
            )


def folder_qp(codec: str, rate_point: Any, qp: Any) -> int:
    """The integer that the harness names a folder by; the higher, the fewer bits.

    It is the QP of VVC; for diff_fchm 32 + 6 log2 s (ivn.qp_of_scale).
    """
    point = named_rate_point(codec, rate_point, qp)
    return ivn.qp_of_scale(float(point)) if codec == "diff_fchm" else int(point)


def named_rate_point(codec: str, rate_point: Any, qp: Any) -> str:
    """The rate point of the configuration, which gives it itself or by its integer."""
    if (rate_point is None) == (qp is None):
        found = "none" if qp is None else f"{rate_point} and {qp}"
        raise InputError(
            f"codec.encoder_config: expected one of rate_point and qp, found {found}; give "
            "++codec.encoder_config.rate_point=..."
        )
    given = qp if rate_point is None else rate_point
    scale = codec == "diff_fchm" and qp is None
    if not scale and not isinstance(given, int):
        raise InputError(f"codec.encoder_config: expected an integer QP, found {given!r}")
    point = ivn.scale_of_qp(qp) if codec == "diff_fchm" and not scale else str(given)
    codecs.codec_entry(codec).check(point)
    return point


# --- what the harness calls -------------------------------------------------------------------


class HarnessCodec:
    """What the codecs of both pipelines share: settings, file names, stage times.

    The constructor takes the keys of the codec's YAML file, the vision model and the data set.
    """

    @one_line
    def __init__(
        self,
        name: str,
        *,
        encoder_config: Mapping[str, Any],
        eval_encode: str,
        vision_model: Any,
        dataset: Any,
        device: str = "cpu",
        mac_computation: bool = False,
        vcm_mode: Any = False,
        detector: str | None = None,
        **_: Any,  # what the harness reads of its own: output_dir, bitstream_name, experiment ...
    ):
        check_contract()
        if eval_encode not in ("bpp", "bitrate"):
            raise InputError(f"codec.eval_encode: expected bpp or bitrate, found {eval_encode!r}")
        if vcm_mode is True:
            raise InputError("codec.vcm_mode: expected False, the codecs are none of VCM-RS")
        self.name, self.dataset = name, dataset
        self.eval_encode_type = eval_encode
        self.mac_computation = mac_computation
        rate_point, qp = (encoder_config.get(key) for key in RATE_KEYS[:2])
        self.rate_point = named_rate_point(name, rate_point, qp)
        self.qp_value = folder_qp(name, rate_point, qp)
        if encoder_config.get("size", 100) != 100:
            self.rate_point += f"@{encoder_config['size']}"
        self.codec = _codec(name, encoder_config, detector)
        if name == "diff_fchm":
            environment.require_device(device)
            self.codec.to(device)

    def _write(
        self, frames: Iterable[Any], file: Path, timing: Timing | None
    ) -> tuple[dict, dict[str, float]]:
        """Code frames into a file: a picture, or a sequence where there is a timing."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with collected() as seconds:
            if timing is None:
                (frame,) = frames
                results.write_bytes(file, self.codec.encode(frame, self.rate_point))
                sizes = [file.stat().st_size]
            else:
                with file.open("wb") as opened:
                    sizes = self.codec.encode_frames(frames, self.rate_point, timing, opened)
        return {"bytes": sizes, "bitstream": str(file)}, seconds

    def _timing(self, frames: int, file_prefix: str) -> Timing | None:
        """None in the picture pipelines, which name every file after its picture."""
        return None if file_prefix else Timing(frames, frame_rate(self.dataset))


class SplitCodec(HarnessCodec):
    """Features -> file -> features, in the split-inference pipelines."""

    @one_line
    def encode(
        self,
        x: Mapping[str, Any],
        codec_output_dir: str | Path = "",
        bitstream_name: str = "",
        file_prefix: str = "",
        remote_inference: bool = False,
    ) -> tuple[dict, dict[str, float], tuple[float, int] | None]:
        """Code the features of one picture, or of all frames of a sequence one after the other."""
        if remote_inference:
            raise InputError(
                f"{self.name} codes features: run it with compressai-split-inference, or the "
                "codec vvc_remote with compressai-remote-inference"
            )
        file = bitstream_path(codec_output_dir, bitstream_name, file_prefix)
        frames = len(next(iter(x["data"].values())))
        timing = self._timing(frames, file_prefix)
        coded, seconds = self._write(pyramids(x), file, timing)
        macs = self._macs(next(pyramids(x)), "reduction", file) if self.mac_computation else None
        return coded, seconds, macs

    @one_line
    def decode(
        self,
        bitstream: str | Path,
        codec_output_dir: str | Path = "",
        file_prefix: str = "",
        org_img_size: Mapping[str, int] | None = None,
        remote_inference: bool = False,
        vcm_mode: Any = False,
        output10b: Any = False,
    ) -> tuple[dict, dict[str, float], tuple[float, int] | None]:
        """The features of a file, and the sizes that the file states.

        Layers are numbered, as the harness counts their arithmetic by number, and each is a list
        of frames (C, h, w), which both pipelines take and nothing has to be copied for.
        """
        del codec_output_dir, file_prefix, org_img_size, remote_inference, vcm_mode, output10b
        file = Path(bitstream)
        frames, hashes = [], []
        with collected() as seconds:
            for features, digest in self._decoded(file):
                frames.append(features)
                hashes.append(digest)
        results.write_bytes(file.with_suffix(".latents.sha256"), "\n".join([*hashes, ""]).encode())
        first = frames[0]
        macs = self._macs(first, "restoration", file) if self.mac_computation else None
        layers = {
            number: [frame.layers[name] for frame in frames]
            for number, name in enumerate(first.layers)
        }
        height, width = first.source_size
        sizes = {
            "org_input_size": {"height": height, "width": width},
            "input_size": [first.input_size],
        }
        return {"data": layers, **sizes}, seconds, macs

    def _decoded(self, file: Path) -> Iterator[tuple[FeaturePyramid, str]]:
        """Each frame and the hash of what was entropy-decoded for it."""
        if self.name == "diff_fchm":
            for layer in self.codec.read_layers(file):
                yield self.codec.synthesise(layer), latents_sha256(vars(layer.latents))
        else:  # its samples are integers, and numpy alone makes floats of them
            for features in self.codec.decode_frames(file):
                arrays = {name: x.numpy() for name, x in features.layers.items()}
                yield features, latents_sha256(arrays)

    def _macs(self, features: FeaturePyramid, which: str, file: Path) -> tuple[float, int]:
        """kMAC of the networks for one frame and the pixels of the network input."""
        pixels = math.prod(features.input_size)
        if self.name != "diff_fchm":
            log.warning("%s has no network: its arithmetic is not in the table of MACs", self.name)
            return 0.0, pixels
        shapes = tuple((name, tuple(x.shape)) for name, x in features.layers.items())
        macs = _counted(self.codec, which, shapes)
        for operation, times in macs.unknown.items():
            log.warning(
                "MACs of %s: %s, %d times, has no known count; the table says nan",
                which, operation, times,
            )  # fmt: skip
        counts = {"macs": dict(macs.by_operation), "without a count": dict(macs.unknown)}
        text = json.dumps(counts, indent=1, sort_keys=True)
        results.write_bytes(file.with_suffix(f".{which}.json"), (text + "\n").encode())
        return macs.total / 1e3, pixels


class RemoteCodec(HarnessCodec):
    """Picture files -> file -> PNG files, in the remote-inference pipelines."""

    @one_line
    def encode(
        self,
        x: Mapping[str, Any],
        codec_output_dir: str | Path = "",
        bitstream_name: str = "",
        file_prefix: str = "",
        remote_inference: bool = False,
    ) -> tuple[dict, dict[str, float], None]:
        """Code the picture files that the harness names."""
        self._require_remote(remote_inference)
        names = x["file_names"][x.get("frame_skip", 0) : x.get("last_frame")]
        file = bitstream_path(codec_output_dir, bitstream_name, file_prefix)
        pictures = (read_picture(Path(name)) for name in names)
        coded, seconds = self._write(pictures, file, self._timing(len(names), file_prefix))
        return coded, seconds, None

    @one_line
    def decode(
        self,
        bitstream: str | Path,
        codec_output_dir: str | Path = "",
        file_prefix: str = "",
        org_img_size: Mapping[str, int] | None = None,
        remote_inference: bool = False,
        vcm_mode: Any = False,
        output10b: Any = False,
    ) -> tuple[dict, dict[str, float], None]:
        """Write a PNG file for each picture of a file, and name them."""
        del file_prefix, org_img_size, vcm_mode, output10b
        self._require_remote(remote_inference)
        file = Path(bitstream)
        folder = Path(codec_output_dir) / f"{file.stem}_dec"
        folder.mkdir(parents=True, exist_ok=True)
        names, hashes = [], []
        with collected() as seconds:
            for number, picture in enumerate(self.codec.decode_frames(file)):
                names.append(str(folder / f"{number:06d}.png"))
                Image.fromarray(picture).save(names[-1])
                hashes.append(latents_sha256({"rgb": picture}))
        results.write_bytes(file.with_suffix(".latents.sha256"), "\n".join([*hashes, ""]).encode())
        return {"file_names": names}, seconds, None

    def _require_remote(self, remote_inference: bool) -> None:
        if not remote_inference:
            raise InputError(
                f"{self.name} codes pictures: run it with compressai-remote-inference, or the "
                "codec vvc_feature with compressai-split-inference"
            )


# --- what they are made of --------------------------------------------------------------------


def pyramids(x: Mapping[str, Any]) -> Iterator[FeaturePyramid]:
    """The features of each frame, views into the harness's tensors (N, C, h, w)."""
    size = x["org_input_size"]
    found = {str(layer.dtype) for layer in x["data"].values()}
    if found != {"torch.float32"}:
        raise InputError(
            f"pipeline.datatype: expected float32 features, found {', '.join(sorted(found))}"
        )
    input_size = tuple(int(n) for n in x["input_size"][0])
    for frame in range(len(next(iter(x["data"].values())))):
        layers = {str(name): layer[frame].cpu() for name, layer in x["data"].items()}
        yield FeaturePyramid(layers, (size["height"], size["width"]), input_size)


def bitstream_path(folder: str | Path, name: str, file_prefix: str) -> Path:
    """Where the decode-only mode looks: <name>-<prefix>.bin for a picture, <name>.bin else."""
    return (
        Path(folder) / f"{name}-{file_prefix}.bin" if file_prefix else Path(folder, f"{name}.bin")
    )


def latents_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and values (32 bits each, little-endian; pictures 8)."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        kind = {"i": "<i4", "f": "<f4", "u": "u1"}[array.dtype.kind]
        digest.update(f"{name} {kind} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, kind).tobytes())
    return digest.hexdigest()


def frame_rate(dataset: Any) -> tuple[int, int]:
    """Frames per second of a sequence as (numerator, denominator), from its seqinfo.ini."""
    path = Path(dataset.config.root) / dataset.config.seqinfo
    parser = configparser.ConfigParser()
    try:
        parser.read_string(path.read_text())
        rate = Fraction(parser["Sequence"]["frameRate"])
    except (OSError, KeyError, ValueError, configparser.Error) as error:
        raise InputError(
            f"{path}: expected a section [Sequence] with a frameRate, found none ({error!r})"
        ) from error
    return rate.numerator, rate.denominator


def _codec(name: str, encoder_config: Mapping[str, Any], detector: str | None) -> Any:
    """The codec of our runner: encoder_config holds the keys that a test condition has for it."""
    settings = {k: v for k, v in encoder_config.items() if k not in RATE_KEYS and v is not None}
    if detector is not None:
        root = Path(inspect.getfile(_harness())).parents[1]
        settings["weights"] = detector.replace("default/", f"{root}/", 1)
    required = {"name": "codec.encoder_config", "model": "", "class_names": [], "tasks": []}
    condition = conditions.build(required | settings, Path("codec.encoder_config"))
    return codecs.codec_entry(name).make(condition)


@functools.cache
def _counted(codec: Any, which: str, shapes: tuple) -> Any:
    try:
        from vcm_plugin import complexity
    except ImportError as error:
        raise InputError(
            f"codec.mac_computation needs fvcore ({error}): pip install vcm-plugin[harness]"
        ) from error
    count = {"reduction": complexity.count_reduction, "restoration": complexity.count_restoration}
    return count[which](codec, dict(shapes))


def _harness() -> Any:
    import compressai_vision

    return compressai_vision


def _expected_harness() -> str:
    found = environment.version("compressai-vision")
    return (
        f"expected CompressAI-Vision {KNOWN_VERSION} or one with the same codec contract, found "
        f"{found}"
    )


ADAPTERS = {"diff_fchm": SplitCodec, "vvc_feature": SplitCodec, "vvc_remote": RemoteCodec}
