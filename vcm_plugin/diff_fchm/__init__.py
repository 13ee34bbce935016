# SPDX-License-Identifier: BSD-3-Clause
"""The proposal Diff-FCHM: the machine layer (VFCN, IVN) and the human layer (HVCN) on top of it."""
