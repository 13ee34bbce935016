# Sourced by demo.sh and test.sh: makes .venv if there is none and installs the project into it.
# $1: what to install after ".", for instance "[test]".
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The range of setup.py: newer ones have no wheel of NumPy 1, which CompressAI wants.
for python in python3 python3.12 python3.11 python3.10 ""; do
    if "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
        break
    fi
done
if [ -z "$python" ]; then
    echo "vcm-plugin: expected python3 of version 3.10 to 3.12, found: $(python3 --version 2>&1 | head -n 1)" >&2
    exit 2
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
# A second run installs nothing, so that it also works without a network.
stamp=".venv/installed$1"
if ! [ "$stamp" -nt setup.py ]; then
    echo "installing into .venv; the first time this takes some minutes, most of it PyTorch" >&2
    .venv/bin/python -m pip install --quiet -e ".$1"
    touch "$stamp"
fi
