# SPDX-License-Identifier: BSD-3-Clause
"""How good, at how many bits, and how much better: one file for each measure."""
