"""Test that a VM is created in the first zone that has one, and that nothing is left running unnoticed."""

import json
import re
import shutil
import signal
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.infra import google_schema as google

REPOSITORY = Path(__file__).parents[2]
UP = ("up", "zones=us-central1-a,us-central1-b", "caller_cidr=203.0.113.4/32")


def test_vm_starts_with_its_price_and_is_removed_twice(caller):
    code, text = caller.up()
    assert code == 0, text
    assert "n1-standard-2, 1 x nvidia-tesla-t4, 50 GB pd-balanced, spot" in text
    assert "About 0.14 USD an hour" in text
    assert "estimate" in text
    assert "pneumonia-ada runs in us-central1-a at 192.0.2.7" in text
    assert caller.recorded() == ["clock", "machine", "network"]

    code, text = caller.call("cost")
    assert code == 0
    assert "Made 0.0 hours ago: at most 0.00 USD so far" in text

    code, text = caller.call("down")
    assert (code, caller.recorded(), caller.log()) == (0, [], ["made us-central1-a", "removed us-central1-a"])
    assert "pneumonia-ada is gone" in text
    code, text = caller.call("down")
    assert (code, "gone already" in text) == (0, True)


def test_down_without_any_record_needs_neither_credentials_nor_a_cloud(caller):
    del caller.environment["GOOGLE_APPLICATION_CREDENTIALS"]
    code, text = caller.call("down")
    assert (code, "nothing to remove" in text, "gcloud compute instances list" in text) == (0, True, True)


@pytest.mark.parametrize("text", [google.STOCKOUT, google.NO_GPU_HERE])
def test_zone_without_a_gpu_is_passed_over(caller, text):
    caller.zone_says(a=text)
    code, text = caller.up()
    assert code == 0, text
    assert "us-central1-a has none now" in text
    assert "runs in us-central1-b" in text
    assert caller.log() == ["made us-central1-b"]
    assert caller.recorded() == ["clock", "machine", "network"]


def test_no_gpu_in_any_zone_leaves_nothing_behind(caller):
    caller.zone_says(a=google.STOCKOUT, b=google.UNAVAILABLE)
    code, text = caller.up()
    assert (code, caller.recorded()) == (2, [])
    assert "No zone has 1 x nvidia-tesla-t4 now (tried us-central1-a, us-central1-b); nothing runs" in text
    assert "spot=false" in text


@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [
        (google.QUOTA, "https://console.cloud.google.com/iam-admin/quotas"),
        (google.REFUSED, "gcloud auth application-default login"),
        (google.TAKEN, "PNEUMONIA_VM_USER=OTHER"),
    ],
)
def test_refusal_of_every_zone_stops_with_a_remedy(caller, refusal, remedy):
    caller.zone_says(a=refusal)
    code, text = caller.up()
    assert (code, caller.recorded(), caller.log()) == (2, [], [])
    assert remedy in text
    assert "What was partly created is removed; nothing runs." in text
    assert "us-central1-b\n" not in text


@pytest.mark.parametrize(
    ("text", "kind", "remedy"),
    [
        (google.STOCKOUT, "stockout", None),
        (google.EXHAUSTED, "stockout", None),
        (google.UNAVAILABLE, "stockout", None),
        (google.NO_GPU_HERE, "no_gpu_here", None),
        (google.QUOTA, "quota", "iam-admin/quotas"),
        (google.QUOTA_GLOBAL, "quota", "GPUS_ALL_REGIONS"),
        (google.REFUSED, "credentials", "gcloud auth application-default login"),
        (google.NOT_ALLOWED, "permission", "roles/compute.admin"),
        (google.API_OFF, "api", "gcloud services enable compute.googleapis.com"),
        (google.NO_BILLING, "billing", "console.cloud.google.com/billing/projects"),
        (google.TAKEN, "taken", "PNEUMONIA_VM_USER=OTHER"),
    ],
)
def test_each_refusal_is_understood_however_terraform_breaks_its_lines(monkeypatch, text, kind, remedy):
    monkeypatch.syspath_prepend(REPOSITORY / "infra")
    from vm_troubles import REMEDIES, TRY_NEXT, trouble

    lines = textwrap.fill(text, 40, break_long_words=False, break_on_hyphens=False)
    broken = "╷\n" + textwrap.indent(lines, "│ ") + "\n╵\n"
    assert (trouble(text)[0], trouble(broken)[0]) == (kind, kind)
    assert remedy in REMEDIES[kind] if remedy else kind in TRY_NEXT


