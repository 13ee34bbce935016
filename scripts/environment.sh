# Sourced by demo.sh and test.sh: makes .venv if there is none and installs the project into it.
# $1: what to install after ".", for instance "[test]".
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "vcm-plugin: expected python3 of version 3.10 or newer, found: $(python3 --version 2>&1 | head -n 1)" >&2
    exit 2
fi
[ -x .venv/bin/python ] || python3 -m venv .venv
# A second run installs nothing, so that it also works without a network.
stamp=".venv/installed$1"
if ! [ "$stamp" -nt setup.py ]; then
    echo "installing into .venv; the first time this takes some minutes, most of it PyTorch" >&2
    .venv/bin/python -m pip install --quiet -e ".$1"
    touch "$stamp"
fi
