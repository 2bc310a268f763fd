#!/usr/bin/env bash
# Builds the Dockerfile's `serve` target as it is, runs it as SageMaker does, and queries it: /ping, /invocations, user, size, secrets, SIGTERM.
#
#   deploy/image_test.sh [BUNDLE IMAGE]      without a bundle, one of a small run on drawn phantoms (a minute)
#
# With Docker where there is one; else, as root, with Debian's buildah and debootstrap, over a Debian base under the name of the
# Dockerfile's own (python:3.11-slim), since that one may be out of reach.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# = 0 ]; then
    made=$(mktemp -d)
    pneumonia=$here/../.venv/bin/pneumonia
    "$pneumonia" train name=image max_epochs=2 data.phantom.patients=60 "runs_dir=$made/runs" "cache_dir=$made/cache"
    "$pneumonia" export "$made"/runs/image/*/ --out "$made/bundle"
    set -- "$made/bundle" "$(find "$made/cache" -name '*.jpeg' | sort | head -n 1)"
elif [ $# != 2 ]; then
    echo "usage: deploy/image_test.sh [BUNDLE IMAGE]" >&2
    exit 2
fi
bundle=$(realpath "$1")
image=$(realpath "$2")
for path in "$bundle/contract.json" "$image"; do
    [ -f "$path" ] || { echo "There is no $path. Name a bundle and an X-ray." >&2; exit 2; }
done
port=${PORT:-8080}
limit_mib=600

if docker info > /dev/null 2>&1; then
    # shellcheck source=deploy/engine_docker.sh
    source "$here/engine_docker.sh"
elif command -v buildah > /dev/null && [ "$(id -u)" = 0 ]; then
    # shellcheck source=deploy/engine_buildah.sh
    source "$here/engine_buildah.sh"
else
    echo "Neither Docker nor, for root, buildah is here: apt-get install buildah debootstrap, or install Docker." >&2
    exit 2
fi

fail() { echo "FAILED: $1" >&2; exit 1; }
trap 'stop > /dev/null 2>&1 || true; clean > /dev/null 2>&1 || true; rm -rf "${made:-}"' EXIT

cd "$here/.."
build
size=$(size_mib)
echo "size: $size MiB (limit $limit_mib)"
[ "$size" -lt "$limit_mib" ] || fail "the image is too large"
inside python -c 'import importlib.util as u, sys; sys.exit("torch is in the image" if u.find_spec("torch") else 0)' || fail "torch"
inside python -c 'import os; assert os.getuid() == 1000, os.getuid()' || fail "it does not run as user 1000"
if inside env | grep -Eq 'TOKEN|SECRET|PASSWORD|_KEY='; then fail "a secret is in its environment"; fi
if inside touch /opt/pneumonia/written 2> /dev/null; then fail "its own files can be written"; fi

if curl --silent "http://127.0.0.1:$port/" > /dev/null; then fail "something else listens on port $port; name another, PORT=8090"; fi
start
for _ in $(seq 100); do
    curl --silent --fail "http://127.0.0.1:$port/ping" > /dev/null && break
    sleep 0.2
done
curl --silent --show-error --fail "http://127.0.0.1:$port/ping" > /dev/null || fail "/ping"
echo "/ping answers"
type=image/jpeg
case "$image" in *.png) type=image/png ;; esac
answer=$(curl --silent --show-error --fail --data-binary "@$image" --header "Content-Type: $type" "http://127.0.0.1:$port/invocations") \
    || fail "/invocations"
echo "/invocations: $answer"
python3 -c 'import json, sys; p = json.loads(sys.argv[1])["probabilities"]; assert abs(sum(p.values()) - 1) < 1e-3, p' "$answer" \
    || fail "the probabilities do not add up to 1"
curl --silent --fail "http://127.0.0.1:$port/" | grep -qi '<html' || fail "the page"
echo "/ answers"
code=0
stop || code=$?
[ "$code" = 0 ] || fail "exit code $code after SIGTERM"
echo "SIGTERM: exit code 0"
echo "The image works."
