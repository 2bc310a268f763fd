"""Create a VM in the first zone that has the GPU, start it again, price it, and remove it completely."""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from vm_caller import STUDY, Workspace, credentials_missing, terraform_missing
from vm_choice import OWN, describe, read_settings, settle
from vm_errors import BROKEN, INTERRUPTED, MAY_RUN, REMEDY, VmError, say
from vm_prices import price
from vm_terraform import Interruptions, Recorded, Terraform, check_choice
from vm_troubles import REMEDIES, TRY_NEXT, may_still_run, trouble


def up(mine: Workspace, arguments: Sequence[str]) -> int:
    """Create the VM in the first zone that has the GPU, or start the existing one."""
    dry = "--dry-run" in arguments
    defaults = json.loads(STUDY.read_text())
    choice = settle(mine, read_settings([argument for argument in arguments if argument != "--dry-run"], [*defaults, *OWN]))
    check_choice(choice)
    say(describe(mine, choice))
    if dry:
        say("Nothing was made (--dry-run).")
        return 0
    with only_one(mine), Interruptions().watched() as signals:
        terraform = Terraform(mine, signals)
        terraform.init()
        there = terraform.recorded()
        if there.has_vm:
            return again(terraform, choice, there)
        if there.addresses:
            say(f"Removes first what an earlier attempt has left: {', '.join(there.addresses)}")
            remove(terraform, "An earlier attempt has left things.")
        mine.known_hosts.unlink(missing_ok=True)
        try:
            return first_time(terraform, choice)
        except OSError as error:  # a full disk here, say
            remove(terraform, f"{error}.")
            raise VmError(f"{error}. What was partly created is removed; nothing runs.", BROKEN) from error


def first_time(terraform: Terraform, choice: dict[str, Any]) -> int:
    """Try zone after zone. What a failed zone has left is replaced in the next, and removed after the last."""
    mine, signals = terraform.workspace, terraform.signals
    for zone in choice["zones"]:
        if signals.stopping():
            break
        mine.note(choice | {"zone": zone})
        say(f"Tries {zone}")
        code, text = terraform.apply()
        if code == 0 and not signals.stopping():
            return ready(terraform)
        kind, message = trouble(text)
        if signals.stopping():
            break
        if kind in TRY_NEXT:
            say(f"  {zone} has none now.")
            continue
        if kind == "locked":
            raise VmError(f"{REMEDIES[kind]} Its message: {message}")
        remedy = REMEDIES.get(kind, f"The output of Terraform is in {terraform.log}.")
        if kind == "taken":
            remedy += "\n" + may_still_run(mine)
        remove(terraform, f"{message}\n{remedy}")
        code = BROKEN if kind == "other" else REMEDY
        raise VmError(f"{message}\n{remedy}\nWhat was partly created is removed; nothing runs.", code)
    if signals.stopping():
        remove(terraform, "Interrupted.")
        raise VmError("Interrupted. What was partly created is removed; nothing runs.", INTERRUPTED)
    none = f"No zone has {choice['gpu_count']} x {choice['gpu_type']} now (tried {', '.join(choice['zones'])})"
    remove(terraform, f"{none}.")
    raise VmError(
        f"{none}; nothing runs. GPUs come and go by the hour: try again later, take an on-demand VM, of which there are more "
        "(spot=false), other zones (zones=asia-east1-a,...), or another GPU (machine_type=g2-standard-4 gpu_type=nvidia-l4)."
    )


def again(terraform: Terraform, choice: dict[str, Any], there: Recorded) -> int:
    """Start a stopped VM, and allow SSH from the current address; never replace or remove it."""
    mine = terraform.workspace
    noted = mine.choice() or there.choice()
    follow = ("ssh_public_key", "caller_cidr", "ssh_key", "idle_minutes", "budget", "zone", "zones")
    other = sorted(key for key, value in noted.items() if key not in follow and choice.get(key) != value)
    if other:
        changes = ", ".join(f"{key}={noted[key]} (you ask for {choice.get(key)})" for key in other)
        raise VmError(
            f"Your VM is there, with {changes}. It is not changed while it may be at work: "
            "`make vm-pull vm-down` first, or leave these arguments out."
        )
    zone = noted.get("zone") or there.outputs.get("zone") or choice["zones"][0]
    mine.note(choice | {"zone": zone, "zones": sorted({*choice["zones"], zone})})
    say(f"Your VM is there already, in {zone}. {so_far(mine, there)} Looks whether it runs, and starts it if not.")
    code, text = terraform.apply()
    if terraform.signals.stopping():
        raise VmError("Interrupted. Your VM is recorded as before, and may run: `make vm-down` removes it.", MAY_RUN)
    if code == 0:
        if terraform.recorded().outputs.get("created") != there.outputs.get("created"):
            mine.known_hosts.unlink(missing_ok=True)  # it had vanished, and this is another one
        return ready(terraform)
    if noted:
        mine.note(noted | {"ssh_key": choice["ssh_key"]})
    kind, message = trouble(text)
    hint = (
        f"{zone} has no such GPU for it now. Try again later; or `make vm-down vm-up` for a new one in any zone: "
        "a sweep with backup.place resumes there."
        if kind in TRY_NEXT
        else REMEDIES.get(kind, f"The output of Terraform is in {terraform.log}.")
    )
    raise VmError(f"{message}\n{hint}\nYour VM is recorded as before, and may run; `make vm-down` removes it.", MAY_RUN)


