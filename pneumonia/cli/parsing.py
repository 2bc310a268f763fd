"""Commands, groups and options of the command line, on top of click."""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem

from pneumonia.config.names import ON_BAD_IMAGE
from pneumonia.errors import ConfigError, nearest

Function = TypeVar("Function", bound=Callable[..., Any])
SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 120, "show_default": True}
OVERRIDE: Final = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
OTHER_NAMES: Final = {
    "data.root": "data",
    "data=azure": "azure",
    "split": "method",
    "cases": "gallery",
}  # keys: options


class Verb(click.Command):
    """A command that takes paths and options, and refuses ``key=value`` with the option to use."""

    def __init__(self, name: str | None, examples: Sequence[str], **attributes: Any) -> None:
        super().__init__(name, context_settings=SETTINGS, **attributes)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_overrides = any(one.name == "overrides" for one in self.params)
        takes_value = {name for one in self.params if isinstance(one, click.Option) and not one.is_flag for name in one.opts}
        for before, argument in pairwise(["", *args]):
            override = OVERRIDE.fullmatch(argument)
            if not override or takes_overrides or before in takes_value or Path(argument).exists():
                continue
            if not ctx.resilient_parsing:
                self._refuse(ctx, *override.groups())
        ctx.meta["arguments"] = list(args)
        return super().parse_args(ctx, args)

    def _refuse(self, ctx: click.Context, key: str, value: str) -> NoReturn:
        parts = key.replace("_", "-").split(".")
        suffixes = ["-".join(parts[first:]) for first in range(len(parts))]  # data-azure-train, azure-train, train
        names = [OTHER_NAMES.get(f"{key}={value}", ""), OTHER_NAMES.get(key, ""), *suffixes]
        options = {name: one for one in self.params if isinstance(one, click.Option) for name in one.opts}
        option = next((f"--{name}" for name in names if f"--{name}" in options), None)
        if option is not None:
            remedy = f"Use {option}." if options[option].is_flag else f"Use {option} {value}."
        elif any(isinstance(one, click.Argument) and str(one.name).rstrip("s") == key.rstrip("s") for one in self.params):
            remedy = f"Leave {key}= out: `{ctx.command_path} {value}`."
        else:
            known = [name for name in options if name.startswith("--")]
            remedy = f"Its options are {', '.join(known)}.{nearest('--' + parts[-1], known)}"
        raise ConfigError(f"{key}={value} is not an option of `{ctx.command_path}`. {remedy}")


class HydraVerb(click.Command):
    """A command whose arguments go to its ``run`` function unread: Hydra's overrides and options."""

    def __init__(self, name: str, run: Callable[[list[str]], int]) -> None:
        super().__init__(name, add_help_option=False)
        self.run = run

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args

    def invoke(self, ctx: click.Context) -> int:
        return self.run(ctx.args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        from pneumonia.cli.completion import override_completions

        return [CompletionItem(text) for text in override_completions(str(self.name), ctx.args, incomplete)]


class VerbGroup(click.Group):
    """Commands that are imported when they are called.

    Args:
        name: Of the group.
        package: Holds a module per command, with a click ``command`` or, for Hydra's verbs, a function ``run``.
        verbs: One line of help for each command.
        help: Text of the group's own help.
    """

    def __init__(self, name: str, package: str, verbs: Mapping[str, str], help: str) -> None:
        super().__init__(
            name,
            help=help,
            context_settings=SETTINGS,
            invoke_without_command=True,
            callback=_show_help,
            subcommand_metavar="VERB ...",
            options_metavar="",
        )
        self.package = package
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return None
        module = importlib.import_module(f"{self.package}.{'import_' if cmd_name == 'import' else cmd_name}")
        command: click.Command = getattr(module, "command", None) or HydraVerb(cmd_name, module.run)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.verbs and not ctx.resilient_parsing and not args[0].startswith("-"):
            known = ", ".join(self.verbs)
            raise ConfigError(f"`{ctx.command_path}` has no verb '{args[0]}': use {known}.{nearest(args[0], self.verbs)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(self.verbs.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        verbs = [CompletionItem(verb, help=text) for verb, text in self.verbs.items() if verb.startswith(incomplete)]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]


@click.pass_context
def _show_help(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def given() -> list[str]:
    """Return the arguments of the running command as they were given."""
    return list(click.get_current_context().meta["arguments"])


class _Path(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty, which would mean the current folder.", param, ctx)
        return super().convert(value, param, ctx)


class _TaskType(click.ParamType[Any, Any]):
    name = "task"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from pneumonia.config.task_files import load_task

        return load_task(value) if isinstance(value, str) else value


PATH: Final = _Path(path_type=Path)
FOLDER: Final = _Path(file_okay=False, path_type=Path)
FILE: Final = _Path(dir_okay=False, path_type=Path)


def options(*decorators: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Join decorators of options into one, shown in this order by ``--help``."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


task: Final = click.option(
    "--task",
    metavar="NAME|FILE",
    type=_TaskType(),
    help="Classes of your own: the YAML file of a task, as for task=NAME of `train`.",
)
cache_dir: Final = click.option(
    "--cache-dir",
    metavar="DIR",
    type=FOLDER,
    default=Path("cache"),
    envvar="PNEUMONIA_CACHE",
    show_envvar=True,
    help="Decoded images, unpacked archives and downloads.",
)
on_bad_image: Final = click.option(
    "--on-bad-image",
    type=click.Choice(ON_BAD_IMAGE),
    default="error",
    help="List images that can't be read and stop, or leave them out.",
)
