"""State of a sweep on disk: its jobs, which process runs each, how far each is, and how it failed.

The run folders hold the results; ``jobs/`` beside them only notes which run each job is.
"""

import json
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock, Timeout

from pneumonia.config.convert import from_plain, to_plain
from pneumonia.errors import PneumoniaError, RunError
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.runs.result import RunResult, read_result
from pneumonia.runs.summary import best_row
from pneumonia.sweep.plan import Job
from pneumonia.system.files import digest, is_locked, read_json, translated_os_errors, write_json

State = Literal["to do", "running", "interrupted", "done", "debug", "pruned", "failed", "killed", "out of time"]
FINISHED: Final = ("done", "debug")  # nothing is left to train; debug: shortened by settings of the trainer
FAILED: Final = ("failed", "killed", "out of time")
OVER: Final = (*FINISHED, "pruned")  # no further call of the sweep changes these states
PENDING: Final = ("to do", "interrupted")  # no process runs the job, and no failure is recorded
LOCK_TIMEOUT_S: Final = 1.0  # `is_locked` holds a lock for a moment


@dataclass(frozen=True)
class JobStatus:
    """Progress of one job.

    Attributes:
        state: ``to do`` was never started; ``interrupted`` was, and no process runs it: the next call resumes it.
        folder: Run folder, once known.
        epochs: Finished epochs.
        best_row: Row of the best epoch; of the lowest ``val/loss`` so far, before the run is finished.
        images_per_s: Speed of the last epoch, for a running job.
        epoch_s: Duration of that epoch.
        result: ``result.json`` of a finished run.
        reason: One line on the failure.
    """

    state: State
    folder: RunFolder | None = None
    epochs: int = 0
    best_row: dict[str, str] | None = None
    images_per_s: float | None = None
    epoch_s: float | None = None
    result: RunResult | None = None
    reason: str = ""


