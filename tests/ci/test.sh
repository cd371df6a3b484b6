#!/usr/bin/env bash
# Every check, the fast ones first; the first that fails ends it: what `make test` and CI run.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
cd "$root"
begin=$SECONDS

stage() { # target
    local since=$SECONDS
    echo "== $1"
    if ! make "$1" ARGS=; then
        echo "== $1 FAILED after $((SECONDS - since)) s" >&2
        exit 1
    fi
    echo "== $1 passed ($((SECONDS - since)) s)"
}

stage venv-dev
stage lint
stage unit
stage integration
stage sanity
stage docker
stage molecule | tee "$root/.tree/molecule.out"
echo "== all checks passed ($((SECONDS - begin)) s)"
tail -n 2 "$root/.tree/molecule.out" | grep -E '^[0-9]+ passed, [0-9]+ failed$' || true
