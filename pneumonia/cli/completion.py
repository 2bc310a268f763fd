"""`pneumonia completion SHELL`: complete verbs, options, sweeps and overrides on a shell's command line.

The scripts call ``pneumonia`` with the line up to the cursor in ``PNEUMONIA_COMPLETE``. The scripts of
``pneumonia train -sc install=SHELL`` (Hydra's own) call ``pneumonia -sc query=SHELL`` and get the same completions.
"""

import os
from contextlib import suppress
from typing import Final

import click
from click.shell_completion import ShellComplete, split_arg_string

from pneumonia.cli.parsing import Verb

# Bash replaces only what follows the last of COMP_WORDBREAKS. A space follows a completion unless more can follow.
BASH: Final = r"""
_pneumonia_completion() {
    local line=${COMP_LINE:0:COMP_POINT} reply
    local word=${line##*[[:space:]]}
    local kept=${word%"${word##*[=:]}"}
    [[ $COMP_WORDBREAKS == *=* ]] || kept=
    COMPREPLY=()
    while IFS= read -r reply; do
        case $reply in *[=./]) ;; *) reply+=" " ;; esac
        COMPREPLY+=("${reply#"$kept"}")
    done < <(PNEUMONIA_COMPLETE=$line "${1/#\~/$HOME}" 2> /dev/null)
}
complete -o nospace -o bashdefault -o default -F _pneumonia_completion pneumonia
"""
ZSH: Final = r"""#compdef pneumonia
_pneumonia_completion() {
    local -a replies
    replies=(${(f)"$(PNEUMONIA_COMPLETE="${(j: :)words[1,CURRENT-1]} $PREFIX" ${~words[1]} 2> /dev/null)"})
    (( $#replies )) || { _files; return }
    compadd -S '' -- ${(M)replies:#*[=./]}
    compadd -- ${replies:#*[=./]}
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _pneumonia_completion "$@"; else compdef _pneumonia_completion pneumonia; fi
"""
FISH: Final = r"""
function _pneumonia_completion
    set -l replies (PNEUMONIA_COMPLETE=(commandline -pc | string collect) pneumonia 2> /dev/null)
    if test -n "$replies"
        printf '%s\n' $replies
    else
        __fish_complete_path (commandline -ct)
    end
end
complete --no-files --command pneumonia --arguments '(_pneumonia_completion)'
"""
SCRIPTS: Final = {"bash": BASH, "zsh": ZSH, "fish": FISH}


@click.command(
    cls=Verb,
    examples=[
        'bash   eval "$(pneumonia completion bash)"      in ~/.bashrc',
        'zsh    eval "$(pneumonia completion zsh)"       in ~/.zshrc, after compinit',
        "fish   pneumonia completion fish | source       in ~/.config/fish/config.fish",
    ],
)
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(list(SCRIPTS)))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    It completes verbs, options, names of sweeps, config keys, and the choices of config groups.
    """
    click.echo(SCRIPTS[shell].strip())


def completions(line: str) -> list[str]:
    """Return the completions of a command line; none where a path is expected."""
    from pneumonia.cli import GROUP

    before = split_arg_string(line)[1:]
    typed = before.pop() if before and not line[-1:].isspace() else ""
    found = ShellComplete(GROUP, {}, "pneumonia", "").get_completions(before, typed)
    joined = f"{typed.partition('=')[0]}=" if typed.startswith("-") and "=" in typed else ""  # --split=te
    return [joined + item.value for item in found if item.type == "plain"]


def answer_hydra(arguments: list[str]) -> int:
    """Answer ``-sc query=SHELL`` of Hydra's scripts, whose line is in ``COMP_LINE``; leave ``-sc install=SHELL`` to Hydra."""
    from pneumonia.cli import train

    task, _, shell = arguments[-1].partition("=")
    if task != "query":
        return train.run(arguments)
    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    found = completions(line[: int(point)] if point.isdecimal() else line)
    print(("\n" if shell == "fish" else " ").join(found))
    return 0


def override_completions(verb: str, before: list[str], typed: str) -> list[str]:
    """Return the arguments of a Hydra verb that start with ``typed``, after the arguments ``before`` it."""
    from pneumonia.config.keys import conf_dir

    own: list[str] = []
    if verb == "sweep":
        own = ["status"] if before else sorted(path.stem for path in conf_dir("sweeps").glob("*.yaml"))
        overrides = before[1:]
    else:
        overrides = before
    if verb == "reproduce":
        own = sorted(f"preset={path.stem}" for path in (conf_dir() / "reproduce").glob("*.yaml"))
    own = [one for one in own if one.startswith(typed)]
    return own if verb == "sweep" and not before else own + _from_hydra(overrides, typed)


def _from_hydra(before: list[str], typed: str) -> list[str]:
    """Return Hydra's options, config groups with their choices, and config keys."""
    from hydra._internal.core_plugins.bash_completion import BashCompletion
    from hydra._internal.utils import get_args_parser
    from hydra.core.global_hydra import GlobalHydra

    from pneumonia.config.compose import hydra_session
    from pneumonia.config.keys import conf_dir

    if typed.startswith("-"):
        return sorted(name for name in get_args_parser()._option_string_actions if name.startswith(typed))
    group, equals, _ = typed.partition("=")
    folder = conf_dir() / group
    nested = sorted(folder.glob("*/**/*.yaml")) if equals and group.isidentifier() else []  # Hydra lists no subfolders
    found = [f"{group}={path.relative_to(folder).with_suffix('')}" for path in nested]
    found = [one for one in found if one.startswith(typed)]
    with suppress(Exception), hydra_session(conf_dir()):  # an override may be bad yet
        plugin = BashCompletion(GlobalHydra.instance().config_loader())
        found += plugin._query("train", " ".join([*before, typed]))
    return found
