#!/usr/bin/env bash
# `make infra-lint`: every check of infra/ that needs no cloud. A missing tool is named, and then the exit code is 1: a check that
# silently did not happen is worth nothing. The Python tools come from .venv-infra (and .venv-sky), which make makes.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export PATH="$PWD/.venv-infra/bin:$PATH" TF_IN_AUTOMATION=1 CHECKPOINT_DISABLE=1 ANSIBLE_CONFIG=infra/ansible/ansible.cfg
TF_DATA_DIR=$(mktemp -d)
export TF_DATA_DIR
trap 'rm -rf "$TF_DATA_DIR"' EXIT
failed=()

check() { # check NAME TOOL HOW-TO-GET-IT COMMAND...
    local name=$1 tool=$2 how=$3
    shift 3
    if ! command -v "$tool" > /dev/null; then
        echo "-- $name: not checked, $tool is missing: $how"
        failed+=("$name")
    elif "$@"; then
        echo "-- $name: fine"
    else
        echo "-- $name: see above"
        failed+=("$name")
    fi
}

choices=infra/terraform/modules/choices
terraform_test() {
    terraform -chdir=$choices init -backend=false -input=false -no-color > "$TF_DATA_DIR/init.log" || { cat "$TF_DATA_DIR/init.log"; return 1; }
    terraform -chdir=$choices test -no-color
}
mapfile -t scripts < <(find infra -path infra/.state -prune -o -type f -print0 | xargs -0 grep -lE '^#!.*\b(ba)?sh\b|^# shellcheck shell=' | sort)

install=https://developer.hashicorp.com/terraform/install
check 'terraform fmt' terraform "1.9 or newer from $install" terraform fmt -check -diff -recursive infra/terraform
check 'terraform test' terraform "1.9 or newer from $install" terraform_test
check checkov checkov 'make .venv-infra/.ready' checkov -d infra/terraform --framework terraform --skip-download --compact --quiet
if [ -d infra/ansible ]; then
    check ansible-lint ansible-lint 'make .venv-infra/.ready' ansible-lint --offline infra/ansible
fi
check shellcheck shellcheck 'apt-get install shellcheck, or brew install shellcheck' shellcheck "${scripts[@]}"
if [ -f infra/sky.yaml ]; then
    check 'sky.yaml' .venv-sky/bin/python 'make .venv-sky/.ready' \
        .venv-sky/bin/python -c 'import sky; print(sky.Task.from_yaml("infra/sky.yaml"))'
fi
if [ ${#failed[@]} -gt 0 ]; then
    printf 'Not in order: %s\n' "${failed[*]}"
    exit 1
fi
