# SPDX-License-Identifier: BSD-3-Clause
"""Which detector, in which runtime, cut at which split point."""