class SweepState:
    """Files of a sweep beside its run folders: ``sweep.json`` and ``jobs/``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan_file = folder / "sweep.json"
        self._finished: dict[str, tuple[int, JobStatus]] = {}
        self._fingerprints: dict[str, str] = {}

    def __reduce__(self) -> tuple[type["SweepState"], tuple[Path]]:
        """Pickle the folder alone: another process reads its files itself."""
        return SweepState, (self.folder.resolve(),)

    def log(self, key: str) -> Path:
        """Return the file with the output of a job and its traceback."""
        return self._file(key, "log")

    def write_jobs(self, name: str, question: str, jobs: Sequence[Job]) -> None:
        """Write ``sweep.json``."""
        described = [vars(job) | {"config": to_plain(job.config)} for job in jobs]
        write_json(self.plan_file, {"sweep": name, "question": question, "jobs": described})

    def jobs(self) -> list[Job]:
        """Read the jobs of the sweep.

        Raises:
            RunError: The folder holds no sweep, or ``sweep.json`` is damaged.
        """
        if not self.plan_file.is_file():
            raise RunError(f"{self.folder} holds no sweep yet. Start one with `pneumonia sweep NAME`.")
        try:
            held = json.loads(self.plan_file.read_text(encoding="utf-8"))["jobs"]
            jobs = [Job(job["key"], job["differs"], from_plain(job["config"])) for job in held]
            if not jobs:
                raise ValueError("it lists no job")
            return jobs
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.plan_file} is damaged ({error}). Delete it and run the sweep again: finished runs are kept."
            ) from error

    @contextmanager
    def lock(self, key: str) -> Iterator[bool]:
        """Lock a job for this process; yield whether that worked. The kernel frees the lock of a killed process."""
        path = self._file(key, "lock")
        with translated_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            try:
                lock.acquire(timeout=LOCK_TIMEOUT_S)
            except Timeout:
                yield False
                return
        try:
            yield True
        finally:
            lock.release()

    def clear_failure(self, job: Job) -> None:
        """Delete the record of an earlier failure."""
        self._file(job.key, "broken.json").unlink(missing_ok=True)

    def record_start(self, job: Job) -> None:
        """Record that a job starts: without a process that holds its lock, it counts as interrupted from now on."""
        self.clear_failure(job)
        self._note(job, started=time.time())

    def record_run(self, job: Job, folder: RunFolder) -> None:
        """Record which run a job is, and the fingerprint of its data."""
        self._note(job, run=folder.path.name, source=self._fingerprint(job))

    def record_failure(self, job: Job, state: State, reason: str, details: str = "") -> None:
        """Record a failure; its details, such as a traceback, go to the job's log too."""
        log = self.log(job.key)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(details or f"{state}: {reason}\n")
        failure = {"state": state, "reason": reason, "details": details, "at": time.time()}
        write_json(self._file(job.key, "broken.json"), failure)

    def record_error(self, job: Job, error: BaseException) -> None:
        """Record the exception that ended a job, with its traceback unless it is one of our own."""
        trace = "" if isinstance(error, PneumoniaError) else "".join(traceback.format_exception(error))
        self.record_failure(job, "failed", f"{type(error).__name__}: {error}".strip(), trace)

    def failure_details(self, job: Job) -> str:
        """Return the details of a recorded failure."""
        return str(read_json(self._file(job.key, "broken.json")).get("details", ""))

    def status(self, job: Job) -> JobStatus:
        """Read the progress of a job. An unchanged ``result.json`` is read once."""
        modified, known = self._finished.get(job.key, (0, None))
        if known is not None and known.folder is not None and _modified_ns(known.folder.result) == modified:
            return known
        note, damage = read_json(self._file(job.key, "json")), ""
        folder = RunFolder(self.folder / str(note["run"])) if "run" in note else None
        rows: list[dict[str, str]] = []
        try:
            rows = read_metrics(folder) if folder is not None else []
        except RunError as error:  # fails this job alone
            damage = str(error)
        if folder is not None and note.get("source") == self._fingerprint(job):
            try:
                result = read_result(folder)
            except RunError as error:  # fails this job alone
                result, damage = None, f"{type(error).__name__}: {error}"
            if result is not None:
                best = rows[result.best_epoch - 1] if len(rows) >= result.best_epoch else None
                complete = result.completed
                state: State = "done" if complete else "debug"
                reason = "" if complete else result.shortened
                found = JobStatus(state, folder, result.epochs, best, result=result, reason=reason)
                self._finished[job.key] = _modified_ns(folder.result), found
                return found
        best = best_row(rows, "val/loss")
        failure = read_json(self._file(job.key, "broken.json"))
        if is_locked(self._file(job.key, "lock")):
            progress = read_json(folder.progress) if folder is not None else {}
            speed = progress.get("images_per_s"), progress.get("epoch_s")
            return JobStatus("running", folder, len(rows), best, *speed)
        if failure:
            return JobStatus(failure["state"], folder, len(rows), best, reason=failure["reason"])
        if damage:
            return JobStatus("failed", folder, len(rows), best, reason=damage)
        return JobStatus("interrupted" if note else "to do", folder, len(rows), best)

    def _file(self, key: str, suffix: str) -> Path:
        return self.folder / "jobs" / f"{key}.{suffix}"

    def _note(self, job: Job, **values: object) -> None:
        path = self._file(job.key, "json")
        write_json(path, {**read_json(path), **values})

    def _fingerprint(self, job: Job) -> str:
        """Fingerprint the job's data, once: a sweep assumes that its data do not change while it runs."""
        root = job.config.data.root
        if str(root) not in self._fingerprints:
            self._fingerprints[str(root)] = data_fingerprint(root)
        return self._fingerprints[str(root)]


def data_fingerprint(root: str | None) -> str:
    """Hash the names, sizes and times of data files, much faster than their content; empty without a root."""
    if root is None:
        return ""
    top = Path(root).expanduser()
    files = [os.path.join(folder, name) for folder, _, names in os.walk(top, followlinks=True) for name in names]
    stats = [(os.path.relpath(file, top), os.stat(file)) for file in files or [str(top)]]
    return digest(sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats))


def _modified_ns(path: Path) -> int:
    """Return when a file was last written; -1 if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -1
