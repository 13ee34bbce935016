#!/usr/bin/env bash
# From a fresh clone to an RD table, a plot and a BD-rate: sets up .venv, then `vcm-plugin demo`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "[report]"
exec .venv/bin/vcm-plugin demo "$@"
