# SPDX-License-Identifier: BSD-3-Clause
"""Cross-check: what a proponent sends, and whether it is true here."""
