# SPDX-License-Identifier: BSD-3-Clause
"""How a codec of ours answers the calls of CompressAI-Vision's pipelines."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vcm_plugin import conditions, environment
from vcm_plugin.bitstream import Timing
from vcm_plugin.compressai_vision.contract import (
    DECODE_COLUMNS,
    ENCODE_COLUMNS,
    check_contract,
    claim_folder,
    folder_qp,
    in_order,
    leaving_no_folder,
    named_rate_point,
    naming,
    one_line,
    require_folder,
)
from vcm_plugin.ctc import codecs, complexity
from vcm_plugin.ctc.complexity import Macs
from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.files import write_bytes
from vcm_plugin.rate_points import show
from vcm_plugin.split_points import split_point_of
from vcm_plugin.stages import collected, stage
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.testsets.sequences import read_seqinfo

RATE_KEYS = ("rate_point", "qp", "size")
COUNTED = {"reduction": "encode", "restoration": "decode_frame"}  # stage -> method of diff_fchm
MOST = 0.5  # of the features; a range that clips so many is that of other data
log = logging.getLogger("vcm_plugin")


class HarnessCodec:
    """What the codecs of both pipelines share: settings, file names, stage times.

    The constructor takes the keys of the codec's YAML file, the vision model and the data set.
    """

    @one_line
    @leaving_no_folder
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
        output_dir: str = "",
        **_: Any,  # what the harness reads of its own: bitstream_name, experiment ...
    ):
        check_contract()
        if eval_encode not in ("bpp", "bitrate"):
            raise InputError(f"codec.eval_encode: expected bpp or bitrate, found {eval_encode!r}")
        if vcm_mode is True:
            raise InputError(
                "codec.vcm_mode: expected False, since the codecs are none of VCM-RS, found True; "
                "leave it out"
            )
        self.name, self.dataset = name, dataset
        self.eval_encode_type = eval_encode
        self.mac_computation = mac_computation
        self.macs: dict[tuple, Macs] = {}  # by stage and shapes of the layers
        rate_point, qp = (encoder_config.get(key) for key in RATE_KEYS[:2])
        self.rate_point = named_rate_point(name, rate_point, qp)
        self.qp_value = folder_qp(name, rate_point, qp)
        self.rate_point = show(self.rate_point, encoder_config.get("size", 100))
        codecs.settings_class(name).grammar.parse(self.rate_point)
        self.codec = _codec(name, encoder_config, detector)
        if name == "diff_fchm":
            environment.require_device(device)
            self.codec.to(device)
        self.layers = [str(x) for x in getattr(vision_model, "split_layer_list", None) or ()]
        self._check_before_the_first_frame()
        self.output_dir = Path(output_dir) if output_dir else None
        if self.output_dir:
            require_folder(self.output_dir, self._settings())

    def _settings(self) -> dict[str, Any]:
        """What determines the bitstreams, and with them the table of a folder."""
        return {"rate_point": self.rate_point, **self.codec.identity()}

    def _check_before_the_first_frame(self) -> None:
        """Refuse what can be seen to fail before NN-Part1 has made the features of all frames."""
        if self.eval_encode_type == "bitrate":
            self._frame_rate()
            if self.name == "vvc_feature" and self.codec.value_range is None:
                raise InputError(
                    "codec.encoder_config.vvc_feature_range: expected the range of the data set, "
                    "which a sequence has one of, found none"
                )

    def _write(
        self, frames: Iterable[Any], file: Path, timing: Timing | None
    ) -> tuple[dict, dict[str, float]]:
        """Code frames into a file: a picture, or a sequence where there is a timing."""
        if self.output_dir:  # not before there is a result: what is refused claims nothing
            claim_folder(self.output_dir, self._settings())
        file.parent.mkdir(parents=True, exist_ok=True)
        with collected() as seconds:
            if timing is None:
                (frame,) = frames
                write_bytes(file, self.codec.encode(frame, self.rate_point))
                sizes = [file.stat().st_size]
            else:
                draft = file.with_suffix(".part")
                with draft.open("wb") as opened:
                    sizes = self.codec.encode_frames(frames, self.rate_point, timing, opened)
                draft.replace(file)
        return {"bytes": sizes, "bitstream": str(file)}, in_order(seconds, ENCODE_COLUMNS)

    def _timing(self, frames: int, file_prefix: str) -> Timing | None:
        """None in the picture pipelines, which name every file after its picture."""
        return None if file_prefix else Timing(frames, self._frame_rate())

    def _frame_rate(self) -> tuple[int, int]:
        """Of the sequence, as (numerator, denominator)."""
        config = self.dataset.config
        return read_seqinfo(Path(config.root) / config.seqinfo)[1]


class SplitCodec(HarnessCodec):
    """Features -> file -> features, in the split-inference pipelines."""

    def _check_before_the_first_frame(self) -> None:
        super()._check_before_the_first_frame()
        if not self.layers:  # a vision model that does not say
            return
        split_point_of(self.layers)
        if self.name == "diff_fchm":
            self.codec.require_layers(self.layers)

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
        self._require_range(next(pyramids(x)))
        coded, seconds = self._write(pyramids(x), file, timing)
        if not self.mac_computation:
            return coded, seconds, None
        first = next(pyramids(x))
        return coded, seconds, self._macs(first, "reduction", file, first, self.rate_point)

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
        with naming(file), collected() as seconds:
            for features, digest in self._decoded(file):
                frames.append(features)
                hashes.append(digest)
                self._require_layers(features)
        write_bytes(file.with_suffix(".latents.sha256"), "\n".join([*hashes, ""]).encode())
        first = frames[0]
        macs = self._macs(first, "restoration", file, file, 0) if self.mac_computation else None
        layers = {
            number: [frame.layers[name] for frame in frames]
            for number, name in enumerate(first.layers)
        }
        height, width = first.source_size
        sizes = {
            "org_input_size": {"height": height, "width": width},
            "input_size": [first.input_size],
        }
        return {"data": layers, **sizes}, in_order(seconds, DECODE_COLUMNS), macs

    def _decoded(self, file: Path) -> Iterator[tuple[FeaturePyramid, str]]:
        """Each frame and the hash of what was entropy-decoded for it."""
        if self.name == "diff_fchm":
            for layer in self.codec.read_layers(file):
                yield self.codec.synthesise(layer), latents_sha256(vars(layer.latents))
        else:  # its samples are integers, and numpy alone makes floats of them
            for features in self.codec.decode_frames(file):
                arrays = {name: x.numpy() for name, x in features.layers.items()}
                yield features, latents_sha256(arrays)

    def _require_layers(self, features: FeaturePyramid) -> None:
        """Refuse a file of another split point than that of the vision model."""
        if self.layers and list(features.layers) != self.layers:
            raise InputError(
                f"expected features of {', '.join(self.layers)}, where the vision model is split, "
                f"found {', '.join(features.layers)}; give the splits that the file was coded at"
            )

    def _require_range(self, features: FeaturePyramid) -> None:
        """Refuse a range of a data set that most features lie outside of: all would be clipped."""
        value_range = getattr(self.codec, "value_range", None)
        if value_range is None:
            return
        low, high = value_range
        outside = [((x < low) | (x > high)).sum().item() for x in features.layers.values()]
        share = sum(outside) / sum(x.numel() for x in features.layers.values())
        if share > MOST:
            raise InputError(
                f"codec.encoder_config.vvc_feature_range: {share:.0%} of the features lie outside "
                f"{low:g} .. {high:g}: expected the range of this data set and detector, or picture"
            )

    def _macs(
        self, features: FeaturePyramid, which: str, file: Path, *arguments: Any
    ) -> tuple[float, int]:
        """kMAC of one frame, and the pixels of the network input; arguments: of COUNTED[which]."""
        pixels = math.prod(features.input_size)
        if self.name != "diff_fchm":
            log.warning("%s has no network: its arithmetic is not in the table of MACs", self.name)
            return 0.0, pixels
        shapes = tuple(tuple(x.shape) for x in features.layers.values())
        if (which, shapes) not in self.macs:
            self.macs[which, shapes] = _counted(getattr(self.codec, COUNTED[which]), arguments)
        macs = self.macs[which, shapes]
        for operation, times in macs.unknown.items():
            log.warning(
                "MACs of %s: %s, %d times, has no known count; the table says nan",
                which, operation, times,
            )  # fmt: skip
        counts = {"macs": dict(macs.by_operation), "without a count": dict(macs.unknown)}
        text = json.dumps(counts, indent=1, sort_keys=True)
        write_bytes(file.with_suffix(f".{which}.json"), (text + "\n").encode())
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
        with naming(file), collected() as seconds:
            for number, picture in enumerate(self.codec.decode_frames(file)):
                names.append(str(folder / f"{number:06d}.png"))
                Image.fromarray(picture).save(names[-1])
                hashes.append(latents_sha256({"rgb": picture}))
        write_bytes(file.with_suffix(".latents.sha256"), "\n".join([*hashes, ""]).encode())
        return {"file_names": names}, in_order(seconds, DECODE_COLUMNS), None

    def _require_remote(self, remote_inference: bool) -> None:
        if not remote_inference:
            raise InputError(
                f"{self.name} codes pictures: run it with compressai-remote-inference, or the "
                "codec vvc_feature with compressai-split-inference"
            )


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


@stage("hash")
def latents_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and values (32 bits each, little-endian; pictures 8)."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        kind = {"i": "<i4", "f": "<f4", "u": "u1"}[array.dtype.kind]
        digest.update(f"{name} {kind} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, kind).tobytes())
    return digest.hexdigest()


def _codec(name: str, encoder_config: Mapping[str, Any], detector: str | None) -> Any:
    """The codec of our runner: encoder_config holds the keys that a test condition has for it."""
    settings = {k: v for k, v in encoder_config.items() if k not in RATE_KEYS and v is not None}
    if detector is not None:
        if detector.startswith("default/"):  # the harness's own word for its checkout
            root = Path(importlib.import_module("compressai_vision").__file__).parents[1]
            detector = str(root / detector.removeprefix("default/"))
        settings["weights"] = detector
    required = {"name": "codec.encoder_config", "model": "", "class_names": [], "tasks": []}
    where = "codec.encoder_config"
    condition = codecs.check_keys(conditions.build(required | settings, Path(where)), where)
    return codecs.make_codec(name, condition)


def _counted(function: Callable, arguments: tuple) -> Macs:
    try:
        return complexity.count(function, *arguments)
    except ImportError as error:
        raise InputError(
            f"codec.mac_computation needs fvcore ({error}): pip install fvcore"
        ) from error
