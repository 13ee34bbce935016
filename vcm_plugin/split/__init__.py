# SPDX-License-Identifier: BSD-3-Clause
"""Which detector, in which runtime, cut at which split point."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vcm_plugin.errors import InputError
from vcm_plugin.split.checkpoint import read_checkpoint
from vcm_plugin.split.config import DetectorConfig, load_config, read_tree
from vcm_plugin.split.deferred import import_torchvision
from vcm_plugin.split.detections import Detections

import_torchvision()

from vcm_plugin.split.jde import JdeDetector  # noqa: E402
from vcm_plugin.split.jde_config import is_jde, load_jde_config  # noqa: E402
from vcm_plugin.split.torchvision import TorchvisionDetector  # noqa: E402

if TYPE_CHECKING:
    from vcm_plugin.split.detectron2 import Detectron2Detector

__all__ = ["Detections", "DetectorConfig", "detectron2_is_installed", "load_split_model"]

Runtime = Literal["auto", "detectron2", "torchvision"]


def load_split_model(
    detector: DetectorConfig | str | Path,
    weights: str | Path | None = None,
    split_point: str = "fpn",
    runtime: Runtime = "auto",
    device: str = "cpu",
) -> TorchvisionDetector | Detectron2Detector | JdeDetector:
    """A detector with nn_part1(picture) -> FeaturePyramid and nn_part2(features) -> Detections.

    detector: a Detectron2 YAML file, one of a JDE network, a DetectorConfig, or, where Detectron2
    is installed, a name of its model zoo. weights: a checkpoint file or, where Detectron2 is
    installed, a URL that it can fetch; without weights, MODEL.WEIGHTS of the file or the model
    zoo's own.
    runtime: "auto" takes Detectron2 where it is installed. Raises InputError for bad input.
    """
    if runtime not in ("auto", "detectron2", "torchvision"):
        raise InputError(f"runtime: expected auto, detectron2 or torchvision, found {runtime!r}")
    if not isinstance(detector, DetectorConfig) and is_jde(detector):
        if weights is None:
            raise InputError(f"{detector}: no weights given; name a checkpoint file of JDE")
        return JdeDetector(load_jde_config(detector), weights, split_point, device)
    if runtime == "auto":
        runtime = "detectron2" if detectron2_is_installed() else "torchvision"
    if runtime == "torchvision":
        config = detector if isinstance(detector, DetectorConfig) else load_config(_file(detector))
        checkpoint = read_checkpoint(_weights_path(detector, weights, _stated_weights(detector)))
        return TorchvisionDetector(config, checkpoint, split_point, device)
    d2 = _detectron2("runtime: detectron2")
    config = d2.read_config(detector)
    checkpoint = read_checkpoint(_weights_path(detector, weights, config.MODEL.WEIGHTS))
    return d2.Detectron2Detector(config, checkpoint, split_point, device)


def detectron2_is_installed() -> bool:
    """Whether Detectron2 can be found; it is not imported."""
    return importlib.util.find_spec("detectron2") is not None


def _file(detector: str | Path) -> Path:
    """The YAML file of a detector given as path or model-zoo name."""
    path = Path(detector).expanduser()
    if path.is_file():
        return path
    if path.is_absolute() or not detectron2_is_installed():
        raise InputError(
            f"{detector}: no such detector configuration; give a YAML file (names of the model zoo "
            "need Detectron2)"
        )
    return _detectron2(f"the model-zoo name {detector}").zoo_config(str(detector))


def _stated_weights(detector: DetectorConfig | str | Path) -> str:
    """MODEL.WEIGHTS of the YAML file of a detector."""
    path = Path() if isinstance(detector, DetectorConfig) else Path(detector).expanduser()
    section = read_tree(path).get("MODEL") if path.is_file() else None
    return str(section.get("WEIGHTS") or "") if isinstance(section, dict) else ""


def _weights_path(
    detector: DetectorConfig | str | Path, weights: str | Path | None, stated: str
) -> Path:
    """The checkpoint: the one given, the one stated in the YAML file, or the model zoo's own."""
    by_name = not isinstance(detector, DetectorConfig) and not Path(detector).expanduser().is_file()
    if weights is None and by_name:
        _file(detector)
        return _detectron2(f"the weights of {detector}").local_weights(None, str(detector))
    if weights is None and not isinstance(detector, DetectorConfig):
        weights = stated
        if weights and "://" not in weights:
            weights = Path(detector).expanduser().parent / weights
    if not weights:
        raise InputError(f"{detector}: no weights given; name a checkpoint file of this detector")
    if "://" in str(weights):
        return _detectron2(f"the weights {weights}").local_weights(str(weights), str(detector))
    return Path(weights).expanduser()


def _detectron2(purpose: str):
    """The Detectron2 side of this package; raises InputError where Detectron2 does not import."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to Detectron2's authors, not to the user
            return importlib.import_module("vcm_plugin.split.detectron2")
    except ImportError as error:
        raise InputError(
            f"{purpose}: needs Detectron2, which does not import here ({error}); install it, or "
            "use runtime: torchvision with local files"
        ) from error
