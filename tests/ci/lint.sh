#!/usr/bin/env bash
# Every linter, all of them even when one fails: tests/ci/lint.sh
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
cd "$root" || exit 1
export PATH="$root/.venv/bin:$PATH" ANSIBLE_COLLECTIONS_PATH="$root/.tree" ANSIBLE_CONFIG="$root/ansible.cfg"
failed=()

check() { # name, command
    local name=$1 begin=$SECONDS
    shift
    if "$@"; then
        echo "lint: $name passed ($((SECONDS - begin)) s)"
    else
        echo "lint: $name FAILED" >&2
        failed+=("$name")
    fi
}

shell_syntax() {
    local file bad=0
    while IFS= read -r file; do
        case $(head -n 1 "$file") in
            *bash*) bash -n "$file" || bad=1 ;;
            *sh*) sh -n "$file" || bad=1 ;;
        esac
    done < <(git ls-files '*.sh' .ci/run)
    return $bad
}

check yamllint yamllint --strict .
check ruff ruff check --quiet .
check mypy mypy -p ansible_collections.verl.baremetal.plugins
check shell shell_syntax
check changelog bash -c 'cd .tree/ansible_collections/verl/baremetal && exec antsibull-changelog lint'
check ansible-lint ansible-lint -q --offline

if [ ${#failed[@]} -gt 0 ]; then
    echo "lint: failed: ${failed[*]}" >&2
    exit 1
fi
