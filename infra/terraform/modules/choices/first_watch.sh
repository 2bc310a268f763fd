# shellcheck shell=bash
# Runs at each boot, with IDLE_MINUTES set. Until vm-setup has installed the idle watch, this stands in for it: a VM whose setup broke
# or never came stops itself after IDLE_MINUTES without an SSH connection, instead of costing money unseen.
# shellcheck disable=SC2016 # the inner shell expands these
systemd-run --unit=pneumonia-first-watch --collect /bin/bash -c '
    quiet=0
    while [ ! -e /etc/systemd/system/pneumonia-idle.timer ]; do
        if [ -n "$(ss -Htn state established "( sport = :22 )")" ]; then quiet=0; else quiet=$((quiet + 1)); fi
        if [ "$quiet" -gt "$1" ]; then systemctl poweroff; exit; fi
        sleep 60
    done' first-watch "$IDLE_MINUTES"
