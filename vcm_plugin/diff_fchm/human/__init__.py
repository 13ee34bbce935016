# SPDX-License-Identifier: BSD-3-Clause
"""HVCN, the human layer: a picture painted from machine features and a small substream."""
