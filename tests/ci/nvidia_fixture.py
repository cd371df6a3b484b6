#!/usr/bin/env python3
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Builds the fixture: apt repositories of tiny packages with NVIDIA's real names, versions and dependency shape.

Nothing of NVIDIA's is in them. The packages hold scripts and empty files, the key is made on the spot, and the packages
`dkms` and `linux-headers-*` are stand-ins too. Usage: nvidia_fixture.py FOLDER
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Dict, List, NamedTuple

KERNEL = "6.1.0-99-amd64"
DRIVERS = {570: ["570.124.06", "570.133.20"], 580: ["580.65.06"], 590: ["590.44.01"]}
LIB = "/usr/lib/x86_64-linux-gnu"

DKMS = """#!/bin/sh
# Fixture: behaves like DKMS for the one module `nvidia`, without building anything.
tree=/var/lib/dkms/nvidia
case "$1" in
status)
    for module in $tree/*/*/x86_64/module/nvidia.ko; do
        [ -e "$module" ] || continue
        rest=${module#$tree/}
        version=${rest%%/*}
        rest=${rest#*/}
        echo "nvidia/$version, ${rest%%/*}, x86_64: installed"
    done
    for version in $tree/*; do
        [ -e "$version/build/make.log" ] && echo "nvidia/${version##*/}: added"
    done
    exit 0 ;;
add-and-build)
    version=$2
    for kernel in /lib/modules/*; do
        kernel=${kernel##*/}
        [ -e "/lib/modules/$kernel/build" ] || continue
        if [ -e /etc/fixture-dkms-fails ]; then
            mkdir -p $tree/$version/build
            { echo "DKMS make.log for nvidia-$version (fixture)"; cat /etc/fixture-dkms-fails; } >$tree/$version/build/make.log
            continue
        fi
        mkdir -p "$tree/$version/$kernel/x86_64/module"
        : >"$tree/$version/$kernel/x86_64/module/nvidia.ko"
        rm -rf $tree/$version/build
    done ;;
autoinstall) for version in /usr/src/nvidia-*; do "$0" add-and-build "${version#/usr/src/nvidia-}"; done ;;
remove-all) rm -rf "$tree/$2" ;;
esac
"""
UNIT = """[Unit]
Description=%s (fixture)
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""


class Package(NamedTuple):
    """One package of the fixture."""

    name: str
    version: str
    fields: Dict[str, str]
    files: Dict[str, str]
    links: Dict[str, str]
    scripts: Dict[str, str]


def package(name, version, depends="", provides="", conflicts="", files=None, links=None, postinst="", prerm=""):
    """A package; files that begin with #! are executable."""
    fields = {"Depends": depends, "Provides": provides, "Conflicts": conflicts, "Replaces": conflicts}
    scripts = {name: "#!/bin/sh\nset -e\n" + text for name, text in (("postinst", postinst), ("prerm", prerm)) if text}
    return Package(name, version, {key: value for key, value in fields.items() if value}, files or {}, links or {}, scripts)


def tar(entries: Dict[str, str], links: Dict[str, str]) -> bytes:
    """A reproducible tar.gz."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        folders = set()
        for path in sorted([*entries, *links]):
            for parent in reversed(Path(path.lstrip("/")).parents):
                if str(parent) != "." and parent not in folders:
                    folders.add(parent)
                    info = tarfile.TarInfo(f"./{parent}")
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(info)
            info = tarfile.TarInfo("./" + path.lstrip("/"))
            if path in links:
                info.type, info.linkname = tarfile.SYMTYPE, links[path]
                archive.addfile(info)
                continue
            data = entries[path].encode()
            info.size, info.mode = len(data), 0o755 if data.startswith(b"#!") else 0o644
            archive.addfile(info, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), 1, mtime=0)


def control(item: Package) -> str:
    """The control file."""
    lines = [f"Package: {item.name}", f"Version: {item.version}", "Architecture: amd64"]
    lines += ["Maintainer: verl.baremetal fixture <fixture@example.invalid>", "Section: fixture", "Priority: optional"]
    lines += [f"{key}: {value}" for key, value in item.fields.items()]
    return "\n".join([*lines, f"Description: fixture of {item.name}, nothing of NVIDIA's is inside"]) + "\n"


def deb(item: Package) -> bytes:
    """A .deb file."""
    conffiles = "".join(path + "\n" for path in item.files if path.startswith("/etc/"))
    scripts = dict(item.scripts, control=control(item), **({"conffiles": conffiles} if conffiles else {}))
    out = b"!<arch>\n"
    members = [
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", tar(scripts, {})),
        ("data.tar.gz", tar(item.files or {f"/usr/share/fixture/{item.name}": "fixture\n"}, item.links)),
    ]
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + (b"\n" if len(data) % 2 else b"")
    return out


def library(name: str, version: str) -> Dict[str, Dict[str, str]]:
    """A library's file and link."""
    return {"files": {f"{LIB}/{name}.so.{version}": "fixture\n"}, "links": {f"{LIB}/{name}.so.1": f"{name}.so.{version}"}}


