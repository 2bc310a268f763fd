"""`pneumonia track`: upload run folders to Weights & Biases, and create the dashboard of a sweep."""

import os
import shlex
from pathlib import Path
from typing import Final

import click

from pneumonia.cli.parsing import FILE, PATH, SETTINGS, Verb, options

account: Final = options(
    click.option("--project", default="pneumonia", help="Project of W&B."),
    click.option("--entity", metavar="NAME", help="Team or user of W&B.  [default: yours]"),
)


@click.group(context_settings=SETTINGS)
def command() -> None:
    """Upload runs to Weights & Biases, whatever logger they had, or create the dashboard of a sweep."""


@command.command(cls=Verb, examples=["pneumonia track push runs/optimizer --project xray"])
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option("--offline", is_flag=True, help="Write the files of W&B into the run folders, for `wandb sync`.")
@account
def push(runs: tuple[Path, ...], offline: bool, project: str, entity: str | None) -> None:
    """Upload finished or interrupted runs that have changed since the last upload.

    RUN is a run folder, or a folder of runs.
    """
    from rich.markup import escape

    from pneumonia.errors import AccessError
    from pneumonia.runs.listing import find_some_runs
    from pneumonia.system.console import announce_loading, say
    from pneumonia.training.loggers.wandb_account import MODES, has_key

    folders = find_some_runs(runs)
    mode = os.environ.get("WANDB_MODE", "")
    if MODES.get(mode, "online") == "disabled" or (not offline and MODES.get(mode, "online") != "online"):
        raise AccessError(f"WANDB_MODE={mode} in the environment, so nothing was sent. Unset it, or use --offline with offline.")
    if not offline and not has_key():
        raise AccessError(
            "No key of W&B is known, so nothing was sent. Set WANDB_API_KEY or run `wandb login`; --offline only writes the "
            "files of W&B."
        )
    announce_loading()
    from pneumonia.training.loggers.wandb_push import push_run

    mode = "offline" if offline else "online"
    written = [files for folder in folders if (files := push_run(folder, project, entity, mode)) is not None]
    rest = f"{len(folders) - len(written)} had nothing new."
    if not offline:
        say(f"Sent {len(written)} of {len(folders)} runs; {rest}")
        return
    say(f"Written for {len(written)} of {len(folders)} runs, and nothing was sent; {rest}")
    for files in written:
        say(f"  {escape(str(files))}")
    if written:
        sync = escape(shlex.join(map(str, written)))
        say(f"`wandb sync {sync}` sends them; so does `pneumonia track push` without --offline.")


@command.command(cls=Verb, examples=["pneumonia track dashboard optimizer --entity ME"])
@click.argument("sweep", metavar="SWEEP")
@click.argument("overrides", metavar="[OVERRIDES]", nargs=-1)
@click.option("--json", "file", metavar="FILE", type=FILE, help="Write the dashboard to a file, which needs no login.")
@account
def dashboard(sweep: str, overrides: tuple[str, ...], file: Path | None, project: str, entity: str | None) -> None:
    """Create the W&B workspace of a sweep, and print its address.

    SWEEP is a name in sweeps/ or the path of a file; OVERRIDES are those that the sweep ran with, such as name=mine.
    """
    from pneumonia.errors import AccessError
    from pneumonia.sweep.plan import make_plan
    from pneumonia.sweep.wandb_dashboard import as_json, build, save
    from pneumonia.system.files import replacing

    plan = make_plan(sweep, list(overrides))
    workspace = build(plan, project, entity or "")
    if file is not None:
        with replacing(file) as part:
            part.write_text(as_json(workspace) + "\n", encoding="utf-8")
        print(file)
        return
    from pneumonia.training.loggers.wandb_account import has_key

    if not has_key() or entity is None:
        raise AccessError(
            "Saving a dashboard needs a key of W&B and --entity NAME. Set WANDB_API_KEY or run `wandb login`; --json FILE needs "
            "neither."
        )
    print(save(workspace))
