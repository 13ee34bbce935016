# SPDX-License-Identifier: BSD-3-Clause
"""Which pictures or sequences, and which ground truth: the test sets and their one opener."""
