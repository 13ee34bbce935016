# SPDX-License-Identifier: BSD-3-Clause
"""The command line: parser and body of each command of `vcm-plugin`."""
