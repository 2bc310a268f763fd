"""`pneumonia track`: send run folders to a tracker, and create the W&B dashboard of a sweep."""

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
    """Send runs to W&B, TensorBoard or MLflow, whatever logger they had, or create the W&B dashboard of a sweep."""


@command.command(
    cls=Verb,
    examples=[
        "pneumonia track push runs/optimizer --project xray",
        "pneumonia track push runs/optimizer --to mlflow --tracking-uri http://127.0.0.1:5000",
    ],
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option("--to", type=click.Choice(["wandb", "tensorboard", "mlflow"]), default="wandb", help="The tracker.")
@click.option("--offline", is_flag=True, help="Write the files of W&B into the run folders, for `wandb sync`.")
@click.option(
    "--tracking-uri", metavar="URI", help="Address of MLflow: a server, or sqlite:///FILE.  [default: MLFLOW_TRACKING_URI]"
)
@click.option("--experiment-name", metavar="NAME", default="pneumonia", help="Experiment of MLflow.")
@account
def push(
    runs: tuple[Path, ...],
    to: str,
    offline: bool,
    tracking_uri: str | None,
    experiment_name: str,
    project: str,
    entity: str | None,
) -> None:
    """Send finished or interrupted runs that have changed since they were sent last.

    RUN is a run folder, or a folder of runs.
    """
    from rich.markup import escape

    from pneumonia.config.schema import LoggerConfig, TensorBoardConfig
    from pneumonia.runs.listing import find_some_runs
    from pneumonia.system.console import announce_loading, say

    folders = find_some_runs(runs)
    if to == "wandb":
        _check_account(offline)
    announce_loading()
    from pneumonia.evaluation.tracking import mlflow_options, push_run, wandb_options
    from pneumonia.training.loggers.tracking import check_tracking

    if to == "mlflow":
        tracker = mlflow_options(tracking_uri, experiment_name)
    elif to == "tensorboard":
        tracker = LoggerConfig(tensorboard=TensorBoardConfig())
    else:
        tracker = wandb_options(project, entity, "offline" if offline else "online")
    check_tracking(tracker, "--tracking-uri ")
    sent = [mirror for folder in folders if (mirror := push_run(folder, tracker)) is not None]
    rest = f"{len(folders) - len(sent)} had nothing new."
    if to != "wandb" or not offline:
        say(f"Sent {len(sent)} of {len(folders)} runs; {rest}")
        return
    say(f"Written for {len(sent)} of {len(folders)} runs, and nothing was sent; {rest}")
    files = [str(mirror.files) for mirror in sent]
    for one in files:
        say(f"  {escape(one)}")
    if files:
        say(f"`wandb sync {escape(shlex.join(files))}` sends them; so does `pneumonia track push` without --offline.")


def _check_account(offline: bool) -> None:
    """Refuse to send runs to W&B without a key, or where the environment forbids it.

    Raises:
        AccessError: With what to do.
    """
    from pneumonia.errors import AccessError
    from pneumonia.training.loggers.wandb_account import MODES, has_key

    mode = os.environ.get("WANDB_MODE", "")
    if MODES.get(mode, "online") == "disabled" or (not offline and MODES.get(mode, "online") != "online"):
        raise AccessError(f"WANDB_MODE={mode} in the environment, so nothing was sent. Unset it, or use --offline with offline.")
    if not offline and not has_key():
        raise AccessError(
            "No key of W&B is known, so nothing was sent. Set WANDB_API_KEY or run `wandb login`; --offline only writes the "
            "files of W&B."
        )


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
