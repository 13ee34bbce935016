#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Decode 22,000 mutated .fcm files (2,000 of them of the bundled weights), half of them with their
# CRCs recomputed, and 20,000 with a mutated human layer; some minutes.
cd "$(dirname "$0")/.." || exit 1
ulimit -v 8388608  # KiB: a file that makes the decoder allocate more fails the test
VCM_MUTATIONS="${1:-20000}" exec python -m pytest -q -k mutated \
  tests/diff_fchm/test_machine_codec.py tests/diff_fchm/test_human_codec.py \
  tests/diff_fchm/test_auxiliary_picture.py
