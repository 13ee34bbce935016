#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Decode 22,000 mutated .fcm files (2,000 of them of the bundled weights), half of them with their CRCs
# recomputed; some minutes.
cd "$(dirname "$0")/.." || exit 1
ulimit -v 8388608  # KiB: a file that makes the decoder allocate more fails the test
VCM_MUTATIONS="${1:-20000}" exec python -m pytest -q tests/test_machine_codec.py -k mutated