def test_unknown_error_is_shown_and_leaves_nothing(caller):
    caller.zone_says(a="Error: googleapi: Error 500: the backend is on fire")
    code, text = caller.up()
    assert (code, caller.recorded()) == (1, [])
    assert "the backend is on fire" in text
    assert "terraform.log" in text


def test_all_missing_settings_are_named_before_anything_is_created(caller):
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"):
        del caller.environment[name]
    caller.tool("gcloud", "exit 1")
    (caller.home / ".ssh" / "id_ed25519.pub").unlink()
    code, text = caller.up()
    assert code == 2
    for part in ("Nothing was made", "gcloud auth application-default login", "project=ID", "ssh-keygen -t ed25519"):
        assert part in text
    assert not caller.state.exists()


def test_missing_google_key_file_is_named(caller):
    caller.environment["GOOGLE_APPLICATION_CREDENTIALS"] = "/nowhere/key.json"
    code, text = caller.up()
    assert (code, "names /nowhere/key.json, which is no file" in text) == (2, True)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interruption_in_mid_apply_leaves_nothing(caller, kind):
    caller.say("slow")
    with caller.start(*UP) as process:
        caller.wait_for("started")
        assert caller.recorded() != []
        process.send_signal(kind)
        text, _ = process.communicate(timeout=30)
    assert (process.returncode, caller.recorded(), caller.log()) == (130, [], [])
    assert "Interrupted. What was partly created is removed; nothing runs." in text


def test_terminal_that_is_closed_in_mid_apply_leaves_nothing(caller):
    caller.say("slow")
    with caller.start(*UP) as process:
        caller.wait_for("started")
        process.stdout.close()  # nobody reads any more
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=30) == 130
    assert (caller.recorded(), caller.log()) == ([], [])


def test_impatient_second_interruption_does_not_stop_the_removal(caller):
    caller.up()
    caller.say("slow_removal")
    with caller.start("down") as process:
        caller.wait_for("removing")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=30)
    assert (process.returncode, caller.recorded()) == (0, []), text


def test_failed_removal_names_the_commands_to_run(caller):
    caller.up()
    caller.say("stuck")
    code, text = caller.call("down")
    assert code == 3
    assert "Still recorded, and perhaps running and costing money: terraform_data.machine, terraform_data.network" in text
    assert "gcloud compute instances delete pneumonia-ada --zone us-central1-a --project xray-study-12" in text
    caller.unsay("stuck")
    assert caller.call("down")[0] == 0
    assert caller.recorded() == []


def _killed_in_mid_apply(caller):
    caller.say("slow")
    with caller.start(*UP) as process:
        caller.wait_for("started")
        child = int(subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()[0])
        process.kill()
        subprocess.run(["kill", "-9", "--", f"-{child}"], check=True)  # its own session: terraform and what it started
    caller.unsay("slow")


@pytest.mark.skipif(shutil.which("pgrep") is None, reason="needs pgrep")
def test_half_applied_state_goes_down(caller):
    _killed_in_mid_apply(caller)
    assert caller.recorded() != []
    code, text = caller.call("down")
    assert (code, caller.recorded()) == (0, []), text
    assert caller.call("down")[0] == 0


@pytest.mark.skipif(shutil.which("pgrep") is None, reason="needs pgrep")
def test_partial_state_is_removed_or_completed_by_a_rerun(caller):
    _killed_in_mid_apply(caller)
    code, text = caller.up()
    # Whether the VM is in the record yet is a matter of milliseconds; if it is, it is kept.
    assert (code, "Removes first what an earlier attempt has left" in text or "is there already" in text) == (0, True)
    assert caller.recorded() == ["clock", "machine", "network"]


