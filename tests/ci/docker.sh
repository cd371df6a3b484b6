#!/usr/bin/env bash
# Make docker usable for the tests, and their base image: tests/ci/docker.sh
# As root on Debian and Ubuntu what is missing is installed and the daemon is started; elsewhere the script says what to do.
# Everything is asked for first: with a running daemon and a ready image this takes a fraction of a second.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
log=${VERL_BAREMETAL_DOCKER_LOG:-/var/log/verl-baremetal-dockerd.log}
pull_timeout=${VERL_BAREMETAL_PULL_TIMEOUT:-20}
image=vb-debian12
suite=bookworm
packages=ca-certificates,iproute2,openssh-server,procps,python3,python3-venv,sudo,systemd,systemd-sysv,xz-utils

say() { echo "docker: $*"; }
die() {
    echo "docker: $*" >&2
    exit 1
}
daemon_answers() { timeout 15 docker info >/dev/null 2>&1; }
is_debian() { command -v apt-get >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }

install_packages() {
    local missing=()
    command -v dockerd >/dev/null 2>&1 || daemon_answers || missing+=(docker.io)
    command -v docker >/dev/null 2>&1 || missing+=(docker.io)
    command -v mmdebstrap >/dev/null 2>&1 || missing+=(mmdebstrap debian-archive-keyring)
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! is_root || ! is_debian; then
        daemon_answers && return 0 # the image can be pulled
        die "missing: ${missing[*]}. The tests need a docker daemon that this user may use;" \
            "as root on Debian or Ubuntu this script installs docker.io and mmdebstrap itself, elsewhere install docker first"
    fi
    say "installing ${missing[*]}"
    apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" iptables >/dev/null
}

# A daemon that was killed leaves its pid files and sometimes its containerd behind; both keep the next one from starting.
clear_remains() {
    local file pid
    for file in /run/docker.pid /var/run/docker.pid /run/docker/containerd/containerd.pid; do
        [ -e "$file" ] || continue
        pid=$(cat "$file" 2>/dev/null || true)
        if [ -n "$pid" ] && grep -qaE 'dockerd|containerd' "/proc/$pid/cmdline" 2>/dev/null; then
            case $(tr '\0' ' ' <"/proc/$pid/cmdline") in
                *"/run/docker/containerd/"*) kill "$pid" 2>/dev/null || true; sleep 1 ;;
                *) continue ;;
            esac
        fi
        rm -f "$file"
    done
    daemon_answers || rm -f /run/docker.sock
}

start_daemon() {
    daemon_answers && return 0
    is_root || die "no docker daemon answers and this user cannot start one: start it (systemctl start docker)" \
        "and let this user use it (group docker)"
    if [ -d /run/systemd/system ]; then
        systemctl start docker || die "systemctl start docker failed: see journalctl -u docker"
        daemon_answers || die "docker was started but does not answer: see journalctl -u docker"
        return 0
    fi
    local try
    for try in 1 2 3; do
        clear_remains
        say "starting dockerd (log: $log)"
        # 9>&- : the daemon outlives this script and must not keep its lock.
        setsid nohup dockerd >>"$log" 2>&1 </dev/null 9>&- &
        local waited
        for waited in $(seq 1 40); do
            if daemon_answers; then
                return 0
            fi
            kill -0 $! 2>/dev/null || break
            sleep 0.5
        done
        say "dockerd did not come up (attempt $try, after $waited checks)"
    done
    tail -n 30 "$log" >&2
    die "dockerd does not start; its last lines are above"
}

ca_file() {
    local file
    for file in "${VERL_BAREMETAL_CA_FILE:-}" "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt; do
        if [ -n "$file" ] && [ -f "$file" ]; then
            echo "$file"
            return 0
        fi
    done
    echo /dev/null
}

# The machine's own lines for this suite, so that containers use the mirror that the machine uses; nothing when it has none.
mirror_lines() {
    is_debian || return 0
    apt-get indextargets --format '$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' 'Created-By: Packages' 2>/dev/null \
        | awk -F'|' -v suite="$suite" '$1 == "Debian" && $4 == "main" && ($3 == suite || $3 == suite "-updates" || $3 == suite "-security") {
            print "deb " $2 " " $3 " main" }' | sort -u
}

