# SPDX-License-Identifier: BSD-3-Clause
"""vcm-plugin: the feature codec Diff-FCHM, its VVC anchors and the common test conditions."""

__version__ = "0.1.0"
