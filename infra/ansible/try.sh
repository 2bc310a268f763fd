#!/usr/bin/env bash
# Runs the playbook over SSH against a throw-away Debian on this machine, twice, and a sweep on it as a VM does, up to the power-off.
#
#   sudo infra/ansible/try.sh        ten minutes, 10 GB for as long as it runs; CACHE=DIR keeps the Debian for the next time
#
# Needs root, debootstrap, an SSH client; with systemd-nspawn (Debian: systemd-container) the Debian really boots, MODE=chroot does without.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
port=${PORT:-2222}
cache=${CACHE:-/var/cache/pneumonia-ansible-test}

fail() { echo "$(date +%T)  FAILED: $1" >&2; exit 1; }
step() { printf '%s  %s\n' "$(date +%T)" "$1"; }

[ "$(id -u)" = 0 ] || { echo "A Debian can be made by root alone: sudo infra/ansible/try.sh" >&2; exit 2; }
for tool in debootstrap ssh ssh-keygen unshare; do
    command -v $tool > /dev/null || { echo "There is no $tool here: apt-get install debootstrap openssh-client util-linux" >&2; exit 2; }
done
if (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then echo "Something listens on port $port; name another, PORT=2223." >&2; exit 2; fi
mode=${MODE:-$(command -v systemd-nspawn > /dev/null && echo boot || echo chroot)}
mkdir -p "$cache"
free=$(df --output=avail --block-size=1G "$cache" | tail -n 1)
[ "$free" -ge 15 ] || { echo "$cache has $free GB free, and a second environment needs 15. Name another folder, CACHE=DIR." >&2; exit 2; }
work=$(mktemp -d "$cache/try.XXXXXX")
# shellcheck source=infra/ansible/try_machine.sh
source "$here/try_machine.sh"
trap 'trap "" INT TERM; stop; echo "Removing the Debian, which can take minutes"; rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM

step "Debian, by $mode"
prepare
tools=$cache/tools
if [ ! -x "$tools/bin/uv" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --quiet 'ansible-core>=2.19,<2.20' 'uv>=0.9,<1'
fi
"$tools/bin/uv" build --quiet --wheel --out-dir "$work/dist" "$here/../.."
wheel=$(echo "$work"/dist/*.whl)
cat > "$work/inventory.ini" << END
[vm]
try ansible_host=127.0.0.1 ansible_port=$port ansible_user=ubuntu ansible_ssh_private_key_file=$work/key ansible_ssh_common_args="-o UserKnownHostsFile=$work/known_hosts"
END
start

# Every character that a quoting could trip over; the word sEcReT is looked for wherever it must not be.
export AZURE_STORAGE_CONNECTION_STRING='DefaultEndpointsProtocol=https;AccountName=a;AccountKey=sEcReT+/b==;EndpointSuffix=e'
export AZURE_STORAGE_SAS_TOKEN='sv=2024-01-01&sig=sEcReT%2Fb%2Bc%3D'
# shellcheck disable=SC2016
export WANDB_API_KEY='  sEcReT "quoted" '\''single'\'' $HOME `id` \back\\ # {{ 1 + 1 }} ü ;'
unset AZURE_STORAGE_ACCOUNT AZURE_STORAGE_ACCOUNT_URL AZURE_STORAGE_KEY
play() { # play LOG OPTIONS...: the playbook, its output to LOG
    local log=$work/$1.log
    shift
    (cd "$here" && "$tools/bin/ansible-playbook" -i "$work/inventory.ini" site.yml -e grace_minutes=0 -e idle_minutes=1 "$@") > "$log" 2>&1
}
recap() { grep -E '^try +:' "$work/$1.log"; }
refused() { # refused LOG TEXT OPTIONS...: the playbook fails with TEXT
    local log=$1 text=$2
    shift 2
    if play "$log" "$@"; then fail "the playbook took $*"; fi
    tr -s ' \n' ' ' < "$work/$log.log" | grep -q "$text" || { tail -n 20 "$work/$log.log"; fail "the message to $* is not: $text"; }
}

step "The playbook, on a machine that vanishes in the middle"
play cut -e "pneumonia_wheel=$wheel" &
cut=$!
for _ in $(seq 240); do compgen -G "${root:?}/opt/pneumonia/venv/lib/python3*/site-packages/numpy" > /dev/null && break; sleep 0.5; done
vanish
if wait "$cut"; then fail "the playbook did not notice"; fi
recap cut
start
step "again"
play first -vvv -e "pneumonia_wheel=$wheel" || { grep -v '^<' "$work/first.log" | tail -n 40; fail "the first run"; }
recap first
step "and second time"
play second -e "pneumonia_wheel=$wheel" || { tail -n 40 "$work/second.log"; fail "the second run"; }
recap second
recap second | grep -q 'changed=0 .*unreachable=0 .*failed=0' || { grep -B 3 '^changed' "$work/second.log"; fail "the second run changed something"; }

step "What it refuses"
refused nothing 'Say which pneumonia to install'
refused nowheel 'There is no .*missing.whl' -e pneumonia_wheel=missing.whl
refused minutes 'whole minutes' -e pneumonia_wheel="$wheel" -e idle_minutes=soon
refused nogpu 'nvidia-smi does not answer .*install_driver=true' -e pneumonia_wheel="$wheel" -e expect_gpu=true
on "printf '#!/bin/sh\necho \"| NVIDIA-SMI 535.1  Driver Version: 535.1  CUDA Version: 12.2 |\"\n' | sudo tee /usr/bin/nvidia-smi > /dev/null; sudo chmod +x /usr/bin/nvidia-smi"
refused oldgpu 'CUDA up to 12, and the locked torch is built for CUDA 13' -e pneumonia_wheel="$wheel" -e expect_gpu=true
on sudo sed -i s/12.2/13.0/ /usr/bin/nvidia-smi
refused torch 'nvidia-smi answers, but torch' -e pneumonia_wheel="$wheel" -e expect_gpu=true
on sudo rm /usr/bin/nvidia-smi

step "Files, and credentials"
owners() { on stat --format="'%U %a'" "$1"; }
[ "$(owners /etc/pneumonia/environment)" = "root 600" ] || fail "the credentials are not root's alone: $(owners /etc/pneumonia/environment)"
[ "$(owners /var/lib/pneumonia)" = "pneumonia 755" ] || fail "the work folder: $(owners /var/lib/pneumonia)"
[ "$(owners /opt/pneumonia/bin/run-sweep)" = "root 755" ] || fail "the script: $(owners /opt/pneumonia/bin/run-sweep)"
if on cat /etc/pneumonia/environment 2> /dev/null; then fail "ubuntu reads the credentials"; fi
if grep -l sEcReT "$work"/*.log; then fail "a credential is in the output of Ansible"; fi
if on sudo grep -rl "'[s]EcReT'" /home /root /tmp /var/tmp /var/log /etc --exclude-dir=pneumonia; then fail "a credential is elsewhere on the machine"; fi
(unset AZURE_STORAGE_CONNECTION_STRING AZURE_STORAGE_SAS_TOKEN WANDB_API_KEY; play without -e "pneumonia_wheel=$wheel")
recap without | grep -q 'changed=0' || fail "a caller without credentials has taken those of the machine"

if commit=$(git -C "$here" rev-parse HEAD 2> /dev/null); then
    step "The project from git"
    git clone --quiet --bare "$here/../.." "$root/srv/pneumonia.git"
    for ref in HEAD HEAD "$commit" "$commit"; do
        play git -e "pneumonia_git=file:///srv/pneumonia.git@$ref" || { tail -n 30 "$work/git.log"; fail "pneumonia_git"; }
        recap git
    done
    recap git | grep -q 'changed=0' || fail "the second run from git changed something"
fi

overrides=(seeds "seed=0,1" model=simple_cnn data.phantom.patients=60 image_size=25 max_epochs=1)
ask() { printf '%s\n' "$@" | on sudo tee /etc/pneumonia/sweep.args > /dev/null; }

if [ "$mode" = chroot ]; then
    step "A sweep, without systemd"
    ask "${overrides[@]}"
    on sudo runuser -u pneumonia -- env HOME=/var/lib/pneumonia /opt/pneumonia/bin/run-sweep
    step "Passed, but for units, power-off and going on at boot, which need systemd-nspawn"
    exit
fi
# shellcheck source=infra/ansible/try_units.sh
source "$here/try_units.sh"
step "Passed"