def kernel_module(name: str, upstream: str, revision: str, depends: str, conflicts: str) -> Package:
    """A package of kernel modules that DKMS builds."""
    return package(
        name, upstream + revision, depends=depends, provides="nvidia-kernel-module-fixture", conflicts=conflicts,
        files={f"/usr/src/nvidia-{upstream}/dkms.conf": "fixture\n"},
        postinst=f"dkms add-and-build {upstream}\n", prerm=f"dkms remove-all {upstream}\n",
    )


def pinning(branch: int, versions: List[str], revision: str) -> List[Package]:
    """NVIDIA's pinning packages: one for the branch, one for each version."""
    found = []
    for name, pin, version in [(str(branch), f"{branch}.*", versions[-1])] + [(v, f"{v}-*", v) for v in versions]:
        text = f"Package: *nvidia* libcuda1 cuda-drivers*\nPin: version {pin}\nPin-Priority: 1000\n"
        found.append(
            package(
                f"nvidia-driver-pinning-{name}", version + revision, provides="nvidia-driver-pinning",
                conflicts="nvidia-driver-pinning", files={"/etc/apt/preferences.d/nvidia-driver-pinning": text},
            )
        )
    return found


def persistenced(version: str) -> Package:
    """The persistence daemon."""
    return package("nvidia-persistenced", version, files={"/lib/systemd/system/nvidia-persistenced.service": UNIT % "persistenced"})


def fabric_manager(name: str, version: str) -> Package:
    """The fabric manager."""
    return package(name, version, files={"/lib/systemd/system/nvidia-fabricmanager.service": UNIT % "fabric manager"})


def debian_driver(branch: int, versions: List[str]) -> List[Package]:
    """The driver as NVIDIA packs it for Debian: no branch in the names."""
    found = pinning(branch, versions, "-1")
    for upstream in versions:
        v = upstream + "-1"
        fm = "nvidia-fabricmanager" if branch >= 580 else f"nvidia-fabricmanager-{branch}"
        found += [
            package("libcuda1", v, depends=f"libnvidia-ml1 (= {v})", **library("libcuda", upstream)),
            package("libnvidia-ml1", v, **library("libnvidia-ml", upstream)),
            package("firmware-nvidia-gsp", v),
            persistenced(v),
            kernel_module("nvidia-kernel-open-dkms", upstream, "-1", f"dkms, firmware-nvidia-gsp (= {v})", "nvidia-kernel-dkms"),
            kernel_module("nvidia-kernel-dkms", upstream, "-1", f"dkms, firmware-nvidia-gsp (= {v})", "nvidia-kernel-open-dkms"),
            package(
                "nvidia-driver-cuda", v,
                depends=f"libcuda1 (= {v}), nvidia-persistenced (= {v}), nvidia-kernel-open-dkms (= {v}) | nvidia-kernel-dkms (= {v})",
                files={"/usr/bin/nvidia-smi": f"#!/bin/sh\necho 'fixture {upstream}'\n"},
            ),
            package("nvidia-open", v, depends=f"nvidia-driver-cuda (= {v}), nvidia-kernel-open-dkms (= {v})"),
            package("cuda-drivers", v, depends=f"nvidia-driver-cuda (= {v}), nvidia-kernel-dkms (= {v})"),
            fabric_manager(fm, v),
        ]
    if branch == 570:
        # The trap: a fabric manager that is newer than any driver of the branch.
        found.append(fabric_manager("nvidia-fabricmanager-570", "570.148.08-1"))
    return found


