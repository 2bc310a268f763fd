"""`pneumonia sweep NAME`: every job of sweeps/NAME.yaml. Finished jobs are recognised, cut ones go on."""

import shlex
from typing import TYPE_CHECKING

from pneumonia.cli import wants_help
from pneumonia.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pneumonia.sweep.plan import Job, Search

HELP = """
usage: pneumonia sweep NAME|FILE.yaml [OVERRIDES]
       pneumonia sweep NAME status [runs_dir=runs] [name=NAME]

Every job of sweeps/NAME.yaml, into runs/NAME. First the plan, then two batches of each distinct configuration, then the work
under one table; each failure is shown at once, the others go on. Run it again: finished jobs are recognised, cut ones go on.
Exit code 1 where a job is not done. `status` shows the table from another terminal; runs/NAME/results.csv is kept current.

OVERRIDES are those of `pneumonia train`; one with several values is swept over too (seed=0,1,2), one of a key that the sweep
has takes the place of its values (optimizer=sgd,adam). experiment=... puts the sweep on other settings. And:

  search.trials=30    lets Optuna choose from ranges: optimizer.lr=tag(log,interval(1e-4,1e-1)); see docs/sweeps.md
  launcher=local      one job after the other in one process (the default)
  launcher=parallel   several at once on this machine: launcher.n_jobs=2  launcher.gpus=[0,1]
  launcher=slurm      tasks of SLURM: launcher.partition=gpu  launcher.gpus_per_job=1  launcher.mem_gb=16
  launcher=ray        tasks of Ray: launcher.address=auto
  backup.place=CONTAINER/PREFIX   keeps a copy in Blob Storage, from which another machine goes on
  launcher.timeout_min=60   breaks a job off; its finished epochs are kept
  fail_fast=true      stops at the first failure
  rehearse=false      leaves the two batches out

Sweeps:
{sweeps}

Example:
  pneumonia sweep optimizer data=folder data.root=chest_xray max_epochs=2
"""


def run(arguments: list[str]) -> int:
    """Does what is missing of the named sweep, or shows how far it is.

    Raises:
        PneumoniaError: With the name of what is wrong, before any job has run.
    """
    if not arguments or any(argument in {"-h", "--help"} for argument in arguments):
        return _help(arguments)
    from pneumonia.cli.hydra_options import refuse_option
    from pneumonia.cli.train import explained
    from pneumonia.sweep.plan import make_plan, open_search
    from pneumonia.sweep.sweep_files import sweep_names

    name, words = arguments[0].removeprefix("sweep="), arguments[1:]
    if name.startswith("-"):
        refuse_option(name, words, "sweep")
    if "=" in name:
        names = sweep_names()
        raise ConfigError(f"Name the sweep first: `pneumonia sweep NAME {name} ...`, with one of {', '.join(names)}.")
    for number, word in enumerate(words):
        if word.startswith("-"):
            refuse_option(word, words[number + 1 :], "sweep")
        if word != "status" and "=" not in word and not word.startswith("~"):
            raise ConfigError(
                f"{word} is not understood: after the name of a sweep come overrides, key=value, or status."
                f"{nearest(word, ['status'])}"
            )
    if "status" in words:
        return _status(name, [word for word in words if word != "status"])
    with explained(), open_search(name, words) as wanted:
        if wanted is not None:
            return _search(wanted, name)
        plan = make_plan(name, words)
    from pneumonia.sweep.run_sweep import conduct

    return conduct(plan)


def _search(wanted: "Search", name: str) -> int:
    from pneumonia.sweep.run_sweep import interruptible
    from pneumonia.system.console import announce_loading

    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError("A search needs optuna: pip install 'pneumonia[search]'.") from error
    announce_loading()
    from pneumonia.report.overrides import commands_of, words_of
    from pneumonia.runs.scheduled_backup import backed_up
    from pneumonia.sweep.search import search
    from pneumonia.sweep.sweep_files import find_sweep
    from pneumonia.training.loggers.wandb_account import without_run_id

    def again(job: "Job") -> str:
        if words_of(job.config) is not None:
            return commands_of([job.config])[0]
        path = find_sweep(name)  # a family of one's own, which only the folder of the sweep file has
        words = [*wanted.lines, *(f"{key}={value}" for key, value in job.differs.items())]
        where = ["--config-dir", str(path.parent), "--config-name", path.stem, "hydra.mode=RUN"]
        return shlex.join(["pneumonia", "train", *where, *words])

    backup = backed_up(wanted.folder, wanted.common["backup"], wanted.folder.name)
    with interruptible(wanted.folder), backup, without_run_id("a search"):
        return search(wanted, again)


def _status(name: str, words: list[str]) -> int:
    from pathlib import Path

    from pneumonia.cli import key_values
    from pneumonia.sweep.run_sweep import show_status
    from pneumonia.sweep.sweep_files import find_sweep

    said = key_values(words, ("runs_dir", "name"))
    folder = Path(said.get("runs_dir", "runs")) / said.get("name", Path(name).stem)
    if not folder.is_dir():
        find_sweep(name)
    show_status(folder)
    return 0


def _help(arguments: list[str]) -> int:
    from pathlib import Path

    package = Path(__file__).resolve().parent.parent
    folder = package / "sweeps" if (package / "sweeps").is_dir() else package.parent / "sweeps"
    lines = []
    for path in sorted(folder.glob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"  {path.stem:<24} {first.partition('   ')[0]}")
    text = HELP.format(sweeps="\n".join(lines))
    if not arguments:
        print(text.strip())
        return 2
    wants_help(arguments, text)
    return 0