finish_commands() { # what both ways of making the image do in it
    cat <<'EOF'
set -e
mkdir -p /run/sshd
rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
: >/etc/machine-id
# Units that have no business in a container or would wait for hardware.
for unit in systemd-udevd.service systemd-udev-trigger.service getty.target console-getty.service systemd-logind.service \
    apt-daily.timer apt-daily-upgrade.timer systemd-firstboot.service systemd-resolved.service; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done
EOF
}

recipe_digest() {
    cat "$here/docker.sh" "$(ca_file)" | sha256sum | cut -c1-12
}

make_by_pulling() {
    local name=vb-base-build
    say "trying to pull a base image (at most $pull_timeout s)"
    timeout "$pull_timeout" docker pull -q debian:12 >/dev/null 2>&1 || return 1
    docker rm -f "$name" >/dev/null 2>&1 || true
    docker run -d --name "$name" debian:12 sleep 3600 >/dev/null
    # Before ca-certificates is there its folder is not: made first, so that a private mirror can be reached.
    docker exec "$name" mkdir -p /etc/ssl/certs
    if docker exec "$name" sh -c "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ${packages//,/ }" >/dev/null \
        && docker cp "$(readlink -f "$(ca_file)")" "$name:/etc/ssl/certs/ca-certificates.crt" \
        && finish_commands | docker exec -i "$name" sh \
        && docker commit -c 'CMD ["/bin/bash"]' "$name" "$1" >/dev/null; then
        docker rm -f "$name" >/dev/null
        return 0
    fi
    docker rm -f "$name" >/dev/null 2>&1 || true
    return 1
}

make_by_bootstrapping() {
    command -v mmdebstrap >/dev/null 2>&1 || die "no image can be pulled and mmdebstrap is missing: install it (apt-get install mmdebstrap)"
    is_root || die "no image can be pulled, and only root can make one with mmdebstrap: run this as root once"
    local work
    work=$(mktemp -d "${TMPDIR:-/tmp}/vb-base.XXXXXX")
    mirror_lines >"$work/sources.list"
    if [ ! -s "$work/sources.list" ] && is_debian; then # a fresh machine has not read its mirrors' lists yet
        apt-get update -qq || true
        mirror_lines >"$work/sources.list"
    fi
    finish_commands >"$work/finish.sh"
    say "making $image with mmdebstrap (about 30 s)"
    local sources=()
    [ ! -s "$work/sources.list" ] || sources=("$work/sources.list")
    if ! nice mmdebstrap --quiet --variant=minbase --include="$packages" --format=tar \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook="mkdir -p \"\$1/etc/ssl/certs\" && cat '$(ca_file)' >\"\$1/etc/ssl/certs/ca-certificates.crt\"" \
        --customize-hook="cp '$work/finish.sh' \"\$1/finish.sh\" && chroot \"\$1\" sh /finish.sh && rm \"\$1/finish.sh\"" \
        "$suite" "$work/rootfs.tar" ${sources[@]+"${sources[@]}"} >"$work/log" 2>&1; then
        tail -n 30 "$work/log" >&2
        rm -rf "$work"
        die "mmdebstrap failed; its last lines are above"
    fi
    docker import -c 'CMD ["/bin/bash"]' "$work/rootfs.tar" "$1" >/dev/null
    rm -rf "$work"
}

make_image() {
    local tag old
    tag=$image:$(recipe_digest)
    if ! docker image inspect "$tag" >/dev/null 2>&1; then
        make_by_pulling "$tag" || make_by_bootstrapping "$tag"
        say "made $tag ($(docker image inspect -f '{{.Size}}' "$tag" | awk '{printf "%d MB", $1 / 1e6}'))"
    fi
    docker tag "$tag" "$image:latest"
    # Images of older recipes go, unless a container still uses them.
    for old in $(docker image ls --format '{{.Repository}}:{{.Tag}}' "$image"); do
        case $old in
            "$tag" | "$image:latest") ;;
            *) docker image rm "$old" >/dev/null 2>&1 || true ;;
        esac
    done
}

exec 9>"${TMPDIR:-/tmp}/.vb-docker-$(id -u).lock"
flock 9
install_packages
start_daemon
make_image
