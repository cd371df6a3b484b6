#!/bin/sh
# Regenerate requirements/*.txt from the dependency groups of pyproject.toml. Pinned things stay; the rest is resolved anew.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}

compile() { # name, further arguments
    name=$1
    shift
    "$uv" pip compile --system-certs --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
        --no-header "$@" -o "requirements/$name.txt.new"
    { echo "# Made by 'make relock-tools' from pyproject.toml: do not edit."; cat "requirements/$name.txt.new"; } >"requirements/$name.txt"
    rm -f "requirements/$name.txt.new"
}

mkdir -p requirements
compile dev --group pyproject.toml:dev
# The controller's lock is a slice of the developers' one: same versions everywhere.
sed 's/ *\\$//; /--hash/d; /^#/d' requirements/dev.txt >requirements/.constraints.txt
compile controller --group pyproject.toml:controller -c requirements/.constraints.txt
rm -f requirements/.constraints.txt
grep -m1 '^uv==' requirements/controller.txt | sed 's/ *\\$//' >requirements/.uv.in
compile uv requirements/.uv.in
rm -f requirements/.uv.in
