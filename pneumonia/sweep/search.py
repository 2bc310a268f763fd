"""``pneumonia sweep search``: Optuna proposes, each trial is an ordinary run, and a kill costs at most an epoch."""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import optuna
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.markup import escape

from pneumonia.config.validation import MONITORS
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.errors import ConfigError
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.sweep.job import Pruned, attempt
from pneumonia.sweep.plan import Job, Search
from pneumonia.sweep.progress_table import Board
from pneumonia.sweep.search_space import Axis, axis_of, word_of
from pneumonia.sweep.state import BROKEN, Ledger, State
from pneumonia.system.console import say
from pneumonia.system.files import one_at_a_time
from pneumonia.training.callbacks import direction

SHOWN: Final = 10  # best trials in the table
ENOUGH: Final = 10  # finished trials before importances mean anything
OVER: Final = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Follower(Checkpoint):
    """Tells Optuna the metric of each epoch, and ends a trial that it gives up.

    A ``Checkpoint`` so that Lightning calls it after the recorder: what is pruned has its last epoch on disk.
    """

    def __init__(self, trial: Trial, monitor: str, epochs: int) -> None:
        self.trial = trial
        self.epochs = epochs
        self.monitor = monitor
        self.folder: RunFolder | None = None

    def opened(self, folder: RunFolder) -> None:
        """Tells what an earlier attempt could not tell any more; it may have been cut just before it was pruned."""
        self.folder = folder
        if not folder.result.is_file():
            self._tell()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell()

    def _tell(self) -> None:
        assert self.folder is not None
        told = self.trial.study.trials[self.trial.number].intermediate_values
        rows = read_metrics(self.folder)
        for row in rows:
            if int(row["epoch"]) not in told:
                self.trial.report(float(row[self.monitor]), int(row["epoch"]))
        if 0 < len(rows) < self.epochs and self.trial.should_prune():
            raise Pruned


