#!/bin/sh
# Make the controller's virtual environment: tools/venv.sh controller|dev
# Nothing is done when the locks, the interpreter and the place are those of the last successful run.
set -eu

group=${1:-controller}
cd "$(dirname "$0")/.."
root=$(pwd -P)
venv=$root/.venv
locks=$root/requirements

die() {
    echo "venv: $*" >&2
    exit 1
}

stamp_of() {
    { printf '%s\n' "$root"; sha256sum "$locks/$1.txt" "$locks/uv.txt" "$root/tools/venv.sh"; } | sha256sum | cut -d' ' -f1
}

is_current() {
    [ -x "$venv/bin/ansible-playbook" ] && [ -e "$venv/bin/python3" ] \
        && [ "$(cat "$venv/.stamp-$1" 2>/dev/null || true)" = "$(stamp_of "$1")" ]
}

if is_current "$group"; then
    exit 0
fi

# Several makes may ask at once: one builds, the others wait and then find it current.
if [ -z "${VERL_BAREMETAL_VENV_LOCKED:-}" ] && command -v flock >/dev/null 2>&1; then
    mkdir -p "$root/.tree"
    exec env VERL_BAREMETAL_VENV_LOCKED=1 flock "$root/.tree/.venv.lock" sh "$root/tools/venv.sh" "$group"
fi

usable() {
    "$1" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' >/dev/null 2>&1
}

python=
for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.13 /usr/bin/python3}; do
    if command -v "$candidate" >/dev/null 2>&1 && usable "$candidate"; then
        python=$(command -v "$candidate")
        break
    fi
done
[ -n "$python" ] || die "no Python 3.11, 3.12 or 3.13 found (looked for: ${PYTHON:-python3, python3.11 to 3.13});" \
    "the controller needs one. Install it, or name it: make venv PYTHON=/path/to/python3.11"

if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "venv: Python $version has no ensurepip: installing the package python$version-venv"
        apt-get update -qq || true
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "python$version-venv" ca-certificates >/dev/null
    else
        die "Python $version has no ensurepip, which a virtual environment needs." \
            "Install it (Debian, Ubuntu: apt-get install python$version-venv) and run this again"
    fi
fi

if ! "$venv/bin/python3" -c 'import pip' >/dev/null 2>&1 || [ "$(cat "$venv/.place" 2>/dev/null || true)" != "$root" ]; then
    echo "venv: making .venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    printf '%s\n' "$root" >"$venv/.place"
fi
rm -f "$venv/.stamp-controller" "$venv/.stamp-$group"

# Companies (and some test machines) put their own certificate authority before the index: a file that one client was told of
# serves both, and without any uv takes the system's instead of the list that it brings along.
if [ -z "${SSL_CERT_FILE:-}" ] && [ -n "${PIP_CERT:-}" ]; then
    SSL_CERT_FILE=$PIP_CERT
    export SSL_CERT_FILE
elif [ -z "${PIP_CERT:-}" ] && [ -n "${SSL_CERT_FILE:-}" ]; then
    PIP_CERT=$SSL_CERT_FILE
    export PIP_CERT
fi
system_certs=
for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
    [ ! -s "$file" ] || system_certs=--system-certs
done

if ! "$venv/bin/uv" --version 2>/dev/null | grep -qF "uv $(sed -n 's/^uv==\([^ ]*\).*/\1/p' "$locks/uv.txt") "; then
    echo "venv: installing uv"
    # Machine-wide constraints and extra folders of wheels have no say in a hashed lock.
    PIP_CONSTRAINT='' PIP_FIND_LINKS='' PIP_DISABLE_PIP_VERSION_CHECK=1 \
        "$venv/bin/python3" -m pip install --quiet --no-deps --require-hashes --only-binary :all: -r "$locks/uv.txt"
fi

# uv does not read pip's configuration: a mirror that the machine has configured for pip is handed on.
if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
    index=${PIP_INDEX_URL:-$("$venv/bin/python3" -m pip config get global.index-url 2>/dev/null || true)}
    if [ -n "$index" ]; then
        UV_DEFAULT_INDEX=$index
        export UV_DEFAULT_INDEX
    fi
fi

echo "venv: installing the $group tools (requirements/$group.txt)"
# shellcheck disable=SC2086 # empty where there is no system list
"$venv/bin/uv" pip install $system_certs --quiet --no-config --no-deps --require-hashes \
    --python "$venv/bin/python3" -r "$locks/$group.txt"

stamp_of "$group" >"$venv/.stamp-$group"
# The developers' lock holds the controller's (a test compares them).
[ "$group" = controller ] || stamp_of controller >"$venv/.stamp-controller"
