"""Search settings with Optuna: each trial is an ordinary run, and an interrupted search resumes to the same trials."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import optuna
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.markup import escape

from pneumonia.config.names import MONITORS
from pneumonia.config.schema import SearchConfig
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.errors import ConfigError
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.sweep.check_jobs import check_jobs
from pneumonia.sweep.plan import Job, Search
from pneumonia.sweep.progress_table import ProgressTable
from pneumonia.sweep.run_job import JobOptions, JobOutcome, Pruned, run_job
from pneumonia.sweep.search_space import Axis, axis_of, override_value
from pneumonia.sweep.state import FAILED, SweepState
from pneumonia.system.console import say
from pneumonia.system.files import one_at_a_time
from pneumonia.training.checkpointing import direction

N_BEST: Final = 10  # best trials in the table
MIN_FOR_IMPORTANCE: Final = 10  # finished trials
ENDED: Final = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class PruningCallback(Checkpoint):
    """Report the metric of each epoch to Optuna, and end a pruned trial.

    A ``Checkpoint``, because Lightning calls these last: a pruned trial has its last epoch on disk.
    """

    def __init__(self, trial: Trial, monitor: str, epochs: int) -> None:
        self.trial = trial
        self.epochs = epochs
        self.monitor = monitor
        self.folder: RunFolder | None = None

    def set_folder(self, folder: RunFolder) -> None:
        """Report the epochs of an earlier call, which may have been killed just before it pruned the trial."""
        self.folder = folder
        if not folder.result.is_file():
            self._report()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report()

    def _report(self) -> None:
        assert self.folder is not None
        reported = self.trial.study.trials[self.trial.number].intermediate_values
        rows = read_metrics(self.folder)
        for row in rows:
            if int(row["epoch"]) not in reported:
                self.trial.report(float(row[self.monitor]), int(row["epoch"]))
        if 0 < len(rows) < self.epochs and self.trial.should_prune():
            raise Pruned


def search(plan: Search, command_of: Callable[[Job], str]) -> int:
    """Run the trials that a search still lacks; show the command (``command_of``) that trains the best again.

    Returns:
        The exit code: 0, or 1 if a trial has failed.

    Raises:
        ConfigError: The ranges or settings can't be searched; before any trial.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    n_trials, monitor = plan.common.search.trials or 0, plan.common.monitor or "val/loss"
    axes = _checked_axes(plan)
    state, cache = SweepState(plan.folder), RunDataCache()
    state.folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(plan.folder / "search.lock", "searching in this folder"):
        study = _open_study(plan, monitor, axes)
        table = ProgressTable([_job_of(plan, trial) for trial in study.trials], state)
        done = sum(trial.state in ENDED for trial in study.trials)
        left, better = max(0, n_trials - done), "lower" if direction(monitor) == "min" else "higher"
        say(f"[bold]{plan.question}[/]")
        say(f"{n_trials} trials: {done} done, {left} to do; better is a {better} {monitor}")
        with table.live():
            for trial in _trials(study, plan.common.search, axes):
                job = _job_of(plan, trial)
                if job.key not in {known.key for known in table.jobs}:
                    table.jobs = [*table.jobs, job]
                    state.write_jobs("search", plan.question, table.jobs)
                _train_trial(trial, job, state, cache, monitor)
                status = table.print_end(job)
                value, outcome = None, TrialState.PRUNED if status.state == "pruned" else TrialState.FAIL
                if status.result is not None:
                    value = status.result.metrics["val"].get(monitor.removeprefix("val/"))
                    outcome = TrialState.FAIL if value is None else TrialState.COMPLETE
                study.tell(trial, value, state=outcome)
                if status.state in FAILED and plan.common.fail_fast:
                    say("Stopped at the first failure, because fail_fast=true.")
                    break
        return _print_best(plan, study, state, command_of)


