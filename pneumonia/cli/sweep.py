"""`pneumonia sweep NAME`: run every job of sweeps/NAME.yaml; rerun it to resume."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pneumonia.cli import wants_help
from pneumonia.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pneumonia.sweep.plan import Job, Search

CONFIG_DIR: Final = ("--config-dir", "-cd")
HELP = """
usage: pneumonia sweep NAME|FILE.yaml [OVERRIDES] [--config-dir DIR]
       pneumonia sweep NAME status [runs_dir=runs] [name=NAME]

Run every job of sweeps/NAME.yaml, into runs/NAME: print the plan, try two batches of each distinct configuration, run the jobs
under a progress table. A failure is shown at once; the other jobs run. Safe to interrupt: rerun the command to skip finished
jobs and resume interrupted ones. Exit code 1 if a job is not finished. `status` prints the table from another terminal;
runs/NAME/results.csv is kept current.

OVERRIDES are those of `pneumonia train`. One with several values is swept over too (seed=0,1,2); one of a swept key replaces
its values (optimizer=sgd,adam); experiment=... changes the settings of all jobs. And:

  search.trials=30    search ranges with Optuna: optimizer.lr=tag(log,interval(1e-4,1e-1)); see docs/sweeps.md
  launcher=local      one job after the other in one process (the default)
  launcher=parallel   several at once on this machine: launcher.n_jobs=2  launcher.gpus=[0,1]
  launcher=slurm      SLURM tasks: launcher.partition=gpu  launcher.gpus_per_job=1  launcher.mem_gb=16
  launcher=ray        Ray tasks: launcher.address=auto
  backup.place=CONTAINER/PREFIX   keep a copy in Blob Storage, from which another machine can resume
  launcher.timeout_min=60   stop a job after an hour; its finished epochs are kept
  fail_fast=true      stop at the first failure
  dry_run=false       skip the two batches
  --config-dir DIR    find your own groups (DIR/model/mine.yaml: model=mine) and sweeps (DIR/NAME.yaml) too

Sweeps:
{sweeps}

Example:
  pneumonia sweep optimizer data=folder data.root=chest_xray max_epochs=2
"""


def run(arguments: list[str]) -> int:
    """Run the unfinished jobs of a sweep, or print its status.

    Raises:
        PneumoniaError: Bad input, before any job has run.
    """
    if not arguments or any(argument in {"-h", "--help"} for argument in arguments):
        return _help(arguments)
    from pneumonia.cli.hydra_options import refuse_option
    from pneumonia.sweep.plan import make_plan, make_search
    from pneumonia.sweep.sweep_files import sweep_names

    config_dir, words = _config_dir(arguments)
    if not words:
        raise ConfigError(f"Name the sweep first: `pneumonia sweep NAME --config-dir {config_dir}`.")
    name, overrides = words[0].removeprefix("sweep="), words[1:]
    if name.startswith("-"):
        refuse_option(name, overrides, "sweep")
    if "=" in name:
        names = ", ".join(sweep_names())
        raise ConfigError(f"Name the sweep first: `pneumonia sweep NAME {name} ...`, with one of {names}.")
    for number, override in enumerate(overrides):
        if override.startswith("-"):
            refuse_option(override, overrides[number + 1 :], "sweep")
        if override != "status" and "=" not in override and not override.startswith("~"):
            raise ConfigError(
                f"{override} is neither an override (key=value) nor status, which may follow the name of a sweep."
                f"{nearest(override, ['status'])}"
            )
    if "status" in overrides:
        return _status(name, [override for override in overrides if override != "status"], config_dir)
    found = make_search(name, overrides, config_dir)
    if found is not None:
        return _search(found)
    plan = make_plan(name, overrides, config_dir)
    from pneumonia.sweep.run_sweep import run_sweep

    return run_sweep(plan)


def _search(plan: "Search") -> int:
    from pneumonia.sweep.run_sweep import interruptible
    from pneumonia.system.console import announce_loading

    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError("A search needs optuna: pip install 'pneumonia[search]'.") from error
    announce_loading()
    from pneumonia.config.overrides import override_value, overrides_from_config
    from pneumonia.report.train_commands import train_commands
    from pneumonia.runs.backup import backed_up
    from pneumonia.sweep.search import search
    from pneumonia.training.loggers.wandb_account import without_run_id

    def command_of(job: "Job") -> str:
        if overrides_from_config(job.config) is not None:
            return train_commands([job.config])[0]
        file = plan.composer.file  # a model of one's own, which only these folders have
        path = file.path
        overrides = [*plan.overrides, *(f"{key}={value}" for key, value in job.differs.items())]
        if file.config_dir and not file.config_dir.samefile(path.parent):
            overrides.insert(0, f"hydra.searchpath=[{override_value(f'file://{file.config_dir}')}]")
        options = ["--config-dir", str(path.parent), "--config-name", path.stem, "hydra.mode=RUN"]
        return shlex.join(["pneumonia", "train", *options, *overrides])

    backup = backed_up(plan.folder, plan.common.backup, plan.folder.name)
    with interruptible(plan.folder), backup, without_run_id("a search"):
        return search(plan, command_of)


def _status(name: str, options: list[str], config_dir: Path | None) -> int:
    from pneumonia.sweep.run_sweep import print_status
    from pneumonia.sweep.sweep_files import find_sweep

    given = _key_values(options, ("runs_dir", "name"))
    folder = Path(given.get("runs_dir", "runs")) / given.get("name", Path(name).stem)
    if not folder.is_dir():
        find_sweep(name, config_dir)
    print_status(folder)
    return 0


def _config_dir(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Take ``--config-dir DIR`` or ``-cd DIR`` out of the arguments.

    Raises:
        ConfigError: It has no value, or is given twice.
    """
    found: list[str] = []
    words: list[str] = []
    left = list(arguments)
    while left:
        name, joined, value = left.pop(0).partition("=")
        if name not in CONFIG_DIR:
            words.append(f"{name}{joined}{value}")
            continue
        if not joined and left and not left[0].startswith("-"):
            value = left.pop(0)
        if not value:
            raise ConfigError(f"{name} needs a folder: {name} DIR.")
        found.append(value)
    if len(found) > 1:
        raise ConfigError(f"--config-dir is given twice, as {found[0]} and {found[1]}. Leave one out.")
    return (Path(found[0]).expanduser().resolve() if found else None), words


def _help(arguments: list[str]) -> int:
    from pneumonia.sweep.sweep_files import find_sweep, question, sweep_names

    text = HELP.format(sweeps="\n".join(f"  {name:<24} {question(find_sweep(name))}" for name in sweep_names()))
    if not arguments:
        print(text.strip())
        return 2
    wants_help(arguments, text)
    return 0


def _key_values(arguments: list[str], keys: tuple[str, ...]) -> dict[str, str]:
    """Parse the options of ``status``."""
    values: dict[str, str] = {}
    for argument in arguments:
        key, found, value = argument.partition("=")
        if not found or key not in keys:
            known = ", ".join(f"{key}=..." for key in keys)
            raise ConfigError(f"{argument} is not understood; use {known}.{nearest(key.lstrip('-'), keys)}")
        if values.setdefault(key, value) != value:
            raise ConfigError(f"{key} is given twice, as {values[key]} and {value}. Leave one out.")
    return values
