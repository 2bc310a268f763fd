"""A sweep's folder: which jobs it has, who works on which, and how far each is. What a run has done is read from the run."""

import csv
import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from filelock import FileLock, Timeout

from pneumonia.config.schema import identity
from pneumonia.errors import PneumoniaError, RunError, some
from pneumonia.runs.folder import COMPLETED, RunFolder, read_metrics, shortened
from pneumonia.sweep.plan import Job, Plan, Search
from pneumonia.system.files import (
    digest,
    is_locked,
    one_at_a_time,
    read_json,
    replacing,
    translated_os_errors,
    write_json,
)

State = Literal["to do", "running", "interrupted", "done", "debug", "pruned", "failed", "killed", "out of time"]
ENDED: Final = ("done", "debug")  # nothing is left to train; debug: the trainer was told to leave something out
BROKEN: Final = ("failed", "killed", "out of time")
PATIENCE_S: Final = 1.0  # for a lock that someone only looks at


@dataclass(frozen=True)
class Standing:
    """How far a job is.

    Attributes:
        state: ``to do`` was never started; ``interrupted`` was, and nobody works on it: the next call resumes it.
        folder: Of its run, once known.
        epochs: Finished ones.
        row: The last row of its ``metrics.csv``.
        best: The row of the lowest ``val/loss`` so far.
        progress: How fast its epochs go.
        result: Of a finished run.
        reason: Why it broke, one line.
    """

    state: State
    folder: RunFolder | None = None
    epochs: int = 0
    row: dict[str, str] | None = None
    best: dict[str, str] | None = None
    progress: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    reason: str = ""


class Ledger:
    """The files of a sweep beside its runs: ``sweep.json``, ``jobs/``, ``results.csv``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan_file = folder / "sweep.json"
        self.results = folder / "results.csv"
        self._done: dict[str, tuple[int, Standing]] = {}
        self._sources: dict[str, str] = {}

    def log(self, key: str) -> Path:
        """What a job has printed, and its traceback."""
        return self.folder / "jobs" / f"{key}.log"

    def adopt(self, plan: Plan) -> None:
        """Writes down what the sweep consists of.

        Raises:
            RunError: The folder holds another sweep, of which this one is neither a part nor an extension.
        """
        with one_at_a_time(self.folder / "sweep.lock", "opening this sweep"):
            held = self.check(plan)
            old, new = {job.key for job in held}, {job.key for job in plan.jobs}
            jobs = plan.jobs if old <= new else held
            if old != new or not held:
                described = {"sweep": plan.name, "question": plan.question, "jobs": [asdict(job) for job in jobs]}
                write_json(self.plan_file, described)

    def check(self, plan: Plan, where: str | None = None) -> list[Job]:
        """The jobs that the folder holds; none where no run of theirs has begun.

        Args:
            plan: What it is to hold.
            where: What the message calls it, where the folder itself would say nothing.

        Raises:
            RunError: It holds another sweep, of which this one is neither a part nor an extension.
        """
        begun = where is not None or any(self.folder.glob("*/config.yaml"))
        held = self.jobs() if self.plan_file.exists() and begun else []
        old, new = {job.key for job in held}, {job.key for job in plan.jobs}
        if held and not (old <= new or new <= old):
            gone = [job.label for job in held if job.key not in new]
            raise RunError(
                f"{where or self.folder} holds a sweep of other jobs: {len(gone)} of its {len(old)} are not in this one "
                f"({some(gone, 2)}), because {_differences(held, plan.jobs)}. One table "
                "of both would compare what can't be compared. Say "
                f"name={plan.common['name']}_2 for a folder of its own, or repeat the overrides of the first call."
            )
        return held

    def keep(self, plan: Search, jobs: list[Job]) -> None:
        """Writes down the trials of a search so far."""
        described = {"sweep": "search", "question": plan.question, "jobs": [asdict(job) for job in jobs]}
        write_json(self.plan_file, described)

    def jobs(self) -> list[Job]:
        """All jobs of the sweep.

        Raises:
            RunError: There is no sweep here, or its file is damaged.
        """
        if not self.plan_file.is_file():
            raise RunError(f"{self.folder} holds no sweep yet. `pneumonia sweep NAME` begins one.")
        try:
            jobs = [Job(**job) for job in json.loads(self.plan_file.read_text(encoding="utf-8"))["jobs"]]
            if not jobs:
                raise ValueError("it names no job")
            return jobs
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.plan_file} is damaged ({error}). Delete it and run the sweep again: finished runs are kept."
            ) from error

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether the job is this process's to do; while the block lasts, nobody else's. The kernel frees it after a kill."""
        path = self._file(key, "lock")
        with translated_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            try:
                lock.acquire(timeout=PATIENCE_S)
            except Timeout:
                yield False
                return
        try:
            yield True
        finally:
            lock.release()

    def begin(self, job: Job) -> None:
        """Forgets how an earlier attempt broke."""
        self._file(job.key, "broken.json").unlink(missing_ok=True)

    def started(self, job: Job) -> None:
        """Notes that work on a job has started: if nobody holds its lock later, it was interrupted."""
        path = self._file(job.key, "json")
        write_json(path, {**read_json(path), "started": time.time()})

    def opened(self, job: Job, folder: RunFolder) -> None:
        """Notes which run a job is, and on which files it was found."""
        path = self._file(job.key, "json")
        found = {"run": folder.path.name, "source": self._source(job.config["data"]["root"])}
        write_json(path, {**read_json(path), **found})

    def broke(self, job: Job, state: State, reason: str, details: str = "") -> None:
        """Notes how a job broke; the details, such as a traceback, go to its log too."""
        log = self.log(job.key)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(details or f"{state}: {reason}\n")
        note = {"state": state, "reason": reason, "details": details, "at": time.time()}
        write_json(self._file(job.key, "broken.json"), note)

    def raised(self, job: Job, error: BaseException) -> None:
        """Notes the error that ended a job; one that we raise on purpose says enough without its traceback."""
        reason = f"{type(error).__name__}: {error}".strip()
        trace = "".join(traceback.format_exception(error))
        self.broke(job, "failed", reason, "" if isinstance(error, PneumoniaError) else trace)

    def details(self, job: Job) -> str:
        """What was noted when the job broke."""
        return str(read_json(self._file(job.key, "broken.json")).get("details", ""))

    def standing(self, job: Job) -> Standing:
        """How far a job is, as the files say it; a result that has not changed since it was read is not read again."""
        at, done = self._done.get(job.key, (0, None))
        if done is not None and done.folder is not None and _changed(done.folder.result) == at:
            return done
        note, damage = read_json(self._file(job.key, "json")), ""
        folder = RunFolder(self.folder / str(note["run"])) if "run" in note else None
        if folder is not None and note.get("source") == self._source(job.config["data"]["root"]):
            try:
                result = folder.ended()
            except RunError as error:  # costs this job alone
                result, damage = None, f"{type(error).__name__}: {error}"
            if result is not None:
                rows = read_metrics(folder)
                best = rows[result["best_epoch"] - 1] if len(rows) >= result["best_epoch"] else None
                full, row = result["status"] == COMPLETED, rows[-1] if rows else None
                state: State = "done" if full else "debug"
                reason = "" if full else shortened(result)
                found = Standing(state, folder, result["epochs"], row, best, None, result, reason)
                self._done[job.key] = _changed(folder.result), found
                return found
        rows = read_metrics(folder) if folder is not None else []
        row, best = (rows[-1], min(rows, key=_loss)) if rows else (None, None)
        broken = read_json(self._file(job.key, "broken.json"))
        if self._held(job.key):
            progress = read_json(folder.progress) if folder is not None else None
            return Standing("running", folder, len(rows), row, best, progress)
        if broken:
            return Standing(broken["state"], folder, len(rows), row, best, reason=broken["reason"])
        if damage:
            return Standing("failed", folder, len(rows), row, best, reason=damage)
        return Standing("interrupted" if note else "to do", folder, len(rows), row, best)

    def write_results(self, seen: list[tuple[Job, Standing]]) -> None:
        """``results.csv``: one row a job, with what differs, its state, metrics and cost."""
        rows = [_result_row(job, standing) for job, standing in seen]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        ordered = sorted(columns, key=lambda name: ("/" in name or name.startswith("cost."), name.startswith("cost.")))
        with replacing(self.results) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=ordered, restval="")
            writer.writeheader()
            writer.writerows(rows)

    def _file(self, key: str, suffix: str) -> Path:
        return self.folder / "jobs" / f"{key}.{suffix}"

    def _source(self, root: str | None) -> str:
        """Looked at once: a sweep takes its data not to change while it runs."""
        if str(root) not in self._sources:
            self._sources[str(root)] = source_state(root)
        return self._sources[str(root)]

    def _held(self, key: str) -> bool:
        return is_locked(self._file(key, "lock"))


