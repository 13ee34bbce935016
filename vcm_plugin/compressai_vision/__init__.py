# SPDX-License-Identifier: BSD-3-Clause
"""How CompressAI-Vision finds our codecs and calls them; the one package that knows it.

The codecs are those of vcm_plugin.ctc.codecs, untouched: what they write inside the harness is,
byte for byte, what `vcm-plugin run` writes for the same features. vcm_plugin.hydra_plugins loads
this package there, cfg/compressai_vision configures it.
"""

from __future__ import annotations

import functools
import importlib

from vcm_plugin.compressai_vision.codec import RemoteCodec, SplitCodec
from vcm_plugin.compressai_vision.contract import expected_harness, one_line, resolved_qp
from vcm_plugin.errors import InputError
from vcm_plugin.split import detectron2_is_installed

ADAPTERS = {"diff_fchm": SplitCodec, "vvc_feature": SplitCodec, "vvc_remote": RemoteCodec}


def register() -> None:
    """Make the codecs known by their names; raises InputError where the harness has no registry."""
    from omegaconf import OmegaConf

    try:
        from compressai_vision.registry import register_codec
    except ImportError as error:
        raise InputError(
            f"{expected_harness()}: its registry has no register_codec ({error})"
        ) from error
    if detectron2_is_installed():
        importlib.import_module("vcm_plugin.split.detectron2")  # the backbone of our own detectors
    for name, adapter in ADAPTERS.items():
        register_codec(name)(functools.partial(adapter, name))
    OmegaConf.register_new_resolver("vcm_plugin_qp", one_line(resolved_qp), replace=True)
