#!/usr/bin/env bash
# Test all steps on one machine: vm-up, vm-sweep, loss of the VM in mid-sweep, a new one that resumes from Blob Storage, vm-pull, vm-down.
#
#   sudo infra/try_road.sh        a quarter of an hour, 15 GB for as long as it runs; CACHE=DIR keeps the Debian for the next time
#
# The VM is a Debian that really boots (ansible/try_machine.sh), set up over SSH by the playbook; Terraform makes built-in resources in the place of
# Google's (tests/infra/fake_gcloud); Blob Storage is the emulator Azurite. At the end results.csv is held against an undisturbed sweep's.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root_of_project=$(dirname "$here")
port=${PORT:-2222}
cache=${CACHE:-/var/cache/pneumonia-ansible-test}
# shellcheck disable=SC2034 # of try_machine.sh
mode=boot

fail() { echo "$(date +%T)  FAILED: $1" >&2; exit 1; }
step() { printf '%s  %s\n' "$(date +%T)" "$1"; }

[ "$(id -u)" = 0 ] || { echo "A Debian can be made by root alone: sudo infra/try_road.sh" >&2; exit 2; }
for tool in debootstrap ssh systemd-nspawn terraform make; do
    command -v $tool > /dev/null || { echo "There is no $tool here: apt-get install debootstrap openssh-client systemd-container make; terraform" >&2; exit 2; }
done
azurite=$root_of_project/.azurite/node_modules/.bin/azurite-blob
[ -x "$azurite" ] || { echo "There is no Azurite here: make test-azure installs it." >&2; exit 2; }
mkdir -p "$cache"
work=$(mktemp -d "$cache/road.XXXXXX")
blobs=""
# shellcheck source=infra/ansible/try_machine.sh
source "$here/ansible/try_machine.sh"
trap 'trap "" INT TERM; stop; kill ${blobs:-} 2> /dev/null; echo "Removing the Debian, which can take minutes"; rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM

# shellcheck disable=SC2154 # root is of try_machine.sh
new_machine() { rm -rf --one-file-system "$root" "$work/key" "$work/key.pub" "$work/known_hosts"; prepare; start; }
# Ours on the VM: how many jobs of the sweep are done.
# shellcheck disable=SC2154
done_jobs() { grep -c ',done,' "$root/var/lib/pneumonia/runs/seeds/results.csv" 2> /dev/null || true; }

step "Blob Storage, and a cloud that stands in for Google's"
blob_port=$((port + 8000))
"$azurite" --blobHost 127.0.0.1 --blobPort $blob_port --silent --disableTelemetry --skipApiVersionCheck --inMemoryPersistence &
blobs=$!
key='Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==' # every Azurite's
export AZURE_STORAGE_CONNECTION_STRING="DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=$key;BlobEndpoint=http://127.0.0.1:$blob_port/devstoreaccount1;"
cp -r "$root_of_project/tests/infra/fake_gcloud" "$work/module"
sed -i 's/192\.0\.2\.7/127.0.0.1/' "$work/module/main.tf"
mkdir "$work/behaviour"
echo 'exit 0' | tee "$work/behaviour/make.sh" > "$work/behaviour/remove.sh"
export PNEUMONIA_VM_MODULE=$work/module PNEUMONIA_VM_STATE=$work/state PNEUMONIA_VM_USER=try PNEUMONIA_VM_SSH_PORT=$port
export PNEUMONIA_VM_SSH_KEY=$work/key.pub TF_VAR_behaviour=$work/behaviour
export GOOGLE_OAUTH_ACCESS_TOKEN=stand-in GOOGLE_CLOUD_PROJECT=stand-in-project
vm=(make --no-print-directory -C "$root_of_project")
no_gpu="machine_type=e2-standard-2 gpu_type= gpu_count=0 caller_cidr=203.0.113.4/32"
overrides="seed=0,1,2 data.phantom.patients=60 image_size=32 model=simple_cnn max_epochs=80 trainer.accelerator=cpu dry_run=false"
sweep() { "${vm[@]}" vm-sweep SWEEP=seeds ARGS="$overrides backup.place=runs/try"; }

step "The first VM: make vm-up && make vm-sweep"
new_machine
"${vm[@]}" vm-up VM="$no_gpu"
sweep > "$work/sweep.log" 2>&1 || { tail -n 40 "$work/sweep.log"; fail "vm-sweep"; }
tail -n 3 "$work/sweep.log"
timeout 20 "${vm[@]}" vm-logs > "$work/logs.log" 2>&1 || true
grep -q 'How much of a difference is chance' "$work/logs.log" || { cat "$work/logs.log"; fail "vm-logs does not show the sweep"; }

step "It is taken away when one job is done and the next is at work"
for _ in $(seq 240); do [ "$(done_jobs)" -ge 1 ] && break; sleep 1; done
sleep 4
on sudo systemctl poweroff || true
gone 90 || fail "the VM has not powered off"
[ "$(done_jobs)" -lt 3 ] || fail "it was too late to interrupt anything"
echo "off, with $(done_jobs) of 3 jobs done"
"${vm[@]}" vm-pull > "$work/pull.log" 2>&1 && fail "vm-pull from a VM that is gone"
grep -q 'does not answer' "$work/pull.log" || { cat "$work/pull.log"; fail "vm-pull does not say that the VM is gone"; }
"${vm[@]}" vm-down

step "A new, empty VM resumes"
new_machine
"${vm[@]}" vm-up VM="$no_gpu"
"${vm[@]}" vm-setup ARGS="self_stop=false" > "$work/setup.log" 2>&1 || { tail -n 40 "$work/setup.log"; fail "vm-setup"; }
sweep > "$work/sweep.log" 2>&1 || { tail -n 40 "$work/sweep.log"; fail "vm-sweep"; }
for _ in $(seq 300); do [[ "$(on systemctl is-active pneumonia-sweep || true)" =~ ^activ ]] || break; sleep 1; done
on sudo journalctl --no-pager --unit=pneumonia-sweep | grep -E 'go on here|jobs;|Backed up' || fail "it does not resume from the backup"
[ "$(done_jobs)" = 3 ] || { on sudo journalctl --no-pager --unit=pneumonia-sweep | tail -n 30; fail "not all jobs are done"; }

step "The runs, fetched, against an undisturbed sweep"
"${vm[@]}" vm-pull ARGS="into=$work/runs"
"${vm[@]}" vm-cost
# shellcheck disable=SC2086 # overrides
(cd "$work" && "$root_of_project/.venv/bin/pneumonia" sweep seeds $overrides runs_dir=whole cache_dir=cache) > "$work/whole.log" 2>&1 || fail "the undisturbed sweep"
"$root_of_project/.venv/bin/python" - "$work/runs/seeds/results.csv" "$work/whole/seeds/results.csv" << 'END'
import sys
import pandas as pd
resumed, whole = (pd.read_csv(path).loc[:, lambda table: ~table.columns.str.startswith("cost.")] for path in sys.argv[1:])
pd.testing.assert_frame_equal(resumed, whole, check_exact=True)
print(f"equal in all {resumed.size} values of {len(resumed)} jobs")
END

step "make vm-down, twice"
"${vm[@]}" vm-down
"${vm[@]}" vm-down
step "Passed"
