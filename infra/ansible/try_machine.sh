# A throw-away Debian on this machine, reached by SSH on 127.0.0.1:$port. Sourced by try.sh, which sets cache, work and port.
# shellcheck shell=bash disable=SC2154
# With systemd-nspawn it boots for real, with systemd and its units; else it is a chroot with an SSH server and nothing more. Either
# way all processes and mounts are in namespaces of their own, which end with the first process.
root=$work/root

prepare() {
    if [ ! -e "$cache/bookworm/.whole" ]; then
        echo "debootstrap: once, about a minute"
        rm -rf "$cache/bookworm"
        debootstrap --variant=minbase bookworm "$cache/bookworm" \
            --include=ca-certificates,dbus,libpam-systemd,openssh-server,procps,python3,sudo,systemd-sysv > "$cache/debootstrap.log" ||
            fail "debootstrap did not make a Debian; see $cache/debootstrap.log"
        touch "$cache/bookworm/.whole"
    fi
    cp -a "$cache/bookworm" "$root"
    # What this machine needs to reach packages, the other one needs too.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    if [ -e /etc/pip.conf ]; then cp /etc/pip.conf "$root/etc/"; fi
    echo try > "$root/etc/hostname"
    echo "127.0.0.1 localhost try $(hostname)" > "$root/etc/hosts"
    chroot "$root" useradd --create-home --shell /bin/bash ubuntu
    echo 'ubuntu ALL=(ALL) NOPASSWD:ALL' > "$root/etc/sudoers.d/ubuntu"
    echo 'Defaults env_keep += "SSL_CERT_FILE"' >> "$root/etc/sudoers.d/ubuntu"
    ssh-keygen -q -t ed25519 -N '' -f "$work/key"
    install -d -o 1000 -g 1000 -m 700 "$root/home/ubuntu/.ssh"
    install -o 1000 -g 1000 -m 600 "$work/key.pub" "$root/home/ubuntu/.ssh/authorized_keys"
    cat > "$root/etc/ssh/sshd_config.d/try.conf" << END
Port $port
ListenAddress 127.0.0.1
PasswordAuthentication no
SetEnv SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
END
    # Packages that this machine has are not downloaded again.
    packages=${UV_CACHE_DIR:-$HOME/.cache/uv}
    mkdir -p "$packages" "$root/var/cache/pneumonia/uv"
}

start() {
    if [ "$mode" = boot ]; then
        systemd-nspawn --quiet --boot --directory="$root" --register=no --keep-unit --bind="$packages:/var/cache/pneumonia/uv" \
            < /dev/null >> "$work/console.log" 2>&1 &
    else
        # shellcheck disable=SC2016 # the inner shell expands them
        unshare --mount --pid --fork --kill-child bash -c 'set -e
            mount --make-rprivate /
            mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; mount --bind "$2" "$1/var/cache/pneumonia/uv"; mkdir -p "$1/run/sshd"
            exec chroot "$1" /usr/sbin/sshd -D -e' - "$root" "$packages" >> "$work/console.log" 2>&1 &
    fi
    machine=$!
    for _ in $(seq 60); do
        if on true 2> /dev/null; then return; fi
        kill -0 "$machine" 2> /dev/null || break
        sleep 0.5
    done
    tail -n 20 "$work/console.log" >&2
    fail "the machine does not answer on port $port"
}

# on COMMAND: run by a shell on the machine. Every step runs as on a VM: user ubuntu, sudo where it has to be.
on() { ssh -q -i "$work/key" -p "$port" -o UserKnownHostsFile="$work/known_hosts" -o StrictHostKeyChecking=accept-new -o ConnectTimeout=5 -o ServerAliveInterval=5 ubuntu@127.0.0.1 "$@"; }

# gone SECONDS: waits until the machine has powered off.
gone() {
    for _ in $(seq "$1"); do
        if ! kill -0 "$machine" 2> /dev/null; then machine=""; return 0; fi
        sleep 1
    done
    return 1
}

# Like a pulled plug. The first process inside goes, and all others with it; a killed nspawn alone would leave them.
vanish() {
    [ -n "${machine:-}" ] || return 0
    pgrep --parent "$machine" | xargs --no-run-if-empty kill -9
    gone 10 || kill -9 "$machine"
}

stop() {
    [ -n "${machine:-}" ] || return 0
    kill "$machine" 2> /dev/null || true # nspawn: power off; unshare: all inside dies with it
    gone 20 || vanish || true
}
