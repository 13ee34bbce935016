# SPDX-License-Identifier: BSD-3-Clause
"""What ran a result, where our own files lie, and how a run is made repeatable."""

from __future__ import annotations

import errno
import functools
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

import vcm_plugin
from vcm_plugin.errors import InputError, one_line

PACKAGE = Path(vcm_plugin.__file__).parent
# Folders of sources, by whether they can change a result (`code_sha256`). Those that cannot: what
# is typed, how results are shown and checked, how models are trained, how another harness calls the
# codecs. A test holds that every folder stands in one of the two. Modules at the top of the package
# and all of anchors/ are in results.
IN_RESULTS = ("bitstream", "ctc", "diff_fchm", "entropy", "metrics", "split", "testsets", "vvc")
NOT_IN_RESULTS = (
    "cli",
    "compressai_vision",
    "crosscheck",
    "hydra_plugins",
    "report",
    "training",
    "weights",
)


def make_deterministic(threads: int, seed: int = 0) -> None:
    """Fix all that makes torch and numpy repeatable: thread count, algorithms, seeds.

    Float results depend on the thread count, so it is part of the test condition.
    """
    import numpy as np
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports the compiler
    # Nothing here reads memory before it is written; filling it takes a tenth of a codec's time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(seed)
    np.random.seed(seed)


def require_device(device: str) -> None:
    """Raise InputError where torch does not have this device here."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"device {device}: expected one that torch has here: {reason}") from error


def describe(device: str) -> dict[str, str]:
    """Versions and device that a result depends on; nothing in it names a host."""
    described = {"vcm_plugin": vcm_plugin.__version__, "code_sha256": code_sha256()}
    described |= {name: version(name) for name in ("torch", "torchvision", "numpy", "pillow")}
    described |= {"pycocotools": version("pycocotools"), "python": platform.python_version()}
    return described | {"device": describe_device(device)}


def describe_device(device: str) -> str:
    """The device by its kind, for instance "cpu x86_64 AVX512"."""
    import torch

    if device.startswith("cuda"):
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def version(distribution: str) -> str:
    """Version of an installed package without its local label, or "not installed"."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def code_sha256() -> str:
    """sha256 over the sources that a result depends on: the same in a checkout and a wheel."""
    digest = hashlib.sha256()
    for package in (PACKAGE, PACKAGE.parent / "anchors"):
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).parts
            if parts[1] not in NOT_IN_RESULTS:
                digest.update("/".join(parts).encode() + path.read_bytes())
    return digest.hexdigest()


def commit() -> str:
    """Commit of the checkout, "" outside one; code_sha256 also sees changes after it."""
    git = PACKAGE.parent / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        if (git / reference).is_file():
            return (git / reference).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {reference}")), "")
    except OSError:
        return ""


def cfg_folder() -> Path:
    """The folder of the test conditions and models: in the installed package or the checkout."""
    installed = PACKAGE / "cfg"
    return installed if installed.is_dir() else PACKAGE.parent / "cfg"


def cache_folder() -> Path:
    """Where drawn test sets and features are kept: VCM_CACHE, or the user's cache folder.

    It is made where it is missing. Raises InputError, which names VCM_CACHE, where that cannot be.
    """
    try:
        folder = _cache_path()
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows a home folder
        reason = getattr(error, "strerror", None) or one_line(error)
        where = "the cache folder" if isinstance(error, RuntimeError) else str(folder)
        raise InputError(
            f"{where}: expected a folder to keep drawn pictures and features in, found: {reason}; "
            "name one that can be written with VCM_CACHE"
        ) from error
    return folder


def _cache_path() -> Path:
    if os.environ.get("VCM_CACHE"):
        return Path(os.environ["VCM_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vcm-plugin"