def _train_trial(trial: Trial, job: Job, state: SweepState, cache: RunDataCache, monitor: str) -> None:
    pruning = PruningCallback(trial, monitor, job.config.max_epochs)
    options = JobOptions(timeout_min=job.config.launcher.timeout_min)
    outcome = run_job(job, state, options, cache, pruning.set_folder, [pruning])
    if outcome is JobOutcome.INTERRUPTED:
        raise KeyboardInterrupt


def _trials(study: optuna.Study, settings: SearchConfig, axes: Sequence[Axis]) -> Iterator[Trial]:
    """Yield the trials that a kill has left open, then new ones until there are enough."""
    for frozen in study.get_trials(states=(TrialState.RUNNING,)):
        trial = Trial(study, frozen._trial_id)
        for axis in axes:
            if axis.key not in frozen.params:  # killed between two of its parameters
                trial._suggest(axis.key, axis.distribution)
        yield trial
    distributions = {axis.key: axis.distribution for axis in axes}
    while (number := len(study.trials)) < (settings.trials or 0):
        # A seed for each trial, so that a resumed search proposes the same settings as an undisturbed one.
        seed = int.from_bytes(hashlib.sha256(f"{settings.seed},{number}".encode()).digest()[:4], "big")
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=settings.startup, seed=seed)
        yield study.ask(distributions)


def _open_study(plan: Search, monitor: str, axes: Sequence[Axis]) -> optuna.Study:
    """Create ``study.db``, or load that of the same search."""
    settings = plan.common.search
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if settings.prune:
        warmup = settings.warmup + 1  # Optuna spares the steps before this one, and epochs count from 1
        pruner = optuna.pruners.MedianPruner(n_startup_trials=settings.startup, n_warmup_steps=warmup)
    study = optuna.create_study(
        study_name=plan.common.name,
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
            f"{plan.folder} holds a search of other settings ({', '.join(changed)} changed): its trials would mislead this "
            f"one. Set name={plan.common.name}_2 for another folder, or repeat the overrides of the first call."
        )
    study.set_user_attr("about", about)
    return study


def _checked_axes(plan: Search) -> list[Axis]:
    """Return the axes of a search, after checking a job at each of their ends.

    Raises:
        PneumoniaError: A job can't be composed, or none of them can run.
    """
    kind = plan.common.launcher.kind
    if kind != "local":
        raise ConfigError(
            f"launcher={kind} does not work with a search, because each trial learns from the earlier ones. Set launcher=local."
        )
    if plan.common.monitor not in {None, *MONITORS}:
        raise ConfigError(f"monitor={plan.common.monitor} can't be searched for.")
    axes = [axis_of(override) for override in plan.swept]
    if not axes:
        raise ConfigError("There is nothing to search over. Name ranges: 'optimizer.lr=tag(log,interval(1e-4,1e-1))'.")
    first = {axis.key: axis.ends[0] for axis in axes}
    jobs = [plan.job({**first, axis.key: end}) for axis in axes for end in axis.ends]
    check_jobs({job.key: [job] for job in jobs})
    return axes


def _job_of(plan: Search, trial: Trial | FrozenTrial) -> Job:
    return plan.job({key: override_value(value) for key, value in trial.params.items()})


def _print_best(plan: Search, study: optuna.Study, state: SweepState, command_of: Callable[[Job], str]) -> int:
    by_state = Counter(trial.state for trial in study.trials)
    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    finished.sort(key=lambda trial: trial.value or 0.0, reverse=study.direction == StudyDirection.MAXIMIZE)
    pruned, failed = by_state[TrialState.PRUNED], by_state[TrialState.FAIL]
    say(f"{len(finished)} finished, {pruned} pruned, {failed} failed; the best:")
    if best := [_job_of(plan, trial) for trial in finished[:N_BEST]]:
        ProgressTable(best, state, results=False).print_summary()
        if len(finished) >= MIN_FOR_IMPORTANCE:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importances = optuna.importance.get_param_importances(study)
            say("Importance: " + ", ".join(f"{key} {share:.0%}" for key, share in importances.items()))
        say(f"Train the best again: {escape(command_of(best[0]))}")
    return 1 if failed else 0
