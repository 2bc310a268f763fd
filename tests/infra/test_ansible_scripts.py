"""Test the scripts of the GPU machine: what they run, and when they would power it off."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import jinja2
import pytest

ANSIBLE = Path(__file__).parents[2] / "infra" / "ansible"
SCRIPTS = ANSIBLE / "files"
UPTIME = Path("/proc/uptime")

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or not UPTIME.exists(),
    reason="the scripts are for bash on Linux; this machine lacks one",
)


class Machine:
    """Folders of a machine, and fakes of the commands that inspect it."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.work, self.run, self.bin = (folder / name for name in ("etc", "work", "run", "bin"))
        for path in (self.etc, self.work, self.run, self.bin):
            path.mkdir()
        self.stopped = folder / "stopped"
        self.is_now(unit="inactive")
        self.command("wall", "cat > /dev/null")
        self.command("poweroff", f"touch {self.stopped}")

    def command(self, name: str, body: str) -> Path:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
        return path

    def is_now(self, unit: str = "inactive", processes: tuple[str, ...] = ()) -> None:
        """Set what systemctl and pgrep report; pgrep's patterns are matched with real command lines."""
        self.command("systemctl", f"echo {unit}; [ {unit} = active ]")
        lines = "\n".join(processes)
        self.command("pgrep", f"shift; grep -E -- \"$1\" << 'END'\n{lines}\nEND")

    def asks(self, *arguments: str) -> None:
        (self.etc / "sweep.args").write_text("".join(f"{argument}\n" for argument in arguments))

    def call(self, script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PNEUMONIA_ETC": str(self.etc),
            "PNEUMONIA_WORK": str(self.work),
            "PNEUMONIA_RUN": str(self.run),
            "STOP_COMMAND": str(self.bin / "poweroff"),
            "SELF_STOP": "true",
            "GRACE_MINUTES": "2",
            "IDLE_MINUTES": "30",
            **settings,
        }
        command = ["bash", str(SCRIPTS / script), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)

    def ends(self, code: int, result: str | None = None, how: str = "exited") -> None:
        result = result or ("success" if code in (0, 130) else "exit-code")
        self.call("idle-watchdog", "ended", SERVICE_RESULT=result, EXIT_CODE=how, EXIT_STATUS=str(code))

    def passes(self, minutes: int) -> None:
        """Let minutes pass, by moving recorded times back."""
        for path in (self.run / "busy", self.run / "done"):
            if path.exists():
                path.write_text(str(int(path.read_text()) - 60 * minutes))

    def watch(self, **settings: str) -> bool:
        """Return whether the machine powers off at the next check."""
        answer = self.call("idle-watchdog", "watch", **settings)
        assert answer.returncode == 0, answer.stderr
        return self.stopped.exists()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def _due(machine):
    return machine.call("idle-watchdog", "due").returncode == 0


def test_overrides_reach_the_sweep_one_a_line(machine):
    command = machine.command("pneumonia", 'pwd; printf "<%s>\\n" "$@"')
    (machine.etc / "sweep.args").write_text("seeds\r\nmodel.hidden=[4, 8]\n\n  \nname=$HOME `id` * 'x'")
    answer = machine.call("run-sweep", PNEUMONIA_COMMAND=str(command))
    assert answer.stdout.splitlines() == [
        str(machine.work), "<sweep>", "<seeds>", "<model.hidden=[4, 8]>", "<name=$HOME `id` * 'x'>"
    ]  # fmt: skip


def test_script_returns_the_exit_code_of_the_sweep(machine):
    machine.asks("seeds")
    assert machine.call("run-sweep", PNEUMONIA_COMMAND=str(machine.command("pneumonia", "exit 130"))).returncode == 130


def test_without_words_there_is_nothing_to_do(machine):
    answer = machine.call("run-sweep")
    assert (answer.returncode, "nothing to do" in answer.stdout) == (0, True)


def test_empty_file_of_words_is_bad_input(machine):
    machine.asks("  ")
    answer = machine.call("run-sweep")
    assert answer.returncode == 2
    assert "it is not known which sweep to run" in answer.stderr


@pytest.mark.parametrize("code", [0, 1])
def test_finished_sweep_powers_off_after_the_grace_period(machine, code):
    machine.asks("seeds")
    assert _due(machine)
    machine.ends(code)
    machine.is_now(processes=("sshd: ubuntu@pts/0",))
    assert not machine.watch()
    machine.passes(2)
    assert machine.watch()


