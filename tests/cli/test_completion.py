"""The shell completes `pneumonia` with what the installed function says: really asked, in a bash."""

import os
import shutil
import subprocess
import sys

import pytest

from pneumonia.cli.train import run
from pneumonia.errors import ConfigError

ASK = """
eval "$(pneumonia train -sc install=bash)"
complete -p pneumonia > /dev/null || exit 3
ask() {
    COMP_LINE="$1"; COMP_POINT=${#1}; local words=($1); COMP_CWORD=${#words[@]}
    [[ "$1" == *" " ]] || COMP_CWORD=$((COMP_CWORD - 1))
    COMPREPLY=(); hydra_bash_completion; echo "${COMPREPLY[*]}"
}
"""
LINES = {
    "pneumonia tr": {"train", "track"},
    "pneumonia train ": {"optimizer=", "batch_size=", "model.", "seed="},
    "pneumonia train optimizer=ad": {"optimizer=adam", "optimizer=adamw", "optimizer=adagrad"},
    "pneumonia train model=mlp model.hid": {"model.hidden."},
    "pneumonia sweep opt": {"optimizer"},
    "pneumonia sweep optimizer st": {"status"},
    "pneumonia sweep optimizer optimizer=sg": {"optimizer=sgd"},
    "pneumonia reproduce preset=s": {"preset=smoke"},
    "pneumonia data pu": {"push", "pull"},
}


@pytest.fixture
def command(tmp_path):
    """A folder with the command `pneumonia`, as an installation puts it on PATH."""
    path = tmp_path / "pneumonia"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m pneumonia "$@"\n')
    path.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_verbs_sweeps_and_overrides(command, tmp_path):
    script = ASK + "\n".join(f'ask "{line}"' for line in LINES)
    done = subprocess.run(
        ["bash", "-c", script], env=command, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == len(LINES), done.stdout
    for (line, expected), answer in zip(LINES.items(), answers, strict=True):
        found = set(answer.split())
        assert expected <= found, line
        typed = "" if line.endswith(" ") else line.split()[-1]
        assert all(word.startswith(typed) for word in found), line


def test_fish_and_zsh_get_a_completion_of_the_same_command(command, tmp_path):
    for shell in ("fish", "zsh"):
        words = ["pneumonia", "train", "-sc", f"install={shell}"]
        done = subprocess.run(words, env=command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "-sc query=" in done.stdout
        assert "pneumonia" in done.stdout
    words = ["pneumonia", "-sc", "query=fish"]
    asked = {**command, "COMP_LINE": "pneumonia sweep see"}
    done = subprocess.run(words, env=asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["seeds"]


@pytest.mark.parametrize("words", [["-sc"], ["-sc", "install=tcsh"], ["-sc", "foo=bash"]])
def test_a_completion_that_does_not_exist_is_refused(words):
    with pytest.raises(ConfigError, match=r"-sc needs install=SHELL .*eval \"\$\(pneumonia train -sc install=bash\)\""):
        run(words)
