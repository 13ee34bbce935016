# SPDX-License-Identifier: BSD-3-Clause
"""Which codecs a proposal is compared with: anchors built on a real VVC encoder and decoder."""