def ready(terraform: Terraform) -> int:
    """Print where the VM is and what to do next."""
    outputs = terraform.recorded().outputs
    mine = terraform.workspace
    say(f"{mine.name} runs in {outputs.get('zone')} at {outputs.get('address')}. {price(mine.choice())}.")
    say("Next: `make vm-sweep SWEEP=NAME` (sets it up first, ten minutes), and `make vm-down` at the end.")
    return 0


def remove(terraform: Terraform, why: str) -> None:
    """Remove what is recorded.

    Raises:
        VmError: The removal failed; the message names what may still run, and how to remove it by hand.
    """
    if not terraform.recorded().addresses:
        return
    failed, text = terraform.destroy()
    if failed:
        left = ", ".join(terraform.recorded().addresses) or "unknown"
        raise VmError(
            f"{why}\nAnd then not all could be removed: {trouble(text)[1]}\n"
            f"Still recorded, and perhaps running and costing money: {left}.\n"
            f"`make vm-down` tries again. {may_still_run(terraform.workspace)}",
            MAY_RUN,
        )


def down(mine: Workspace, arguments: Sequence[str]) -> int:
    """Remove all that is recorded; without a record there is nothing to do."""
    read_settings(arguments, [])
    if missing := terraform_missing():
        raise VmError(missing, MAY_RUN)
    with only_one(mine), Interruptions().watched() as signals:
        terraform = Terraform(mine, signals)
        if terraform.nothing_recorded():
            say(
                f"No VM of {mine.user} is recorded on this machine; nothing to remove. What runs in a project:\n"
                f"    gcloud compute instances list --project PROJECT --filter=labels.owner={mine.user}"
            )
            return 0
        try:
            terraform.init()
        except VmError as error:
            raise VmError(f"{error}\nYour VM may still run. {may_still_run(mine)}", MAY_RUN) from error
        there = terraform.recorded()
        if not there.addresses:
            say(f"{mine.name} is gone already; nothing of it runs.")
            return 0
        if missing := credentials_missing():
            raise VmError(f"Nothing was removed: {missing}\nStill recorded: {', '.join(there.addresses)}", MAY_RUN)
        say(f"Removes {mine.name} with its disk; runs that were neither pulled nor backed up go with it. {so_far(mine, there)}")
        remove(terraform, "Not all was removed.")
        say(f"{mine.name} is gone; nothing of it runs or costs money.")
        return 0


def cost(mine: Workspace, arguments: Sequence[str]) -> int:
    """Print what the VM has cost at most."""
    read_settings(arguments, [])
    if Terraform(mine, Interruptions()).nothing_recorded():
        say(f"No VM of {mine.user} is recorded here. One as `make vm-up` makes it: {price(json.loads(STUDY.read_text()))}.")
        return 0
    say(so_far(mine, look(mine)))
    say("The bill is at https://console.cloud.google.com/billing, by the labels owner and budget.")
    return 0


def so_far(mine: Workspace, there: Recorded) -> str:
    """Return hours and cost since the VM was created."""
    made, choice = there.outputs.get("created"), mine.choice() or there.choice()
    if not made or not choice:
        return "How long it has been there is not recorded."
    hours = max((datetime.now(UTC) - datetime.fromisoformat(made)).total_seconds() / 3600, 0.0)
    hourly = price(choice)
    if hourly.running is None:
        return f"Made {hours:.1f} hours ago. {hourly}."
    total = hours * hourly.running
    return f"Made {hours:.1f} hours ago: at most {total:.2f} USD so far, less if it was stopped meanwhile. {hourly}."


def look(mine: Workspace) -> Recorded:
    """Return the VM that is recorded.

    Raises:
        VmError: There is none.
    """
    if missing := terraform_missing():
        raise VmError(missing)
    terraform = Terraform(mine, Interruptions())
    if not terraform.nothing_recorded():
        terraform.init()
        if (there := terraform.recorded()).has_vm:
            return there
    raise VmError(
        f"No VM of {mine.user} is recorded here: `make vm-up` makes one. Runs of one that is gone are in Blob Storage, if its "
        "sweep had backup.place=CONTAINER/PREFIX: pneumonia data pull CONTAINER/PREFIX runs"
    )


@contextmanager
def only_one(mine: Workspace) -> Iterator[None]:
    """Create and remove from one terminal at a time; the kernel frees the lock of a killed process."""
    mine.folder.mkdir(parents=True, exist_ok=True)
    with open(mine.folder / "lock", "w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise VmError(
                "Another vm-up or vm-down of yours is at work. Wait for it, or stop it with Ctrl-C in its terminal."
            ) from error
        yield