def ubuntu_driver(branch: int, versions: List[str]) -> List[Package]:
    """The driver as NVIDIA packs it for Ubuntu: the branch in the names up to 580."""
    revision = "-0ubuntu1" if branch < 580 else "-1ubuntu1"
    suffix = f"-{branch}" if branch < 590 else ""
    found = pinning(branch, versions, revision)
    for upstream in versions:
        v = upstream + revision

        def one_of(name: str, **more: object) -> Package:
            # Packages of two branches exclude each other through a virtual name.
            return package(name + suffix, v, provides=name + "-any", conflicts=name + "-any", **more)  # noqa: B023

        fm = "nvidia-fabricmanager" if branch >= 580 else f"nvidia-fabricmanager-{branch}"
        compute = library("libcuda", upstream)
        compute["files"].update(library("libnvidia-ml", upstream)["files"])
        compute["links"].update(library("libnvidia-ml", upstream)["links"])
        found += [
            one_of("libnvidia-compute", **compute),
            one_of("libnvidia-cfg1"),
            one_of("nvidia-utils", depends=f"libnvidia-compute{suffix} (= {v})",
                   files={"/usr/bin/nvidia-smi": f"#!/bin/sh\necho 'fixture {upstream}'\n"}),
            one_of("nvidia-compute-utils", depends=f"nvidia-persistenced (= {v})"),
            persistenced(v),
            fabric_manager(fm, upstream + "-1"),
        ]
        for kind in ("-open", ""):
            name = f"nvidia-dkms{suffix}{kind}"
            module = kernel_module(name, upstream, revision, "dkms", "nvidia-dkms-any")
            module.fields["Provides"] = "nvidia-dkms-any"
            found.append(module)
            meta = "nvidia-open" if kind else "cuda-drivers"
            needs = ", ".join(f"{part}{suffix} (= {v})" for part in ("libnvidia-compute", "nvidia-utils", "nvidia-compute-utils"))
            found.append(package(meta + suffix, v, depends=f"{name} (= {v}), {needs}"))
    if branch == 580:
        # The trap: in Ubuntu's archive the name of branch 570 is a transition to the newest branch.
        found.append(package("nvidia-fabricmanager-570", "580.65.06-0ubuntu0.1", depends="nvidia-fabricmanager"))
    return found


def toolkit(minor: str, version: str, nvcc: str) -> List[Package]:
    """A CUDA toolkit: metapackage, compiler, runtime, and the packages that own the alternatives and ld.so's list."""
    major = minor.split("-")[0]
    home = "/usr/local/cuda-" + minor.replace("-", ".")
    priority = minor.replace("-", "")
    return [
        package(f"cuda-toolkit-{minor}", version, depends=f"cuda-nvcc-{minor} (>= {nvcc}), cuda-cudart-{minor}"),
        package(f"cuda-nvcc-{minor}", nvcc + "-1", depends=f"cuda-toolkit-{minor}-config-common",
                files={f"{home}/bin/nvcc": f"#!/bin/sh\necho 'Cuda compilation tools, release {minor.replace('-', '.')}, V{nvcc} (fixture)'\n",
                       f"{home}/version.json": f'{{"cuda": {{"name": "CUDA SDK", "version": "{version[:-2]}"}}}}\n'}),
        package(f"cuda-cudart-{minor}", nvcc + "-1", depends=f"cuda-toolkit-{minor}-config-common",
                files={f"{home}/targets/x86_64-linux/include/cuda.h": "/* fixture */\n"},
                links={f"{home}/include": "targets/x86_64-linux/include", f"{home}/lib64": "targets/x86_64-linux/lib"}),
        package(f"cuda-toolkit-{minor}-config-common", nvcc + "-1", depends=f"cuda-toolkit-{major}-config-common",
                postinst=f"update-alternatives --install /usr/local/cuda cuda {home} {priority}\n",
                prerm=f"update-alternatives --remove cuda {home}\n"),
        package(f"cuda-toolkit-{major}-config-common", nvcc + "-1",
                files={f"/etc/ld.so.conf.d/988_cuda-{major}.conf": f"/usr/local/cuda-{major}/targets/x86_64-linux/lib\n"}),
    ]


def cuda() -> List[Package]:
    """Toolkits 12.8 and 13.0, cuDNN 9.8 and a newer one, and the traps."""
    found = toolkit("12-8", "12.8.1-1", "12.8.93") + toolkit("13-0", "13.0.0-1", "13.0.48")
    found.append(package("cuda-toolkit-12-8", "12.8.2-1", depends="cuda-nvcc-12-8, cuda-cudart-12-8"))
    found += [
        package("cuda", "13.0.0-1", depends="cuda-toolkit-13-0, cuda-drivers"),
        package("cuda-12-8", "12.8.1-1", depends="cuda-toolkit-12-8, cuda-runtime-12-8"),
        package("cuda-runtime-12-8", "12.8.1-1", depends="cuda-drivers"),
    ]
    for version in ("9.8.0.87-1", "9.10.1.4-1"):
        upstream = version[:-2]
        found += [
            package("libcudnn9-cuda-12", version,
                    files={f"{LIB}/libcudnn.so.{upstream}": "fixture\n"}, links={f"{LIB}/libcudnn.so.9": f"libcudnn.so.{upstream}"}),
            package("libcudnn9-dev-cuda-12", version, depends=f"libcudnn9-cuda-12 (= {version})",
                    files={"/usr/include/x86_64-linux-gnu/cudnn_version_v9.h": "#define CUDNN_MAJOR 9\n#define CUDNN_MINOR "
                           + "{}\n#define CUDNN_PATCHLEVEL {}\n".format(*tuple(upstream.split(".")[1:3]))}),
        ]
    return found


