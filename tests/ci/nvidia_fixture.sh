#!/usr/bin/env bash
# Make the image vb-nvidia-fixture: the fixture repository (nvidia_fixture.py) with a real nginx, and what its hosts need.
# Debian's own packages and tiny stand-ins only: nothing of NVIDIA's is in it. Usage: tests/ci/nvidia_fixture.sh
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
work=$(mktemp -d "${TMPDIR:-/tmp}/vb-nvidia.XXXXXX")
trap 'rm -rf "$work"' EXIT

cp "$here/nvidia_fixture.py" "$work/"

cat >"$work/nginx.conf" <<'CONF'
worker_processes 1;
pid /run/nginx-fixture.pid;
daemon off;
events { worker_connections 64; }
http {
    access_log /var/log/nginx-fixture.log;
    server {
        listen 80;
        root /srv/fixture/www;
    }
}
CONF

# Tells when it was let loose during a transaction.
cat >"$work/needrestart" <<'SCRIPT'
#!/bin/sh
[ "$*" = "-b -r l -l" ] && echo "NEEDRESTART-SVC: slurmd.service" && exit 0
[ -n "$NEEDRESTART_SUSPEND" ] || touch /var/tmp/needrestart-restarted
SCRIPT

cat >"$work/Dockerfile" <<'DOCKER'
FROM vb-debian12:latest
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gnupg nginx-light unattended-upgrades >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb \
    && ln -sf /dev/null /etc/systemd/system/nginx.service \
    && ln -sf /dev/null /etc/systemd/system/unattended-upgrades.service
# A host with one kernel, NVIDIA's old list and pin, and a needrestart: all of them stand-ins.
RUN mkdir -p /lib/modules/6.1.0-99-amd64 /etc/modprobe.d \
    && echo fixture >/boot/vmlinuz-6.1.0-99-amd64 \
    && echo 'deb https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/ /' >/etc/apt/sources.list.d/cuda-debian12-x86_64.list \
    && printf 'Package: *\nPin: release l=NVIDIA CUDA\nPin-Priority: 600\n' >/etc/apt/preferences.d/cuda-repository-pin-600 \
    && echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/quick \
    && echo 'DPkg::Post-Invoke {"/usr/sbin/needrestart"; };' >/etc/apt/apt.conf.d/99needrestart
COPY needrestart /usr/sbin/needrestart
RUN chmod 0755 /usr/sbin/needrestart
COPY nginx.conf /etc/nginx/nginx.conf
COPY nvidia_fixture.py /srv/nvidia_fixture.py
RUN python3 /srv/nvidia_fixture.py /srv/fixture/www
DOCKER

DOCKER_BUILDKIT=0 docker build --quiet --tag vb-nvidia-fixture "$work"
