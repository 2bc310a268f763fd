"""Jobs as tasks of a scheduler that may lose some: what the task could not write down, is written down here."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

from pneumonia.sweep.job import attempt_there, rehearse_there
from pneumonia.sweep.plan import Job
from pneumonia.sweep.state import Ledger

LOOK_S: Final = 1.0
Ended = Callable[[Job], None]


class Remote(ABC):
    """What SLURM and Ray have in common.

    Args:
        settings: The ``launcher`` node.
        ledger: Of the sweep; on a file system that every worker sees.
    """

    def __init__(self, settings: dict[str, Any], ledger: Ledger) -> None:
        self.settings = settings
        self.ledger = ledger

    @abstractmethod
    def submit(self, work: Callable[..., bool], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """A handle for each call of a function."""

    @abstractmethod
    def finished(self, handles: Sequence[Any]) -> dict[Any, bool | str]:
        """Of the handles that have come to an end: what the function returned, or why it could not return."""

    @abstractmethod
    def cancel(self, handles: Sequence[Any]) -> None:
        """Ends tasks; each may keep its last epoch."""

    def rehearse(self, jobs: Sequence[Job], ended: Ended) -> None:
        self._do(rehearse_there, jobs, ended)

    def run(self, jobs: Sequence[Job], ended: Ended) -> None:
        left = list(jobs)
        while left:
            left = self._do(attempt_there, left, ended)
            if left:
                time.sleep(LOOK_S)

    def _do(self, work: Callable[..., bool], jobs: Sequence[Job], ended: Ended) -> list[Job]:
        """Does the jobs; returns those that another sweep is doing."""
        folder, threads = str(self.ledger.folder.resolve()), int(self.settings["cpus_per_job"] or 1)
        calls = [(job, folder, self.settings["timeout_min"], threads) for job in jobs]
        open_ = dict(zip(self.submit(work, calls), jobs, strict=True))
        busy: list[Job] = []
        try:
            while open_:
                for handle, how in self.finished(list(open_)).items():
                    job = open_.pop(handle)
                    if how is False:
                        busy.append(job)
                        continue
                    if isinstance(how, str) and self.ledger.standing(job).state in {"to do", "interrupted"}:
                        self.ledger.broke(job, "killed", f"{how}. Run the sweep again: it goes on")
                    ended(job)
                if open_:
                    time.sleep(LOOK_S)
        except BaseException:
            self.cancel(list(open_))
            raise
        return busy