def test_second_start_reports_the_vm_and_its_cost(caller):
    caller.up()
    code, text = caller.up("idle_minutes=60")
    assert code == 0, text
    assert "Your VM is there already, in us-central1-a" in text
    assert "at most 0.00 USD so far" in text
    assert caller.log() == ["made us-central1-a"]


def test_up_again_with_another_machine_is_refused(caller):
    caller.up()
    code, text = caller.up("spot=false", "disk_gb=100")
    assert code == 2
    assert "disk_gb=50 (you ask for 100), spot=True (you ask for False)" in text
    assert caller.recorded() == ["clock", "machine", "network"]


def test_vm_of_another_machine_with_this_state_is_managed(caller):
    caller.up()
    (caller.state / "ada" / "vm.tfvars.json").unlink()
    assert "About 0.14 USD an hour" in caller.call("cost")[1]
    code, text = caller.up("disk_gb=100")
    assert (code, "disk_gb=50 (you ask for 100)" in text) == (2, True)
    del caller.environment["GOOGLE_CLOUD_PROJECT"]
    assert caller.call("down")[0] == 0
    assert caller.recorded() == []


def test_invalid_setting_blocks_neither_cleanup_nor_removal(caller):
    code, text = caller.up("idle_minutes=1")
    assert (code, caller.recorded()) == (2, [])
    assert "Idle minutes must be a whole number from 10" in text
    caller.up()
    assert caller.up("idle_minutes=1")[0] == 2
    assert caller.recorded(), "the VM is there as before"
    assert caller.call("down")[0] == 0
    assert caller.recorded() == []


def test_two_users_in_one_project_do_not_meet(new_caller):
    ada, bob = new_caller("ada"), new_caller("bob")
    assert ada.up()[0] == 0
    code, text = bob.up()
    assert (code, "pneumonia-bob runs" in text) == (0, True)
    assert bob.call("down")[0] == 0
    assert (ada.recorded(), bob.recorded()) == (["clock", "machine", "network"], [])


def test_names_that_google_does_not_allow_become_some_that_differ(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "infra")
    from vm_caller import user_name

    assert user_name("ada") == "ada"
    names = {user_name(raw) for raw in ("Ada", "a.da", "a-da", "a_da", "7", "x" * 30, "x" * 31, "ÅÄ")}
    assert len(names) == 8
    assert all(len(name) <= 20 and name[0].isalpha() and not name.endswith("-") for name in names)


def test_two_calls_at_once_do_not_meet(caller):
    caller.say("slow")
    with caller.start(*UP) as process:
        caller.wait_for("started")
        code, text = caller.call("down")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert (code, "Another vm-up or vm-down of yours is at work" in text) == (2, True)


def test_spoilt_record_is_named_with_its_backup(caller):
    caller.up()
    (caller.state / "ada" / "terraform.tfstate").write_text("{ not json")
    code, text = caller.call("down")
    assert code == 3
    assert "terraform.tfstate" in text
    assert "gcloud compute instances list --project xray-study-12 --filter=labels.owner=ada" in text


def test_dry_run_makes_nothing(caller):
    code, text = caller.up("--dry-run")
    assert (code, "About 0.14 USD an hour" in text, caller.state.exists()) == (0, True, False)


