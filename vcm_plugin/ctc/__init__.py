# SPDX-License-Identifier: BSD-3-Clause
"""The test: one codec over a test condition, from source to file to decoded to accuracy."""
