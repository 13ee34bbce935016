# SPDX-License-Identifier: BSD-3-Clause
"""Entropy coding by integer networks: what makes a file decode alike on every machine."""
