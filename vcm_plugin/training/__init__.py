# SPDX-License-Identifier: BSD-3-Clause
"""Training of everything the project trains itself."""
