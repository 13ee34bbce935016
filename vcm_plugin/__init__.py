# SPDX-License-Identifier: BSD-3-Clause
"""vcm-plugin: the feature codec Diff-FCHM, its VVC anchors and the common test conditions.

    import vcm_plugin as vcm

    condition = vcm.load_condition("minictc")
    detector, codec = vcm.load_detector(condition), vcm.load_codec("diff_fchm", condition)
    features = detector.nn_part1(vcm.read_picture("street.jpg"))
    data = codec.encode(features, "1.4")
    detections = detector.nn_part2(codec.decode(data))

The names below are imported when they are asked for (PEP 562), so that importing the package
costs nothing and what does without torch never waits for it.
"""

import importlib

__version__ = "0.2.0"

# Name -> the module that holds it.
_HOMES = {
    "FeaturePyramid": "vcm_plugin.features",
    "InputError": "vcm_plugin.errors",
    "BitstreamError": "vcm_plugin.errors",
    "RunOptions": "vcm_plugin.ctc.run",
    "bd_rate": "vcm_plugin.metrics.bd_rate",
    "load_codec": "vcm_plugin.ctc.codecs",
    "load_condition": "vcm_plugin.ctc.codecs",
    "load_detector": "vcm_plugin.ctc.detector",
    "read_picture": "vcm_plugin.testsets.pictures",
    "run": "vcm_plugin.ctc.run",
    "write_report": "vcm_plugin.report",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