def source_state(root: str | None) -> str:
    """A cheap stand-in for the content of the data: names, sizes and times of the files; empty where they have none."""
    if root is None:
        return ""
    path = Path(root).expanduser()
    if path.is_file():
        stat = path.stat()
        return digest([stat.st_size, stat.st_mtime_ns])
    return digest(sorted(_files(str(path), "")))


def _files(folder: str, inside: str) -> Iterator[list[Any]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path, f"{inside}{entry.name}/")
            else:
                stat = entry.stat()
                yield [inside + entry.name, stat.st_size, stat.st_mtime_ns]


def _differences(held: list[Job], new: list[Job]) -> str:
    """Which settings two sweeps of one name don't share, for a message."""
    by_label = {job.label: job for job in held}
    pairs = [(by_label[job.label], job) for job in new if job.label in by_label] or [(held[0], new[0])]
    before, now = ({**_flat(identity(job.config)), **_flat(job.config["data"], "data.")} for job in pairs[0])
    swept = {*pairs[0][0].differs, *pairs[0][1].differs}
    changed = [key for key in sorted({*before, *now} - swept) if before.get(key) != now.get(key)]
    if not changed:
        return "other values are swept over"
    return some([f"{key} was {before.get(key)} and is {now.get(key)} now" for key in changed], 4)


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _result_row(job: Job, standing: Standing) -> dict[str, Any]:
    row: dict[str, Any] = {**job.differs, "state": standing.state, "epochs": standing.epochs}
    row["run_id"] = standing.folder.path.name if standing.folder else ""
    row["reason"] = standing.reason
    if standing.result is not None:
        result = standing.result
        row["best_epoch"] = result["best_epoch"]
        for part, metrics in result["metrics"].items():
            row |= {f"{part}/{name}": "" if value is None else value for name, value in metrics.items()}
        row |= {f"cost.{name}": "" if value is None else value for name, value in result["cost"].items()}
    elif standing.best is not None:
        row["best_epoch"] = standing.best["epoch"]
        row |= {name: value for name, value in standing.best.items() if "/" in name}
    return row


def _changed(path: Path) -> int:
    """When a file was last written; -1 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -1


def _loss(row: dict[str, str]) -> float:
    try:
        return float(row["val/loss"])
    except (KeyError, ValueError):
        return float("inf")
