"""Show a sweep on the terminal: its plan, the running jobs, each failure at once, and the table at the end."""

import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pneumonia.report.formatting import count
from pneumonia.sweep.estimate import Statuses, duration, expected_s
from pneumonia.sweep.plan import Job, Plan
from pneumonia.sweep.results_table import write_results
from pneumonia.sweep.state import FAILED, FINISHED, OVER, PENDING, JobStatus, SweepState
from pneumonia.system.console import fitting_table
from pneumonia.training.loggers.record import TRACKERS, TrackerRecord

POLL_S: Final = 1.0
STYLES: Final = {
    **{"done": "green", "debug": "yellow", "running": "cyan", "interrupted": "yellow", "pruned": "yellow"},
    **dict.fromkeys(FAILED, "red"),
}
# Of many jobs, the live table shows the running ones first, then failures, then those that come next.
ORDER: Final = {"running": 0, **dict.fromkeys(FAILED, 1), **dict.fromkeys(PENDING, 2), **dict.fromkeys(OVER, 3)}
MAX_ROWS: Final = 30  # of the live table
WIDTH: Final = 140  # of a table that goes to a file


class ProgressTable:
    """Show the state of a sweep and keep its ``results.csv`` current.

    Args:
        jobs: Jobs of this call.
        state: State of the sweep.
        all_jobs: All jobs in the sweep's folder, if ``jobs`` are some of them.
        results: Write ``results.csv``.
    """

    def __init__(self, jobs: list[Job], state: SweepState, all_jobs: list[Job] | None = None, *, results: bool = True) -> None:
        self.jobs = jobs
        self.all_jobs = all_jobs
        self.state = state
        self.n_parallel = int(getattr(jobs[0].config.launcher, "n_jobs", None) or 1) if jobs else 1
        self.results = state.folder / "results.csv" if results else None
        # A console of its own keeps writing to the terminal while stderr is redirected to a job's log.
        self.console = Console(file=sys.stderr, width=None if sys.stderr.isatty() else WIDTH)
        self._written: Statuses = []
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        self.refresh()

    def refresh(self) -> Statuses:
        """Read the status of each job, and update ``results.csv``."""
        with self._lock:
            jobs = self.jobs  # a search adds to them meanwhile
            statuses = [(job, self.state.status(job)) for job in self.all_jobs or jobs]
            if self.results and statuses and (statuses != self._written or not self.results.exists()):
                self._written = statuses
                write_results(self.results, statuses)
            by_key = {job.key: status for job, status in statuses}
            return [(job, by_key[job.key]) for job in jobs]

    def print_plan(self, plan: Plan) -> None:
        """Print the swept values, how many jobs are finished, and how long the others may take."""
        statuses = self.refresh()
        states: Counter[str] = Counter(status.state for _, status in statuses)
        self._print(f"[bold]{escape(plan.question)}[/]")
        for key, values in plan.axes.items():
            self._print(f"  {escape(key)}: {escape(', '.join(values))}")
        order = (*FINISHED, "interrupted", *FAILED, "running")
        counts = ", ".join(f"{states[state]} {state}" for state in order if states[state])
        left = len(statuses) - states["running"] - sum(states[state] for state in OVER)
        self._print(f"{count(len(statuses), 'job')}{f': {counts}' if counts else ''}; {left} to do")
        seconds = expected_s(statuses)
        if left and seconds is not None:
            basis = count(states["done"], "finished job")
            self._print(f"About {duration(seconds / self.n_parallel)} left, estimated from {basis}")

    @contextmanager
    def live(self) -> Iterator[None]:
        """Update the table on a terminal while the block runs; elsewhere print a line for each job that starts."""
        stop = threading.Event()
        live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None

        def watch() -> None:
            started: set[str] = set()
            while not stop.wait(POLL_S):
                statuses = self.refresh()
                if live is not None:
                    live.update(self.running_table(statuses), refresh=True)
                for job, status in statuses:
                    if status.state == "running":
                        self._warn_of_tracking(status)
                        if job.key not in started and live is None:
                            started.add(job.key)
                            self._print(f"started   {escape(self._title(job))}")

        watcher = threading.Thread(target=watch, daemon=True)
        if live is not None:
            live.start()
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            if live is not None:
                live.stop()
            self.refresh()

    def print_end(self, job: Job) -> JobStatus:
        """Print how a job ended; after a failure with its traceback and log."""
        status = self.state.status(job)
        self._warn_of_tracking(status)
        title = escape(self._title(job))
        if status.state in FAILED:
            details = self.state.failure_details(job) or status.reason
            self._print_failure(job, status, "".join(f"\n    {escape(line)}" for line in details.rstrip().splitlines()))
        elif status.state == "pruned":
            self._print(f"[yellow]pruned[/]    {title}  after {status.epochs} epochs")
        elif status.result is not None:
            metrics, seconds = status.result.metrics["val"], status.result.cost.fit_s
            values = "  ".join(f"{name} {_cell(metrics.get(name))}" for name in ("loss", "accuracy"))
            state = f"[{STYLES[status.state]}]{status.state:<10}[/]"
            self._print(f"{state}{title}  val {values}  {duration(seconds)}")
        return status

    def running_table(self, statuses: Statuses, max_rows: int = MAX_ROWS, n_parallel: int | None = None) -> Table:
        """Build the table of a sweep at work.

        Args:
            statuses: Status of each job.
            max_rows: Rows of the table; a caption counts the other jobs.
            n_parallel: Jobs at once, for the estimate; 0 for no estimate, ``None`` for those of the launcher.
        """
        numbered = list(enumerate(statuses, start=1))
        shown = sorted(sorted(numbered, key=lambda item: ORDER[item[1][1].state])[:max_rows])
        rows = []
        for number, (job, status) in shown:
            best, total, epoch_s = status.best_row or {}, job.config.max_epochs, status.epoch_s
            images_per_s = status.result.cost.images_per_s if status.result else status.images_per_s
            rows.append(
                self._first_cells(number, job, status)
                | {"epoch": f"{status.epochs}/{total}", "images/s": _cell(images_per_s, 0)}
                | {"val loss": _cell(best.get("val/loss")), "accuracy": _cell(best.get("val/accuracy"))}
                | {"left": duration((total - status.epochs) * epoch_s) if epoch_s else ""}
            )
        columns = ("epoch", "val loss", "accuracy", "images/s", "left")
        table = self._fitting_table(columns, rows, optional=("images/s", "accuracy", "left", "epoch"))
        notes: list[str] = []
        if len(numbered) > len(shown):
            hidden = Counter(status.state for number, (_, status) in numbered if number not in dict(shown))
            notes.append("and " + ", ".join(f"{number} {state}" for state, number in hidden.items()))
        n_parallel = self.n_parallel if n_parallel is None else n_parallel
        seconds = expected_s(statuses)
        if seconds and n_parallel:
            notes.append(f"about {duration(seconds / n_parallel)} left in all")
        table.caption = "; ".join(notes) or None
        return table

    def print_status(self) -> None:
        """Print the table of all jobs, with an estimate if a job is running."""
        statuses = self.refresh()
        running = sum(status.state == "running" for _, status in statuses)
        self.console.print(self.running_table(statuses, len(self.jobs), running))
        left = sum(status.state not in OVER for _, status in statuses)
        if left and not running:
            self._print(
                f"No job is running, and {left} of {len(statuses)} are not finished. Run the sweep's command to resume it."
            )

    def print_summary(self) -> Statuses:
        """Print the table at the end, followed by the failures."""
        statuses = self.refresh()
        rows = []
        for number, (job, status) in enumerate(statuses, start=1):
            row = self._first_cells(number, job, status)
            if status.result is not None:
                metrics, cost = status.result.metrics["val"], status.result.cost
                row["best epoch"] = f"{status.result.best_epoch}/{status.result.epochs}"
                for column, key in (("val loss", "loss"), ("accuracy", "accuracy"), ("macro F1", "f1_macro")):
                    row[column] = _cell(metrics.get(key))
                for column, key in (("images/s", "images_per_s"), ("MiB", "peak_memory_mib"), ("seconds", "fit_s")):
                    row[column] = _cell(getattr(cost, key), 0)
                if cost.usd is not None:
                    row["USD"] = _cell(cost.usd, 3)
            rows.append(row)
        columns = ["best epoch", "val loss", "accuracy", "macro F1", "images/s", "MiB", "seconds"]
        columns += ["USD"] if any("USD" in row for row in rows) else []
        optional = ("MiB", "images/s", "seconds", "best epoch", "macro F1", "USD")
        self.console.print(self._fitting_table(columns, rows, optional))
        for job, status in statuses:
            if status.state in FAILED:
                self._print_failure(job, status, f": {escape(status.reason.splitlines()[0])}")
        self._print(f"All results: [bold]{escape(str(self.state.folder / 'results.csv'))}[/]")
        return statuses

    def _print_failure(self, job: Job, status: JobStatus, text: str) -> None:
        self._print(f"[bold red]{status.state}[/]  {escape(self._title(job))}{text}")
        self._print(f"    log: {escape(str(self.state.log(job.key)))}")

    def _first_cells(self, number: int, job: Job, status: JobStatus) -> dict[str, str]:
        axes = {key: escape(job.differs.get(key, "")) for key in self._axes()}
        return {"job": str(number), **axes, "state": f"[{STYLES.get(status.state, 'default')}]{status.state}[/]"}

    def _fitting_table(self, columns: Sequence[str], rows: list[dict[str, str]], optional: Sequence[str]) -> Table:
        names = ("job", *self._axes(), "state", *columns)
        return fitting_table(self.console, f"{self.state.folder}", names, rows, columns, optional)

    def _warn_of_tracking(self, status: JobStatus) -> None:
        """Print once why a tracker fails, which the job itself writes to its log alone."""
        for name in TRACKERS:
            trouble = "" if status.folder is None else TrackerRecord.read(status.folder, name).trouble
            if trouble and trouble not in self._warned:
                self._warned.add(trouble)
                self._print(f"[bold yellow]Warning[/] {escape(trouble)}")

    def _axes(self) -> list[str]:
        return list(self.jobs[0].differs) if self.jobs else []

    def _title(self, job: Job) -> str:
        return f"{self.jobs.index(job) + 1}/{len(self.jobs)}  {job.label}"

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def _cell(value: float | str | None, digits: int = 4) -> str:
    return "" if value in {None, "", "nan"} else f"{float(value or 0):.{digits}f}"
