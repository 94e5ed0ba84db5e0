#!/bin/sh
# Makes the virtual environment from the committed pins, or leaves a current one alone.
#
# usage: tools/setup.sh VENV [PYTHON]
#
# Current means: the stamp in it names the same pins, the same place and the same interpreter.
# An environment that this script did not make is never touched.
set -eu

venv=$1
stamp=$venv/made-by-make-setup

suits() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    for candidate in ${1:-python3.11 python3.12 python3.13 python3}; do
        if suits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11, 3.12 or 3.13 with venv found (tried: ${1:-python3.11 python3.12 python3.13 python3})" >&2
    echo "hint: install one (Debian: python3-venv) or name it: make setup PYTHON=/path/to/python3" >&2
    exit 1
}

# Two lines: what the packages depend on, and what only our own installation depends on.
pins() {
    { "$1" -c 'import sys; print(sys.version)'; pwd; cat requirements.lock constraints.txt; } | git hash-object --stdin
    git hash-object --no-filters pyproject.toml
}

python=$(find_python "${2:-}")
wanted=$(pins "$python")

if [ -e "$venv" ] && [ ! -e "$stamp" ]; then
    echo "error: $venv exists and was not made by make setup; it is left as it is" >&2
    echo "hint: move it away, or choose another place: make setup VENV=.venv-llmrun" >&2
    exit 1
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet --quiet "$@"; }
# setuptools comes from the lock: building needs no network.
install_llmrun() { pip install --no-deps --no-build-isolation -e .; }

found=$(cat "$stamp" 2>/dev/null || true)
if [ "$(echo "$found" | head -n 1)" != "$(echo "$wanted" | head -n 1)" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    started=$(date +%s)
    echo "setup: $venv with $("$python" -V), from requirements.lock and constraints.txt" >&2
    "$python" -m venv --clear "$venv"
    echo unfinished >"$stamp"
    # The lock names every package but torch, so nothing is resolved here: --no-deps.
    pip install --no-deps --require-hashes -r requirements.lock
    # torch's own wheel differs from machine to machine (CPU, CUDA): its version is pinned, its hash is not.
    pip install -c constraints.txt torch
    install_llmrun
    echo "$wanted" >"$stamp"
    echo "setup: done in $(($(date +%s) - started)) s" >&2
elif [ "$found" != "$wanted" ]; then
    install_llmrun
    echo "$wanted" >"$stamp"
fi

# Byte code also where PYTHONDONTWRITEBYTECODE is set: it halves the start-up of every command.
# (A file that does not compile is for lint to report.)
"$venv/bin/python" -m compileall -qq llmrun || true