def system() -> List[Package]:
    """Stand-ins for what a real host's distribution brings."""
    found = [package("dkms", "3.0.10-8+fixture1", files={"/usr/sbin/dkms": DKMS})]
    # An upgrade moves this one: what proves that upgrades were at work.
    found += [package("fixture-witness", version) for version in ("1.0-1", "2.0-1")]
    found.append(package("fixture-broken", "1.0-1", postinst="[ ! -e /etc/fixture-broken ]\n"))
    found.append(package(f"linux-headers-{KERNEL}", "6.1.0-1", files={f"/usr/src/linux-headers-{KERNEL}/Makefile": "fixture\n"},
                         links={f"/lib/modules/{KERNEL}/build": f"/usr/src/linux-headers-{KERNEL}"}))
    return found


def container_toolkit() -> List[Package]:
    """nvidia-container-toolkit, its three companions, and a newer version."""
    found = []
    for version in ("1.17.8-1", "1.18.0-1"):
        found += [
            package("libnvidia-container1", version),
            package("libnvidia-container-tools", version, depends=f"libnvidia-container1 (= {version})"),
            package("nvidia-container-toolkit-base", version,
                    files={"/usr/bin/nvidia-ctk": f"#!/bin/sh\necho 'fixture {version}'\n",
                           "/usr/bin/nvidia-container-runtime": "#!/bin/sh\nexit 0\n"}),
            package("nvidia-container-toolkit", version,
                    depends=f"libnvidia-container-tools (= {version}), nvidia-container-toolkit-base (= {version})"),
        ]
    return found


def write_repository(folder: Path, packages: List[Package], gpg: List[str], key: str) -> None:
    """A flat repository with a signed index."""
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for item in packages:
        data = deb(item)
        name = f"{item.name}_{item.version.replace(':', '%3a')}_amd64.deb"
        (folder / name).write_bytes(data)
        index.append(control(item) + f"Filename: ./{name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n")
    text = "\n".join(index).encode()
    (folder / "Packages").write_bytes(text)
    (folder / "Packages.gz").write_bytes(gzip.compress(text, 1, mtime=0))
    lines = ["Origin: NVIDIA", "Label: NVIDIA CUDA (fixture)", "Architecture: amd64", "Date: " + now(), "SHA256:"]
    for name in ("Packages", "Packages.gz"):
        data = (folder / name).read_bytes()
        lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}")
    (folder / "Release").write_text("\n".join(lines) + "\n")
    subprocess.run([*gpg, "--clearsign", "-o", str(folder / "InRelease"), str(folder / "Release")], check=True)
    (folder / "3bf863cc.pub").write_text(key)


def now() -> str:
    """The date of a Release file."""
    import email.utils

    return email.utils.formatdate(usegmt=True).replace("GMT", "UTC")


def make_key(home: Path, name: str) -> str:
    """A fresh test key; its fingerprint."""
    gpg = ["gpg", "--homedir", str(home), "--batch", "--yes", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    address = f"verl.baremetal fixture {name} <{name}@example.invalid>"
    subprocess.run([*gpg, "--quick-gen-key", address, "ed25519", "sign", "never"], check=True, stderr=subprocess.DEVNULL)
    listing = subprocess.run([*gpg, "--with-colons", "--fingerprint", address], check=True, stdout=subprocess.PIPE, text=True)
    return next(line.split(":")[9] for line in listing.stdout.splitlines() if line.startswith("fpr:"))


def main() -> None:
    """Everything below one folder."""
    base = Path(sys.argv[1])
    home = base.parent / "fixture-gnupg"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(home, 0o700)
    trusted, other = make_key(home, "trusted"), make_key(home, "other")
    gpg = ["gpg", "--homedir", str(home), "--batch", "--yes", "--quiet", "--local-user", trusted]

    def export(fingerprint: str) -> str:
        return subprocess.run(["gpg", "--homedir", str(home), "--armor", "--export", fingerprint], check=True, stdout=subprocess.PIPE, text=True).stdout

    key = export(trusted)
    common = cuda() + system()
    debian = [item for branch, versions in DRIVERS.items() for item in debian_driver(branch, versions)]
    ubuntu = [item for branch, versions in DRIVERS.items() for item in ubuntu_driver(branch, versions)]
    for folder, packages in (("debian12", debian + common), ("ubuntu2204", ubuntu + common), ("ubuntu2404", ubuntu + common)):
        write_repository(base / "cuda/repos" / folder / "x86_64", packages, gpg, key)
    write_repository(base / "libnvidia-container/stable/deb/amd64", container_toolkit(), gpg, key)
    (base / "libnvidia-container/gpgkey").write_text(key)
    (base / "other.pub").write_text(export(other))
    (base / "fingerprint").write_text(trusted + "\n")
    (base / "other-fingerprint").write_text(other + "\n")
    # A mirror is the same tree under another path.
    (base / "mirror").symlink_to("cuda")
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


if __name__ == "__main__":
    main()
