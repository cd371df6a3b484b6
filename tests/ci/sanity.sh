#!/usr/bin/env bash
# ansible-test sanity on a fresh copy of the working tree: tests/ci/sanity.sh [arguments of ansible-test sanity]
# ansible-test wants a real folder .../ansible_collections/<namespace>/<name> and refuses a link.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
export PATH="$root/.venv/bin:$PATH"
copy=$root/.tree/sanity/ansible_collections/verl/baremetal
# Its own home, kept between runs: ansible-test's environments are there, and nothing of the user's home is touched.
home=$root/.tree/sanity/home
exec 9>"$root/.tree/.sanity.lock"
flock 9

mkdir -p "$copy" "$home/.ansible/test/cache"
find "$copy" -mindepth 1 -maxdepth 1 -exec rm -rf {} +
(cd "$root" && git ls-files -z --cached --others --exclude-standard \
    | while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done \
    | tar --null -T - -cf -) | tar -xf - -C "$copy"
"$root/.venv/bin/python3" "$root/tests/ci/sanity_ignore.py" "$copy"
# From here on the copy is a repository of its own: ansible-test then looks at these files and no others.
git -C "$copy" init -q
git -C "$copy" add -A -f .

# ansible-test would fetch get-pip from its own host; Python brings pip along.
for version in 24_2 25_2; do
    printf 'import ensurepip\nensurepip.bootstrap()\n' >"$home/.ansible/test/cache/get_pip_$version.py"
done

python=$("$root/.venv/bin/python3" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
cd "$copy"
export HOME="$home" ANSIBLE_TEST_CONTENT_ROOT="$copy" LC_ALL=C.UTF-8
unset ANSIBLE_COLLECTIONS_PATH ANSIBLE_CONFIG
sanity() { nice ansible-test sanity --python "$python" --color no "$@"; }
if [ $# -gt 0 ]; then
    sanity "$@"
else
    # pylint reads the plugins alone: tests and tools have ruff.
    sanity --skip-test pylint
    sanity --test pylint plugins/
fi
