# SPDX-License-Identifier: BSD-3-Clause
"""The machine layer of Diff-FCHM: VFCN, whose rate IVN varies."""