def test_secrets_are_neither_printed_nor_kept(caller):
    caller.environment |= {"AZURE_STORAGE_KEY": "s3cret-azure", "WANDB_API_KEY": "s3cret-wandb"}
    _, text = caller.up()
    kept = [path.read_bytes() for path in caller.state.rglob("*") if path.is_file() and "providers" not in path.parts]
    assert kept
    assert not any(b"s3cret" in part for part in [text.encode(), *kept])
    caller.call("down")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "'fly' is no command of vm.py. There are: up, setup, sweep"),
        ([], "'' is no command"),
        (["up", "spott=false"], "Did you mean spot=...?"),
        (["up", "nonsense"], "'nonsense' is not understood"),
        (["up", "spot=maybe"], "spot=maybe is neither true nor false"),
        (["up", "disk_gb=big"], "disk_gb=big is no whole number"),
        (["up", "zones="], "names no zone"),
        (["up", "ssh_key=/nowhere/key"], "There is no public key /nowhere/key.pub"),
        (["sweep"], "There is no sweep ''"),
        (["sweep", "optimiser"], "There is no sweep 'optimiser'.*one of: .*optimizer"),
        (["sweep", "../../etc/passwd"], "There is no sweep"),
        (["sweep", "optimizer", "--overrides", "data.root='x"], "Close the quotes"),
        (["sweep", "optimizer", "x=a\nb"], "line break"),
        (["sweep", "optimizer", "backup.place=c/p"], "No VM of ada is recorded here"),
        (["pull"], "pneumonia data pull"),
        (["logs"], "make vm-up"),
        (["setup", "weel=x"], "Did you mean wheel"),
    ],
)
def test_bad_arguments_are_refused_with_the_right_ones(caller, arguments, message):
    code, text = caller.call(*arguments)
    assert code == 2
    assert re.search(message.replace("?", r"\?"), text, re.DOTALL), text
    assert "Traceback" not in text


def test_terraform_missing_is_said(caller):
    caller.environment["PATH"] = str(caller.tools)
    code, text = caller.up()
    assert (code, "terraform is missing" in text) == (2, True)


# From here on a stand-in for ssh answers for the VM.

SSH = """
command="${@: -1}"
echo "$command" >> "$HOME/ssh.log"
[ -f "$HOME/gone" ] && { echo "ssh: connect to host 192.0.2.7 port 22: Connection timed out" >&2; exit 255; }
case "$command" in
  *"systemctl cat"*) [ -f "$HOME/set_up" ] ;;
  *"systemctl is-active"*) [ -f "$HOME/active" ] ;;
  "sudo cat"*) cat "$HOME/sweep.args" 2> /dev/null ;;
  *"tee /etc/pneumonia/sweep.args"*) cat > "$HOME/sweep.args" ;;
  *tar*) tar -C "$HOME/vm" -cf - runs --transform 's,^runs/*,./,' ;;
  *"command -v rsync"*) exit 1 ;;
esac
"""


@pytest.fixture
def vm(caller):
    caller.tool("ssh", SSH)
    assert caller.up()[0] == 0
    (caller.home / "set_up").touch()
    return caller


def test_sweep_is_written_word_by_word_and_started(vm):
    code, text = vm.call("sweep", "optimizer", "--overrides", "'data.root=my xrays' seed=0,1 backup.place=c/p")
    assert code == 0, text
    assert (vm.home / "sweep.args").read_text() == "optimizer\ndata.root=my xrays\nseed=0,1\nbackup.place=c/p\n"
    assert "Warning" not in text
    assert any("systemctl start --no-block pneumonia-sweep" in line for line in (vm.home / "ssh.log").read_text().splitlines())


def test_spot_vm_without_backup_is_warned_of(vm):
    code, text = vm.call("sweep", "optimizer")
    assert code == 0
    assert "Warning: no backup.place among the overrides, and a spot VM can be taken away" in text


def test_sweep_at_work_is_neither_restarted_nor_replaced(vm):
    vm.call("sweep", "optimizer", "backup.place=c/p")
    (vm.home / "active").touch()
    code, text = vm.call("sweep", "optimizer", "backup.place=c/p")
    assert (code, "at work there already" in text) == (0, True)
    code, text = vm.call("sweep", "mlp", "backup.place=c/p")
    assert (code, "Another sweep is at work there: optimizer backup.place=c/p" in text) == (2, True)
    assert (vm.home / "sweep.args").read_text().startswith("optimizer\n")


