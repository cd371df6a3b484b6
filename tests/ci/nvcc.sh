#!/usr/bin/env bash
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
#
# Makes a CUDA 12.4 home with a real nvcc out of Debian 13's packages (nvidia-cuda-toolkit 12.4, non-free),
# beside the system: nothing is installed, the packages are only unpacked into a folder.
#
# usage: tests/ci/nvcc.sh [FOLDER]      (default: ~/.cache/verl-baremetal/nvcc-12.4)
# The last line printed is the CUDA home. A folder that is already complete is kept and answered at once.
# The mirror is the one that this machine's apt uses for Debian; APT_MIRROR names another one.
set -euo pipefail

home=${1:-$HOME/.cache/verl-baremetal/nvcc-12.4}
packages=(nvidia-cuda-toolkit nvidia-cuda-dev libnvvm4 libcudart12 libthrust-dev libcub-dev libcu++-dev)
suite=trixie
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf 'nvcc.sh: %s\n' "$*" >&2; }

mkdir -p "$(dirname "$home")"
exec 9>"$home.lock"
flock 9
if [ -e "$home/.complete" ] && "$home/bin/nvcc" --version >/dev/null 2>&1; then
    printf '%s\n' "$home"
    exit 0
fi

mirror=${APT_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 -E '/debian/?$' || true)}
if [ -z "$mirror" ]; then
    say "no Debian mirror in this machine's apt configuration; set APT_MIRROR to one"
    exit 1
fi

work=$(mktemp -d "$home.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/etc" "$work/debs" "$work/home"
: >"$work/apt/status"
cat >"$work/apt/etc/sources.sources" <<SOURCES
Types: deb
URIs: $mirror
Suites: $suite
Components: main contrib non-free
Architectures: amd64
Signed-By: $keyring
SOURCES
apt=(apt-get -qq
    -o "Dir::State=$work/apt" -o "Dir::State::status=$work/apt/status" -o "Dir::State::lists=$work/apt/lists"
    -o "Dir::Cache=$work/apt/cache" -o "Dir::Etc::sourcelist=$work/apt/etc/sources.sources"
    -o "Dir::Etc::sourceparts=-" -o "Dir::Etc::preferencesparts=-" -o "Dir::Etc::preferences=-"
    -o "APT::Architecture=amd64" -o "Acquire::Languages=none" -o "Acquire::Retries=3"
    -o "APT::Sandbox::User=root" -o "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false")
say "reading the package lists of $suite"
"${apt[@]}" update
say "fetching ${packages[*]} (about 1 GB)"
(cd "$work/debs" && "${apt[@]}" download "${packages[@]}")

say "unpacking"
root=$work/home/root
mkdir -p "$root"
for deb in "$work"/debs/*.deb; do
    # The static libraries of cuBLAS and its like are most of the bytes, and no extension links them.
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --wildcards \
        --exclude='*libcublas*' --exclude='*libcusparse*.a' --exclude='*libcusolver*.a' --exclude='*libcufft*.a' \
        --exclude='*libcurand*.a' --exclude='*libnpp*' --exclude='*libnvjpeg*' --exclude='*libnvrtc*.a' \
        --exclude='*libcusolver*' --exclude='./usr/share/doc' --exclude='./usr/share/man'
    rm -f "$deb"
done

say "laying out the CUDA home"
libs=usr/lib/x86_64-linux-gnu
kit=$(dirname "$(find "$root/usr/lib" -path '*nvidia-cuda-toolkit/bin/nvcc' -print -quit)")
kit=${kit#"$root"/}
mkdir -p "$work/home/bin" "$work/home/nvvm"
rm -f "$root/$kit/gcc" "$root/$kit/g++"  # links to a compiler that this system may not have
for program in "$root/$kit"/*; do
    ln -s "../root/$kit/$(basename "$program")" "$work/home/bin/$(basename "$program")"
done
for program in "$root"/usr/bin/*; do
    name=$(basename "$program")
    [ -e "$work/home/bin/$name" ] || ln -s "../root/usr/bin/$name" "$work/home/bin/$name"
done
ln -s root/usr/include "$work/home/include"
ln -s "root/$libs" "$work/home/lib64"
ln -s "root/$libs" "$work/home/lib"
libdevice=$(dirname "$(find "$root/usr" -name 'libdevice.10.bc' -print -quit)")
ln -s "../${libdevice#"$work/home"/}" "$work/home/nvvm/libdevice"
# nvcc finds its parts through nvcc.profile, which lies beside the program: both must be real files here.
rm -f "$work/home/bin/nvcc" "$work/home/bin/nvcc.profile"
cp -L "$root/$kit/nvcc" "$work/home/bin/nvcc"
cat >"$work/home/bin/nvcc.profile" <<'PROFILE'
TOP                 = $(_HERE_)/..
NVVMIR_LIBRARY_DIR  = $(TOP)/nvvm/libdevice
LD_LIBRARY_PATH    += $(TOP)/lib64:
PATH               += $(TOP)/bin:
INCLUDES           += "-I$(TOP)/include" $(_SPACE_)
LIBRARIES          =+ $(_SPACE_) "-L$(TOP)/lib64"
CUDAFE_FLAGS       +=
PTXAS_FLAGS        +=
PROFILE
touch "$work/home/.complete"
rm -rf "$home"
mv "$work/home" "$home"
"$home/bin/nvcc" --version | tail -n 2 >&2
printf '%s\n' "$home"
