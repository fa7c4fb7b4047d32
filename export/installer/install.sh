#!/bin/sh
# Installs edgetune from this folder: ./install.sh [PREFIX]   (default: ~/edgetune)
# Needs a Python and nothing else: no network, no root, no pip. PYTHON=... chooses which.
set -eu
python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
    echo "Error: there is no $python; install it (sudo apt-get install python3) or set PYTHON" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))'; then
    echo "Error: edgetune needs Python 3.9 or newer, $python is $("$python" -V 2>&1)." \
        "Set PYTHON to a newer one; on a Jetson Nano, whose own is 3.6, install one beside it" >&2
    exit 1
fi
exec "$python" -B "$(dirname "$0")/install.py" "$@"
