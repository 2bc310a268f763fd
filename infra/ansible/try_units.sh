# The units on a machine that has booted: what they start, when they stop it, and that a sweep resumes. Sourced by try.sh.
# shellcheck shell=bash disable=SC2154

ended() { # ended SECONDS: waits until the unit does nothing, and says how its main process ended
    for _ in $(seq "$1"); do
        case $(on systemctl is-active pneumonia-sweep) in inactive | failed) on systemctl show --value --property=ExecMainStatus pneumonia-sweep; return ;; esac
        sleep 1
    done
    on sudo journalctl --no-pager --unit=pneumonia-sweep | tail -n 30 >&2
    fail "the sweep has not ended in $1 s"
}
said() { on sudo journalctl --no-pager --boot --unit="$1" | grep -q "$2" || { on sudo journalctl --no-pager --boot --unit="$1" | tail -n 20; fail "$1 did not say: $2"; }; }
done_jobs() { # done_jobs NAME
    grep -c ',done,' "$root/var/lib/pneumonia/runs/$1/results.csv" || true
}

step "The units"
on systemd-analyze verify /etc/systemd/system/pneumonia-{sweep.service,idle.service,idle.timer} || fail "systemd-analyze verify"
for name in AZURE_STORAGE_CONNECTION_STRING AZURE_STORAGE_SAS_TOKEN WANDB_API_KEY; do
    value=$(on sudo systemd-run --quiet --pipe --wait --property=User=pneumonia --property=EnvironmentFile=/etc/pneumonia/environment printenv $name)
    [ "$value" = "${!name}" ] || fail "systemd reads $name as <$value>"
done

step "Bad input: exit code 2, and the machine stays up"
ask no_such_sweep
on sudo systemctl start pneumonia-sweep || true
[ "$(ended 90)" = 2 ] || fail "exit code 2"
[ ! -e "$root/etc/pneumonia/sweep.done" ] || fail "bad input counts as done"

step "A sweep, and the power-off after it"
ask "${overrides[@]}"
on sudo systemctl start pneumonia-sweep
[ "$(ended 240)" = 0 ] || fail "exit code 0"
[ "$(done_jobs seeds)" = 2 ] || fail "not both jobs are done"
gone 90 || fail "the machine has not powered off after the sweep"

step "Started again, it runs nothing and stays up"
start
on sudo -u pneumonia touch /var/lib/pneumonia/stay-up
said pneumonia-sweep 'is done. Write its arguments again'
on test ! -e /run/pneumonia/done || fail "it would power off at once"

step "A sweep that the machine is taken from"
ask "${overrides[@]}" name=cut "seed=0,1,2" max_epochs=60
on sudo systemctl start pneumonia-sweep
for _ in $(seq 120); do grep -qs '^1[0-9],' "$root"/var/lib/pneumonia/runs/cut/*/metrics.csv && break; sleep 1; done
on sudo systemctl poweroff || true
begun=$SECONDS
gone 60 || fail "the machine has not powered off"
echo "off after $((SECONDS - begun)) s, with $(done_jobs cut) of 3 jobs done"
[ "$(done_jobs cut)" -lt 3 ] || fail "it was too late to interrupt anything"

step "Started again, it resumes by itself"
start
on sudo journalctl --no-pager --boot=-1 --unit=pneumonia-sweep | tail -n 5
[[ "$(on systemctl is-active pneumonia-sweep)" =~ ^activ ]] || fail "the sweep does not resume at boot"
[ "$(ended 300)" = 0 ] || fail "exit code 0"
[ "$(done_jobs cut)" = 3 ] || fail "not all jobs are done"

step "stay-up keeps it up, and without it it goes"
sleep 70
on true || fail "it has powered off in spite of stay-up"
on sudo rm /var/lib/pneumonia/stay-up
gone 90 || fail "the machine has not powered off after the sweep"

step "Idle: it powers off after a minute or two"
start
gone 150 || fail "the machine has not powered off"
