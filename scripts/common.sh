# Shared by scripts/demo, scripts/test and scripts/bench. POSIX sh; sourced with the project's root as working directory.
# Makes .venv with this checkout in it, and installs what is missing through apt when that is possible.

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# need_packages PACKAGE…: install Debian packages, or say exactly what to install.
need_packages() {
    [ $# -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing with apt: $*"
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 || {
            apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "$@" >/dev/null
        } || die "cannot install $*"
    else
        die "please install: $* (as root: apt-get install $*)"
    fi
}

# find_python: sets PYTHON to an interpreter >= 3.11 that can make virtual environments.
find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || continue
        PYTHON=$candidate
        "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || need_packages python3-venv
        return 0
    done
    need_packages python3 python3-venv
    PYTHON=python3
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "pystack needs Python 3.11 or newer"
}

# make_venv [EXTRA]: .venv with this checkout, made anew when pyproject.toml or the extra has changed.
make_venv() {
    extra=${1:-}
    stamp="$(cksum <pyproject.toml) $extra $(pwd)"
    if [ ! -f .venv/stamp ] || [ "$(cat .venv/stamp)" != "$stamp" ]; then
        find_python
        say "making .venv with $PYTHON"
        "$PYTHON" -m venv .venv || die "cannot make .venv"
        .venv/bin/python -m pip install -q --disable-pip-version-check -e ".${extra:+[$extra]}" 2>.venv/pip.log ||
            { cat .venv/pip.log >&2; die "cannot install the dependencies"; }
        printf '%s' "$stamp" >.venv/stamp
    fi
    [ -e /usr/lib/"$(uname -m)"-linux-gnu/libnftables.so.1 ] || ldconfig -p 2>/dev/null | grep -q libnftables.so.1 ||
        command -v nft >/dev/null 2>&1 || need_packages libnftables1
}
