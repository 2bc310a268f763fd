# shellcheck shell=bash disable=SC2034,SC2154
# image_test.sh with buildah and chroot, where no container engine can run: the same file system, user, environment and command,
# the root mounted read-only, the network that of the machine.
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
work=$(mktemp -d)
base=docker.io/library/python:3.11-slim
settings=() # the machine's certificates and package settings, for the build alone
for path in /etc/ssl/certs /usr/share/ca-certificates /etc/pip.conf /root/.config/pip /root/.config/uv /opt/wheels /opt/pypi /opt/pypi-more; do
    [ -e "$path" ] && settings+=(--volume "$path:$path:ro")
done
while IFS='=' read -r key _; do
    case "$key" in PIP_* | UV_* | SSL_CERT_* | REQUESTS_CA_BUNDLE | CURL_CA_BUNDLE) settings+=(--env "$key=${!key}") ;; esac
done < <(env)

build() {
    command -v hadolint > /dev/null && hadolint Dockerfile
    if ! buildah inspect --type image "$base" > /dev/null 2>&1; then
        echo "Making $base from Debian's packages"
        debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates bookworm "$work/base" > "$work/debootstrap.log"
        rm -f "$work"/base/usr/lib/python3*/EXTERNALLY-MANAGED
        rm -rf "$work"/base/var/cache/apt/* "$work"/base/var/lib/apt/lists/* "$work"/base/usr/share/doc "$work"/base/usr/share/locale
        mkdir -p "$work/base/usr/local/bin"
        ln -sf /usr/bin/python3 "$work/base/usr/local/bin/python"
        ln -sf /usr/bin/python3 "$work/base/usr/local/bin/python3"
        from=$(buildah from scratch)
        buildah add --quiet "$from" "$work/base" / > /dev/null
        buildah commit --quiet "$from" "$base" > /dev/null
        buildah rm "$from" > /dev/null
        rm -rf "$work/base"
    fi
    buildah build --format docker --pull-never --layers --target serve --tag pneumonia-serve "${settings[@]}" --file Dockerfile .
    container=$(buildah from --pull-never pneumonia-serve)
    root=$(buildah mount "$container")
    mapfile -t environment < <(buildah inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$container" | grep '=')
}
size_mib() { du --summarize --block-size=1M "$root" | cut -f1; }
inside() { (within 1 "$@"); }
within() { # replaces the calling shell, so that signals arrive; $1: whether the model is left out
    local bare=$1
    shift
    # shellcheck disable=SC2016 # the inner shell expands them
    ROOT=$root BUNDLE=$bundle BARE=$bare exec unshare --mount bash -c '
        set -e
        mkdir -p "$ROOT/opt/ml/model" "$ROOT/proc" "$ROOT/dev"
        mount --bind "$ROOT" "$ROOT"
        mount -t proc proc "$ROOT/proc"
        mount --rbind /dev "$ROOT/dev"
        [ "$BARE" = 1 ] || mount --bind -o ro "$BUNDLE" "$ROOT/opt/ml/model"
        mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
        mount -o remount,bind,ro "$ROOT"
        exec chroot --userspec=1000:1000 "$ROOT" /usr/bin/env -i --chdir=/tmp "$@"' within "${environment[@]}" "$@"
}
start() {
    within 0 pneumonia serve --port "$port" > "$work/serve.log" 2>&1 &
    server=$!
}
stop() {
    [ -n "${server:-}" ] || return 0
    kill -TERM "$server"
    local code=0
    wait "$server" || code=$?
    server=
    return "$code"
}
clean() {
    [ -s "$work/serve.log" ] && tail -n 5 "$work/serve.log" >&2
    buildah umount "$container" && buildah rm "$container"
    rm -rf "$work"
}