def test_unprepared_vm_is_set_up_first(vm):
    (vm.home / "set_up").unlink()
    wheel = vm.home / "pneumonia-0.1.0-py3-none-any.whl"
    wheel.touch()
    vm.tool(
        "ansible-playbook",
        'printf "%s\\n" "$@" > "$HOME/ansible.arguments"; exit "$(cat "$HOME/ansible.code" 2> /dev/null || echo 0)"',
    )
    refused = {"self_stop=maybe": "neither true nor false", "idle_minutes=x": "no whole number of minutes"}
    for override, message in refused.items():
        code, text = vm.call("setup", f"wheel={wheel}", override)
        assert (code, message in text) == (2, True), text
    code, text = vm.call("setup", f"wheel={wheel}", "self_stop=false")
    assert code == 0, text
    arguments = (vm.home / "ansible.arguments").read_text().splitlines()
    assert arguments[0] == "-i"
    assert arguments[2].endswith("infra/ansible/site.yml")
    extra = json.loads(arguments[4])
    assert extra["pneumonia_wheel"] == str(wheel)
    assert (extra["idle_minutes"], extra["self_stop"], extra["expect_gpu"], extra["install_driver"]) == (
        30,
        False,
        True,
        True,
    )
    inventory = (vm.state / "ada" / "inventory.ini").read_text()
    assert "ansible_host=192.0.2.7 ansible_user=ubuntu" in inventory

    (vm.home / "ansible.code").write_text("4")
    code, text = vm.call("setup", f"wheel={wheel}")
    assert (code, "went away in mid-setup" in text, "make vm-setup` resumes" in text) == (2, True, True)
    (vm.home / "ansible.code").write_text("2")
    code, text = vm.call("setup", f"wheel={wheel}")
    assert (code, "still runs and costs money" in text) == (1, True)


def test_runs_are_fetched_and_nothing_here_is_deleted(vm):
    (vm.home / "vm" / "runs" / "optimizer").mkdir(parents=True)
    (vm.home / "vm" / "runs" / "optimizer" / "results.csv").write_text("new\n")
    (vm.home / "runs" / "mine").mkdir(parents=True)
    code, text = vm.call("pull")
    assert code == 0, text
    assert (vm.home / "runs" / "optimizer" / "results.csv").read_text() == "new\n"
    assert (vm.home / "runs" / "mine").is_dir()


def test_interrupted_pull_never_replaces_a_whole_file(vm):
    vm.tool("rsync", "exit 1")
    (vm.home / "vm" / "runs").mkdir(parents=True)
    (vm.home / "vm" / "runs" / "best.ckpt").write_bytes(b"new" * 500_000)
    (vm.home / "runs").mkdir()
    (vm.home / "runs" / "best.ckpt").write_text("old")
    vm.tool("ssh", SSH.replace("s,^runs/*,./,'", "s,^runs/*,./,' | head -c 700000"))
    code, text = vm.call("pull")
    assert (code, "Not all runs were copied" in text) == (1, True), text
    assert [path.name for path in (vm.home / "runs").iterdir()] == ["best.ckpt"]
    assert (vm.home / "runs" / "best.ckpt").read_text() == "old"


@pytest.mark.parametrize("verb", [["sweep", "optimizer", "backup.place=c/p"], ["pull"], ["logs"], ["setup", "wheel=/bin/true"]])
def test_vm_that_has_vanished_is_said_to_be_gone(vm, verb):
    vm.tool("ansible-playbook", "exit 0")
    (vm.home / "gone").touch()
    code, text = vm.call(*verb)
    assert code == 2
    assert "`make vm-up` starts it again" in text
    assert "Traceback" not in text


def test_logs_look_on(vm):
    assert vm.call("logs")[0] == 0
    assert "journalctl -n 200 -fu pneumonia-sweep" in (vm.home / "ssh.log").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("disk_gb=5", "The disk must have 40 to 2000 GB"),
        ("gpu_type=nvidia-l4", "That machine type can't have that GPU"),
        ("zones=nowhere", "Zones are names like"),
    ],
)
def test_what_up_would_refuse_is_refused_when_it_only_says(caller, override, message):
    code, text = caller.up("--dry-run", override)
    assert code == 2
    assert message in text
    assert "USD" not in text, "no price of what can't be"
