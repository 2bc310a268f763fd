"""What a person sees of a sweep: its plan, its jobs while they run, each failure at once, the table at the end."""

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

from pneumonia.sweep.plan import Job, Plan
from pneumonia.sweep.state import BROKEN, Ledger, Standing
from pneumonia.system.files import read_json

LOOK_S: Final = 1.0
OVER: Final = ("done", "debug", "pruned")  # states that no call of the sweep changes
STYLES: Final = {
    "done": "green",
    "debug": "yellow",
    "running": "cyan",
    "failed": "red",
    "killed": "red",
    "out of time": "red",
    "interrupted": "yellow",
    "pruned": "yellow",
}
WIDTH: Final = 140  # of a table that goes to a file
MOST_LINES: Final = 30  # of the live table; the jobs that matter now come first


class Board:
    """Reads the ledger, writes to the terminal and keeps ``results.csv`` current."""

    def __init__(self, jobs: list[Job], ledger: Ledger, kept: list[Job] | None = None, *, results: bool = True) -> None:
        self.jobs = jobs
        self.kept = kept  # all jobs of the sweep, where ``jobs`` are a part of them
        self.ledger = ledger
        self.at_once = int(jobs[0].config["launcher"].get("n_jobs") or 1) if jobs else 1
        self.results = results
        terminal = sys.stderr.isatty()
        # This one stays, while a job's own output goes to its log.
        self.console = Console(file=sys.stderr, width=None if terminal else WIDTH)
        self._seen: list[tuple[Job, Standing]] = []
        self._troubles: set[str] = set()
        self._lock = threading.Lock()
        self.look()

    def look(self) -> list[tuple[Job, Standing]]:
        """How far each job is now; ``results.csv`` follows."""
        with self._lock:
            seen = [(job, self.ledger.standing(job)) for job in self.kept or self.jobs]
            if self.results and seen and (seen != self._seen or not self.ledger.results.exists()):
                self._seen = seen
                self.ledger.write_results(seen)
            if self.kept is None:
                return seen
            standings = {job.key: standing for job, standing in seen}
            return [(job, standings[job.key]) for job in self.jobs]

    def show_plan(self, plan: Plan) -> None:
        """Which jobs there are, what is done, and how long the rest may take."""
        seen = self.look()
        states = Counter(standing.state for _, standing in seen)
        self._say(f"[bold]{escape(plan.question)}[/]")
        for key, values in plan.axes.items():
            self._say(f"  {escape(key)}: {escape(', '.join(values))}")
        known = ", ".join(
            f"{states[state]} {state}"
            for state in ("done", "debug", "interrupted", *BROKEN, "running")
            if states[state]
        )
        left = len(seen) - states["running"] - sum(states[state] for state in OVER)
        self._say(f"{len(seen)} {_plural('job', len(seen))}" + (f": {known}" if known else "") + f"; {left} to do")
        seconds = expected_s(seen)
        if left and seconds is not None:
            basis = f"{states['done']} finished {_plural('job', states['done'])}"
            self._say(f"About {duration(seconds / self.at_once)} left, judging by {basis}")

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keeps the table on the screen up to date; where no one watches, one line says that a job begins."""
        over = threading.Event()
        live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None

        def watch() -> None:
            begun: set[str] = set()
            while not over.wait(LOOK_S):
                seen = self.look()
                if live is not None:
                    live.update(self.running_table(seen), refresh=True)
                for job, standing in seen:
                    if standing.state != "running":
                        continue
                    self._tell_trouble(standing)
                    if job.key not in begun and live is None:
                        begun.add(job.key)
                        self._say(f"begun     {escape(self._number(job))}")

        watcher = threading.Thread(target=watch, daemon=True)
        if live is not None:
            live.start()
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            if live is not None:
                live.stop()
            self.look()

    def ended(self, job: Job) -> Standing:
        """Says how a job ended; where it broke, with why and where its log is."""
        standing = self.ledger.standing(job)
        self._tell_trouble(standing)
        number = self._number(job)
        if standing.state in BROKEN:
            self._say(f"[bold red]{standing.state}[/]  {escape(number)}")
            details = self.ledger.details(job)
            for line in (details or standing.reason).rstrip().splitlines():
                self._say(f"    {escape(line)}")
            self._say(f"    log: {escape(str(self.ledger.log(job.key)))}")
        elif standing.state == "pruned":
            self._say(f"[yellow]pruned[/]    {escape(number)}  after {standing.epochs} epochs")
        elif standing.result is not None:
            metrics, cost = standing.result["metrics"]["val"], standing.result["cost"]
            loss, accuracy = (f"{name} {_figure(metrics.get(name))}" for name in ("loss", "accuracy"))
            state = f"[{STYLES[standing.state]}]{standing.state}[/]".ljust(16 + len(STYLES[standing.state]))
            self._say(f"{state}{escape(number)}  val {loss}  {accuracy}  {duration(cost['fit_s'])}")
        return standing

    def running_table(
        self, seen: list[tuple[Job, Standing]], most: int = MOST_LINES, at_once: int | None = None
    ) -> Table:
        """Every job as it stands; of many, the running and the broken ones and those that come next.

        Args:
            seen: The jobs.
            most: Lines of the table.
            at_once: How many jobs run at a time, for the estimate; 0: none, so there is no estimate; ``None``: as many as
                the launcher runs.
        """
        figures = ("epoch", "val loss", "accuracy", "images/s", "left")
        rows: list[list[str]] = []
        last = dict.fromkeys(OVER, 3)
        order = {"running": 0, **dict.fromkeys(BROKEN, 1), "interrupted": 2, "to do": 2, **last}
        numbered = list(enumerate(seen, start=1))
        shown = sorted(sorted(numbered, key=lambda item: order[item[1][1].state])[:most])
        for number, (job, standing) in shown:
            best, progress = standing.best or {}, standing.progress or {}
            total = int(job.config["max_epochs"])
            left = ""
            if standing.state == "running" and progress:
                left = duration((total - standing.epochs) * float(progress["epoch_s"]))
            speed = progress.get("images_per_s") or (standing.result or {}).get("cost", {}).get("images_per_s")
            shares = [
                f"{standing.epochs}/{total}",
                _text(best.get("val/loss")),
                _text(best.get("val/accuracy")),
                "" if speed is None else f"{float(speed):.0f}",
                left,
            ]
            rows.append([*self._named(number, job, standing), *shares])
        grid = self._fitting(figures, rows, ("images/s", "accuracy", "left", "epoch"))
        notes: list[str] = []
        if len(numbered) > len(shown):
            hidden = Counter(standing.state for number, (_, standing) in numbered if number not in dict(shown))
            notes.append("and " + ", ".join(f"{count} {state}" for state, count in hidden.items()))
        at_once = self.at_once if at_once is None else at_once
        seconds = expected_s(seen)
        if seconds and at_once:
            notes.append(f"about {duration(seconds / at_once)} left in all")
        grid.caption = "; ".join(notes) or None
        return grid

    def status(self) -> None:
        """The table as it stands now, all jobs of it; an estimate only while a job runs."""
        seen = self.look()
        running = sum(standing.state == "running" for _, standing in seen)
        self.console.print(self.running_table(seen, len(self.jobs), running))
        left = sum(standing.state not in OVER for _, standing in seen)
        if left and not running:
            self._say(
                f"No job is running, and {left} of {len(seen)} are not done. The command of the sweep resumes it."
            )

    def summary(self) -> list[tuple[Job, Standing]]:
        """The table at the end, with what broke and why below it."""
        seen = self.look()
        priced = any(standing.result and standing.result["cost"]["usd"] is not None for _, standing in seen)
        figures = ("best epoch", "val loss", "accuracy", "macro F1", "images/s", "MiB", "seconds", *(["USD"] * priced))
        rows: list[list[str]] = []
        for number, (job, standing) in enumerate(seen, start=1):
            row = self._named(number, job, standing)
            if standing.result is not None:
                result, cost = standing.result, standing.result["cost"]
                metrics = result["metrics"]["val"]
                row += [f"{result['best_epoch']}/{result['epochs']}"]
                row += [_figure(metrics.get(name)) for name in ("loss", "accuracy", "f1_macro")]
                row += [_figure(cost[name], 0) for name in ("images_per_s", "peak_memory_mib", "fit_s")]
                row += [_figure(cost["usd"], 3)] * priced
            rows.append(row)
        self.console.print(
            self._fitting(figures, rows, ("MiB", "images/s", "seconds", "best epoch", "macro F1", "USD"))
        )
        for job, standing in seen:
            if standing.state in BROKEN:
                self._say(
                    f"[bold red]{standing.state}[/]  {escape(self._number(job))}: {escape(standing.reason.splitlines()[0])}"
                )
                self._say(f"    log: {escape(str(self.ledger.log(job.key)))}")
        self._say(f"All of it as a table: [bold]{escape(str(self.ledger.results))}[/]")
        return seen

    def _named(self, number: int, job: Job, standing: Standing) -> list[str]:
        """The first cells of a row: which job it is, and how it stands."""
        state = f"[{STYLES.get(standing.state, 'default')}]{standing.state}[/]"
        return [str(number), *(escape(job.differs.get(key, "")) for key in self._axes()), state]

    def _fitting(self, figures: Sequence[str], rows: list[list[str]], spare: Sequence[str]) -> Table:
        """A table without as many of its spare columns as the terminal is too narrow for."""
        names = ("job", *self._axes(), "state", *figures)
        for count in range(len(spare) + 1):
            shown = [place for place, name in enumerate(names) if name not in spare[:count]]
            grid = Table(title=f"{self.ledger.folder}", title_justify="left")
            for place in shown:
                cells = [names[place], *(row[place] for row in rows if place < len(row))]
                if names[place] in figures:
                    grid.add_column(names[place], justify="right", no_wrap=True, min_width=max(map(len, cells)))
                else:
                    grid.add_column(names[place], overflow="fold")
            for row in rows:
                grid.add_row(*(row[place] for place in shown if place < len(row)))
            wide = self.console.options.update(max_width=10_000)
            if self.console.measure(grid, options=wide).minimum <= self.console.width:
                break
        return grid

    def _tell_trouble(self, standing: Standing) -> None:
        """Shows once what a job could say in its log alone: that W&B is of no use."""
        if standing.folder is None:
            return
        trouble = read_json(standing.folder.tracking).get("trouble")
        if trouble and trouble not in self._troubles:
            self._troubles.add(trouble)
            self._say(f"[bold yellow]Warning[/] {escape(trouble)}")

    def _axes(self) -> list[str]:
        return list(self.jobs[0].differs) if self.jobs else []

    def _number(self, job: Job) -> str:
        return f"{self.jobs.index(job) + 1}/{len(self.jobs)}  {job.label}"

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def expected_s(seen: list[tuple[Job, Standing]]) -> float | None:
    """Seconds that the unfinished epochs would take one after the other, at the mean of the finished jobs'."""
    finished = [standing.result for _, standing in seen if standing.result is not None]
    epochs = sum(result["epochs"] for result in finished)
    if not epochs:
        return None
    each = sum(result["cost"]["fit_s"] for result in finished) / epochs
    left = [job.config["max_epochs"] - standing.epochs for job, standing in seen if standing.state not in OVER]
    return float(each * sum(left))


def duration(seconds: float) -> str:
    """``3 h 20 min``, ``12 min``, ``40 s``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes >= 10 else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else noun + "s"


def _figure(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _text(value: str | None) -> str:
    return "" if value in {None, "", "nan"} else f"{float(str(value)):.4f}"
