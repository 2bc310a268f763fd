"""The completion scripts of bash, zsh and fish, run in these shells."""

import os
import shutil
import subprocess
import sys

import pytest

from pneumonia.cli import VERBS, run
from pneumonia.cli.completion import completions
from pneumonia.errors import ConfigError

BASH = """
eval "$(pneumonia completion bash)"
complete -p pneumonia > /dev/null || exit 3
ask() {
    COMP_LINE="$1"; COMP_POINT=${#1}; COMPREPLY=(); _pneumonia_completion pneumonia; echo "${COMPREPLY[*]}"
}
"""
ZSH = """
compdef() { }; compadd() { print -nr -- "${@[(r)--,-1]} " }; _files() { print -nr FILES }
eval "$(pneumonia completion zsh)"
ask() {
    words=("${(@s: :)1}"); CURRENT=$#words; PREFIX=$words[CURRENT]; _pneumonia_completion; print
}
"""
FISH = """
pneumonia completion fish | source
function ask; string join -- ' ' (complete -C $argv[1] | string split -f 1 \\t); true; end
"""
SCRIPTS = {
    name: pytest.param(name, script, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed"))
    for name, script in (("bash", BASH), ("zsh", ZSH), ("fish", FISH))
}
LINES = {
    "pneumonia tr": {"train", "track"},
    "pneumonia train optimizer=ad": {"optimizer=adam", "optimizer=adamw", "optimizer=adagrad"},
    "pneumonia train experiment=article/fin": {"experiment=article/final", "experiment=article/final_kfold"},
    "pneumonia train model=mlp model.hid": {"model.hidden."},
    "pneumonia train --multi": {"--multirun"},
    "pneumonia sweep opt": {"optimizer"},
    "pneumonia sweep optimizer st": {"status"},
    "pneumonia sweep optimizer optimizer=sg": {"optimizer=sgd"},
    "pneumonia reproduce preset=s": {"preset=smoke"},
    "pneumonia data pu": {"push", "pull"},
    "pneumonia report runs --met": {"--metric"},
    "pneumonia report runs --metric au": {"auroc"},
    "pneumonia track dash": {"dashboard"},
    "pneumonia ru": {"runs"},
    "pneumonia runs --so": {"--sort"},
    "pneumonia runs --sort val/f": {"val/f1_macro"},
    "pneumonia runs --sort optimizer.l": {"optimizer.lr"},
    "pneumonia runs --where state=fin": {"state=finished"},
}
IN_SHELLS = [
    "pneumonia tr",
    "pneumonia train optimizer=ad",
    "pneumonia report runs --met",
    "pneumonia report runs --metric au",
]


@pytest.fixture
def command(tmp_path):
    """The environment of a shell that has the command `pneumonia`."""
    path = tmp_path / "pneumonia"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m pneumonia "$@"\n')
    path.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def _ask(shell, script, lines, command, folder):
    script += "\n".join(f'ask "{line}"' for line in lines)
    done = subprocess.run([shell, "-c", script], env=command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    completions = done.stdout.splitlines()
    assert len(completions) == len(lines), done.stdout
    return completions


@pytest.mark.parametrize("line", LINES)
def test_a_line_has_these_completions(line):
    typed = line.split()[-1]
    assert set(completions(line)) >= LINES[line]
    assert all(word.startswith(typed) for word in completions(line))


def test_an_empty_word_completes_to_all_verbs_and_keys():
    assert completions("pneumonia ") == list(VERBS)
    assert {"optimizer=", "batch_size=", "model.", "seed="} <= set(completions("pneumonia train "))


def test_options_joined_by_an_equals_sign_keep_their_name():
    assert completions("pneumonia report runs --metric=au") == ["--metric=auroc"]


def test_a_path_is_left_to_the_shell():
    assert completions("pneumonia report ") == []


@pytest.mark.parametrize(("shell", "script"), [SCRIPTS["zsh"], SCRIPTS["fish"]])
def test_zsh_and_fish_show_complete_arguments(shell, script, command, tmp_path):
    for line, completed in zip(IN_SHELLS, _ask(shell, script, IN_SHELLS, command, tmp_path), strict=True):
        assert LINES[line] <= set(completed.split()), line


@pytest.mark.parametrize(("shell", "script"), [SCRIPTS["bash"]])
def test_bash_replaces_the_text_after_the_equals_sign(shell, script, command, tmp_path):
    for line, completed in zip(IN_SHELLS, _ask(shell, script, IN_SHELLS, command, tmp_path), strict=True):
        assert {word.rpartition("=")[2] for word in LINES[line]} <= set(completed.split()), line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_that_calls_the_command(shell, capsys):
    assert run(["completion", shell]) == 0
    assert "PNEUMONIA_COMPLETE=" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_scripts_of_hydra_complete_too(command, tmp_path):
    script = """
eval "$(pneumonia train -sc install=bash)"
ask() {
    COMP_LINE="$1"; COMP_POINT=${#1}; local words=($1); COMP_CWORD=$((${#words[@]} - 1))
    COMPREPLY=(); hydra_bash_completion; echo "${COMPREPLY[*]}"
}
"""
    lines = ["pneumonia tr", "pneumonia train optimizer=adag", "pneumonia sweep see"]
    assert _ask("bash", script, lines, command, tmp_path) == ["train track", "optimizer=adagrad", "seeds"]
    asked = {**command, "COMP_LINE": "pneumonia sweep see"}
    done = subprocess.run(["pneumonia", "-sc", "query=fish"], env=asked, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["seeds"]


@pytest.mark.parametrize("arguments", [["-sc"], ["-sc", "install=tcsh"], ["-sc", "foo=bash"]])
def test_a_completion_that_does_not_exist_is_refused(arguments):
    for verb in ([], ["train"]):
        with pytest.raises(ConfigError, match=r"-sc needs install=SHELL .*pneumonia train -sc install=bash"):
            run([*verb, *arguments])