def search(plan: Search, again: Callable[[Job], str]) -> int:
    """Does the trials that are missing of a search.

    Args:
        plan: What is searched.
        again: The command that trains the run of a job.

    Returns:
        The exit code: 0, or 1 where a trial has failed.

    Raises:
        ConfigError: A space or settings that can't be searched; before any trial.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings, monitor = plan.common["search"], plan.common["monitor"] or "val/loss"
    axes = _checked(plan)
    ledger = Ledger(plan.folder)
    ledger.folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(plan.folder / "search.lock", "searching in this folder"):
        study = _study(plan, monitor, axes)
        board = Board(_jobs(plan, study), ledger)
        done = sum(trial.state in OVER for trial in study.trials)
        say(f"[bold]{plan.question}[/]")
        left = max(0, settings["trials"] - done)
        wanted = "lower" if direction(monitor) == "min" else "higher"
        say(f"{settings['trials']} trials: {done} done, {left} to do; better is a {wanted} {monitor}")
        data_cache = RunDataCache()
        with board.live():
            for trial in _trials(study, settings, axes):
                if _one(trial, plan, study, board, data_cache, monitor) in BROKEN and plan.common["fail_fast"]:
                    say("Stopped at the first failure, as fail_fast=true says.")
                    break
        return _conclude(plan, study, board, again)


def _one(
    trial: Trial, plan: Search, study: optuna.Study, board: Board, data_cache: RunDataCache, monitor: str
) -> State:
    """Does a trial and tells Optuna; how it ended."""
    job = plan.job({key: word_of(value) for key, value in trial.params.items()})
    if job.key not in {known.key for known in board.jobs}:
        board.jobs = [*board.jobs, job]
        board.ledger.keep(plan, board.jobs)
    follower = Follower(trial, monitor, job.config["max_epochs"])
    attempt(job, board.ledger, data_cache, plan.common["launcher"]["timeout_min"], follower.opened, [follower])
    standing = board.ended(job)
    if standing.result is not None:
        value = standing.result["metrics"]["val"].get(monitor.removeprefix("val/"))
        study.tell(trial, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)
    else:
        study.tell(trial, state=TrialState.PRUNED if standing.state == "pruned" else TrialState.FAIL)
    return standing.state


def _trials(study: optuna.Study, settings: dict[str, Any], axes: Sequence[Axis]) -> Any:
    """First the trials that a kill has left open, then new ones until there are enough."""
    for frozen in study.get_trials(states=(TrialState.RUNNING,)):
        trial = Trial(study, frozen._trial_id)
        for axis in axes:
            if axis.key not in frozen.params:  # killed between two of its parameters
                trial._suggest(axis.key, axis.distribution)
        yield trial
    distributions = {axis.key: axis.distribution for axis in axes}
    while len(study.trials) < settings["trials"]:
        number = len(study.trials)
        # A seed for each trial: a search that goes on proposes what it would have proposed undisturbed.
        seed = int.from_bytes(hashlib.sha256(f"{settings['seed']},{number}".encode()).digest()[:4], "big")
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=settings["startup"], seed=seed)
        yield study.ask(distributions)


def _study(plan: Search, monitor: str, axes: Sequence[Axis]) -> optuna.Study:
    settings = plan.common["search"]
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if settings["prune"]:
        warmup = settings["warmup"] + 1  # Optuna spares the steps before this one, and epochs count from 1
        pruner = optuna.pruners.MedianPruner(n_startup_trials=settings["startup"], n_warmup_steps=warmup)
    study = optuna.create_study(
        study_name=plan.common["name"],
        storage=f"sqlite:///{plan.folder.resolve() / 'study.db'}",
        direction="minimize" if direction(monitor) == "min" else "maximize",
        pruner=pruner,
        load_if_exists=True,
    )
    about = {"base": plan.base, "monitor": monitor, "space": {axis.key: repr(axis.distribution) for axis in axes}}
    held = study.user_attrs.get("about", about)
    if held != about:
        changed = [key for key in about if held[key] != about[key]]
        raise ConfigError(
            f"{plan.folder} holds a search of another kind ({', '.join(changed)} changed): its trials would teach this one the "
            f"wrong thing. Say name={plan.common['name']}_2 for a folder of its own, or repeat the overrides of the first call."
        )
    study.set_user_attr("about", about)
    return study


def _checked(plan: Search) -> list[Axis]:
    """The axes of a search, with a job composed at each of their ends."""
    if plan.common["launcher"]["kind"] != "local":
        raise ConfigError(
            f"launcher={plan.common['launcher']['kind']} does not go with a search, where each trial learns from those before. "
            "Say launcher=local."
        )
    if plan.common["monitor"] not in {None, *MONITORS}:
        raise ConfigError(f"monitor={plan.common['monitor']} can't be searched for.")
    axes = [axis_of(override) for override in plan.swept]
    if not axes:
        raise ConfigError("There is nothing to search over. Name ranges: 'optimizer.lr=tag(log,interval(1e-4,1e-1))'.")
    middle = {axis.key: axis.ends[0] for axis in axes}
    for axis in axes:
        for end in axis.ends:
            plan.job({**middle, axis.key: end})
    return axes


def _jobs(plan: Search, study: optuna.Study) -> list[Job]:
    return [plan.job({key: word_of(value) for key, value in trial.params.items()}) for trial in study.trials]


def _conclude(plan: Search, study: optuna.Study, board: Board, again: Callable[[Job], str]) -> int:
    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    ranked = sorted(finished, key=_value, reverse=study.direction == optuna.study.StudyDirection.MAXIMIZE)
    best = [plan.job({key: word_of(value) for key, value in trial.params.items()}) for trial in ranked[:SHOWN]]
    pruned = sum(trial.state == TrialState.PRUNED for trial in study.trials)
    say(f"{len(finished)} finished, {pruned} pruned, {len(failed)} failed; the best:")
    if best:
        Board(best, board.ledger, results=False).summary()
        if len(finished) >= ENOUGH:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                weights = optuna.importance.get_param_importances(study)
            say("What mattered: " + ", ".join(f"{key} {share:.0%}" for key, share in weights.items()))
        say(f"The best again: {escape(again(best[0]))}")
    return 1 if failed else 0


def _value(trial: FrozenTrial) -> float:
    return float(trial.value or 0.0)