def test_finished_sweep_is_not_repeated_at_boot(machine):
    machine.asks("seeds")
    _due(machine)
    machine.ends(0)
    shutil.rmtree(machine.run)  # a boot
    assert not _due(machine)
    machine.ends(1, result="exec-condition")  # what systemd says then
    assert not machine.watch()
    machine.passes(29)
    assert not machine.watch()
    machine.passes(1)
    assert machine.watch()


def test_same_words_written_anew_are_run_anew(machine):
    machine.asks("seeds")
    _due(machine)
    machine.ends(0)
    assert not _due(machine)
    written = (machine.etc / "sweep.args").stat().st_mtime_ns
    os.utime(machine.etc / "sweep.args", ns=(written, written + 10**9))
    assert _due(machine)
    machine.passes(5)
    assert not machine.watch(), "the end of an earlier sweep does not stop a later one"


def test_overrides_written_while_a_sweep_ends_are_run(machine):
    machine.asks("seeds")
    _due(machine)
    machine.asks("optimizer")
    machine.ends(0)
    assert _due(machine)


@pytest.mark.parametrize(
    ("code", "result", "how"),
    [
        (2, None, "exited"),
        (130, None, "exited"),
        (9, "signal", "killed"),
        (9, "oom-kill", "killed"),
        (203, None, "exited"),
    ],
)
def test_bad_input_a_stop_and_a_crash_are_not_done(machine, code, result, how):
    machine.asks("seeds")
    _due(machine)
    machine.ends(code, result, how)
    assert _due(machine)
    machine.watch()
    machine.passes(29)
    assert not machine.watch(), "its user can look for as long as the machine may be idle"


@pytest.mark.parametrize("unit", ["active", "activating", "deactivating"])
def test_sweep_keeps_the_machine_up(machine, unit):
    machine.is_now(unit=unit)
    machine.watch()
    machine.passes(500)
    assert not machine.watch()


@pytest.mark.parametrize(
    ("process", "stays"),
    [
        ("sshd: ubuntu@notty", True),
        ("sshd-session: ubuntu@pts/0", True),
        ("/opt/pneumonia/venv/bin/python /opt/pneumonia/venv/bin/pneumonia train", True),
        ("sshd: root [priv]", False),
        ("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", False),
        ("tail -f /opt/pneumonia/venv/bin/x", False),
    ],
)
def test_people_and_programs_of_the_project_keep_the_machine_up(machine, process, stays):
    machine.is_now(processes=(process,))
    machine.watch()
    machine.passes(30)
    assert machine.watch() != stays


def test_idle_counts_from_the_last_one_who_left(machine):
    machine.is_now(processes=("sshd: ubuntu@pts/0",))
    machine.watch()
    machine.passes(100)
    machine.watch()
    machine.is_now()
    assert not machine.watch()
    machine.passes(30)
    assert machine.watch()


def test_stay_up_keeps_it_up_whatever_is_done_or_idle(machine):
    machine.asks("seeds")
    _due(machine)
    machine.ends(0)
    (machine.work / "stay-up").touch()
    machine.watch()
    machine.passes(500)
    assert not machine.watch()
    (machine.work / "stay-up").unlink()
    assert machine.watch()


def test_without_self_stop_the_idle_watchdog_decides(machine):
    machine.asks("seeds")
    _due(machine)
    machine.ends(0)
    machine.passes(10)
    assert not machine.watch(SELF_STOP="false")
    machine.passes(30)
    assert machine.watch(SELF_STOP="false")


def test_idle_minutes_of_zero_never_stop_it(machine):
    machine.watch()
    machine.passes(5000)
    assert not machine.watch(IDLE_MINUTES="0")


def test_credentials_are_quoted_as_systemd_reads_them():
    """Inside double quotes systemd takes backslashes before the four characters that a shell does, so that a shell can check."""
    template = (ANSIBLE / "templates" / "environment.j2").read_text()
    values = {"A_KEY": """  sv=1&sig=a+b/c==; "q" 's' $HOME `id` \\back\\ # {{ 1 }} ü""", "B": "plain"}
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)
    environment.filters["regex_replace"] = lambda value, pattern, by: re.sub(pattern, by, value)
    text = environment.from_string(template).render(credentials_found=list(values), lookup=lambda _, name: values[name])
    for name, value in values.items():
        answer = subprocess.run(
            ["bash", "-c", f'{text}\nprintf %s "${name}"'],
            env={},
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        assert answer.stdout == value
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize("path", sorted([*SCRIPTS.iterdir(), *ANSIBLE.glob("*.sh")]), ids=lambda path: path.name)
def test_script_can_be_parsed(path):
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, timeout=20, check=False).returncode == 0
