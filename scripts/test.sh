#!/usr/bin/env bash
# Sets up .venv, then runs the style check and the tests; arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "[test]"
.venv/bin/ruff check .
exec .venv/bin/python -m pytest -q "$@"
