# SPDX-License-Identifier: BSD-3-Clause
"""How the human layer is trained: samples, stages and recipe."""
