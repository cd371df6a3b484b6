#!/usr/bin/env bash
# Run one molecule scenario, or one step of it: tests/ci/scenario.sh name [step] [arguments]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
name=${1:-}
step=${2:-test}
shift $(($# < 2 ? $# : 2))
if [ -z "$name" ] || [ ! -f "$root/molecule/$name/molecule.yml" ]; then
    known=$(cd "$root/molecule" && echo */molecule.yml | sed 's#/molecule.yml##g')
    echo "scenario: '$name' is not a scenario. Say SCENARIO=<name> with one of: $known" >&2
    exit 2
fi
cd "$root"
export PATH="$root/.venv/bin:$PATH" ANSIBLE_COLLECTIONS_PATH="$root/.tree" MOLECULE_PROJECT_DIRECTORY="$root"
unset ANSIBLE_CONFIG # molecule writes one for each scenario
exec molecule "$step" -s "$name" "$@"
