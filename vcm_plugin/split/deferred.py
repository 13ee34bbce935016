# SPDX-License-Identifier: BSD-3-Clause
"""How torchvision is imported without the compiler of torch, a third of the start of a command.

torchvision.ops.roi_align imports torch._dynamo.utils, and with it all of the compiler, for one
function that it calls on GPUs alone. While torchvision is imported, a module of that name stands
there that imports the compiler when that function is called, or anything else is asked of it.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

_COMPILER = "torch._dynamo.utils"


def import_torchvision() -> None:
    """Import torchvision, so that later imports of it find it."""
    import torch  # noqa: F401  first: what it imports itself is none of ours

    if _COMPILER in sys.modules or "torchvision" in sys.modules:
        return
    stand_in = types.ModuleType(_COMPILER)
    stand_in.is_compile_supported = lambda device: _compiler().is_compile_supported(device)
    stand_in.__getattr__ = _asked
    sys.modules[_COMPILER] = stand_in
    try:
        import torchvision.ops  # noqa: F401
    finally:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]


def _asked(name: str) -> Any:
    """Another attribute of the module."""
    if name.startswith("__"):  # what the import system looks for
        raise AttributeError(name)
    return getattr(_compiler(), name)


def _compiler() -> types.ModuleType:
    """The module itself."""
    if not hasattr(sys.modules.get(_COMPILER), "__file__"):
        sys.modules.pop(_COMPILER, None)
    return importlib.import_module(_COMPILER)
