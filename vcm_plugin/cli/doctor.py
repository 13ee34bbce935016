# SPDX-License-Identifier: BSD-3-Clause
"""What is installed here, what each missing thing disables, and how to get it: one screen."""

from __future__ import annotations

import importlib.util
import os
import platform
from argparse import Namespace
from collections.abc import Iterator

import yaml

import vcm_plugin
from vcm_plugin.cli.common import conditions_of_weights
from vcm_plugin.cli.options import command
from vcm_plugin.environment import PACKAGE, cache_folder, version
from vcm_plugin.errors import InputError
from vcm_plugin.process import usable_cpus


def add(commands) -> None:
    """The parser of the command."""
    parser = command(commands, "doctor", "what is installed, and what each missing thing disables")
    parser.set_defaults(body=body)


def body(_: Namespace) -> None:
    """What is installed and what each missing thing disables."""
    for finding in examine():
        print(finding)


def examine() -> Iterator[str]:
    """The findings, one line each, "ok" or "--" first; a missing thing has a second line."""
    yield f"ok  vcm-plugin     {vcm_plugin.__version__}, Python {platform.python_version()}"
    for check in (
        _torch,
        _detectron2,
        _vvenc,
        _ffmpeg_filters,
        _perceptual_networks,
        _vtm,
        _documents,
        _arithmetic,
        _weights,
        _cache,
    ):
        yield from check()


def _found(name: str, text: str) -> Iterator[str]:
    yield f"ok  {name:<14} {text}"


def _missing(name: str, text: str, disables: str, repair: str) -> Iterator[str]:
    yield f"--  {name:<14} {text}"
    yield f"    {'':<14} disables {disables}; {repair}"


def _torch() -> Iterator[str]:
    try:
        import torch
    except ImportError as error:
        yield from _missing(
            "torch", str(error), "everything but info and report", "pip install torch"
        )
        return
    devices = [f"cpu with {usable_cpus()} cores"]
    for number in range(torch.cuda.device_count()):
        devices.append(f"cuda:{number} {torch.cuda.get_device_name(number)}")
    versions = [f"{version('torch')}, torchvision {version('torchvision')}"]
    compiled = importlib.util.find_spec("numba") is not None
    versions += [f"numba {version('numba')}"] * compiled
    yield from _found("torch", f"{', '.join(versions)}; {', '.join(devices)}")
    if not compiled:
        yield from _missing(
            "numba",
            "not installed: the entropy coder is not compiled; files are the same",
            "fast coding (it takes some forty times as long)",
            "pip install numba",
        )


def _detectron2() -> Iterator[str]:
    if importlib.util.find_spec("detectron2"):
        yield from _found("Detectron2", version("detectron2"))
        return
    yield from _missing(
        "Detectron2",
        "not installed: detectors run on torchvision, with the same weights and results",
        "runtime: detectron2 and model-zoo names",
        "docs/compressai_vision.md says how to build it",
    )


def _vvenc() -> Iterator[str]:
    from vcm_plugin.process import ffmpeg_program
    from vcm_plugin.vvc import vvenc_versions

    repair = "pip install 'imageio-ffmpeg>=0.8', or IMAGEIO_FFMPEG_EXE=<ffmpeg with libvvenc>"
    try:
        versions = vvenc_versions()
    except InputError as error:
        yield from _missing("VVC in FFmpeg", str(error), "vvc_feature and vvc_remote", repair)
        return
    words = ", ".join(f"{name} {value}" for name, value in versions.items())
    yield from _found("VVC in FFmpeg", words)
    decoders = _ffmpeg(ffmpeg_program(), "-decoders")
    if " vvc " in decoders:
        yield from _found("VVC decoder", "FFmpeg's own")
    else:
        yield from _missing("VVC decoder", "not in this FFmpeg", "decoding", repair)


