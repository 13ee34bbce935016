#!/usr/bin/env bash
# Sets up .venv, then runs the style check and the tests on all cores; arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "[test]"
.venv/bin/ruff check .
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # so that the processes do not take each other's cores
exec .venv/bin/python -m pytest -q -n auto --dist loadfile "$@"