def _ffmpeg_filters() -> Iterator[str]:
    from vcm_plugin.process import ffmpeg_program

    try:
        filters = _ffmpeg(ffmpeg_program(), "-filters")
    except InputError:
        return  # said already
    if " libvmaf " in filters:
        yield from _found("VMAF", "libvmaf in FFmpeg")
        return
    yield from _missing(
        "VMAF", "no libvmaf in this FFmpeg", "VMAF", "use an FFmpeg that has libvmaf"
    )


def _perceptual_networks() -> Iterator[str]:
    """The networks of LPIPS, DISTS, FID and KID, which are used where their files are here."""
    from vcm_plugin.metrics.pictures import NETWORK_FILES, missing_network_files

    makers = {"lpips": "piq.LPIPS()", "dists": "piq.DISTS()", "fid": "InceptionV3()"}
    titles = {"lpips": "LPIPS", "dists": "DISTS", "fid": "FID and KID"}
    for name, files in NETWORK_FILES.items():
        missing = missing_network_files(name)
        if not missing:
            yield from _found(titles[name], f"{', '.join(files)} of torch.hub")
            continue
        modules = (
            "from piq.feature_extractors import InceptionV3" if name == "fid" else "import piq"
        )
        yield from _missing(
            titles[name],
            f"no {', '.join(missing)} in torch.hub's folder of checkpoints",
            f"{titles[name]} of human vision",
            f'run once where there is a network: python -c "{modules}; {makers[name]}"',
        )


def _ffmpeg(program: str, option: str) -> str:
    from vcm_plugin.process import run

    return run([program, "-hide_banner", option]).stdout.decode("utf-8", "replace")


def _vtm() -> Iterator[str]:
    from vcm_plugin.vvc import vtm_setup

    unset = [name for name in vtm_setup.VTM_PATHS if not os.environ.get(name)]
    words = f"{', '.join(unset)} not set"
    if not unset:
        encoder, decoder, config = vtm_setup.paths()
        try:
            found = vtm_setup.version(encoder, decoder, config, None)
        except InputError as error:
            words = str(error)
        else:
            yield from _found("VTM", f"{found}, {encoder}; configurations: {config}")
            return
    repair = "set them to VTM's EncoderAppStatic, DecoderAppStatic and folder cfg"
    yield from _missing("VTM", words, "vtm_feature and vtm_remote", repair)


def _documents() -> Iterator[str]:
    names = ("xlsxwriter", "python-docx")
    versions = {name: version(name) for name in names}
    absent = [name for name in names if versions[name] == "not installed"]
    if absent:
        yield from _missing(
            "documents",
            f"{', '.join(absent)} not installed",
            "reports as xlsx and docx, proposals and cross-checks",
            "pip install '.[report]'",
        )
        return
    yield from _found("documents", ", ".join(f"{n} {v}" for n, v in versions.items()))


def _arithmetic() -> Iterator[str]:
    found = version("fvcore")
    if found == "not installed":
        yield from _missing(
            "fvcore", found, "the count of multiply-accumulates", "pip install fvcore"
        )
        return
    yield from _found("fvcore", found)


def _weights() -> Iterator[str]:
    """The bundled checkpoints, each compared with its sha256 in the index."""
    from vcm_plugin.weights_file import digest

    folder = PACKAGE / "weights"
    repair = "install vcm-plugin again"
    for name, entry in yaml.safe_load((folder / "index.yaml").read_text()).items():
        disables = f"the conditions that name {name}"
        try:
            found, _ = digest(folder / name)
        except OSError as error:
            yield from _missing("weights", f"{name}: {error.strerror}", disables, repair)
            continue
        if found == entry["sha256"]:
            names = conditions_of_weights(entry["id"])
            used = f", --condition {names[0]}" if names else ""
            yield from _found("weights", f"{name}, id {entry['id']}{used}")
        else:
            yield from _missing("weights", f"{name}: not the file of the index", disables, repair)


def _cache() -> Iterator[str]:
    try:
        folder = cache_folder()
    except InputError as error:
        yield from _missing("cache", str(error), "drawn test sets and kept features", "see above")
        return
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield from _found("cache", f"{folder}, {size / 1e6:.0f} MB; VCM_CACHE moves it")
