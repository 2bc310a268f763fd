"""``launcher=slurm``: each job a task of SLURM, submitted through submitit, watched through squeue."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from pneumonia.sweep.launchers.checks import ask_slurm
from pneumonia.sweep.launchers.remote import Remote
from pneumonia.sweep.state import Ledger

ENDED: Final = frozenset(
    "COMPLETED FAILED CANCELLED TIMEOUT NODE_FAIL OUT_OF_MEMORY PREEMPTED BOOT_FAIL DEADLINE REVOKED".split()
)
MARGIN_MIN: Final = 5  # that SLURM allows beyond the limit at which a job ends itself and says so


class Slurm(Remote):
    """Tasks of an array, so that ``n_jobs`` can hold some back.

    submitit watches through ``sacct``, which small installations do not have; here ``squeue`` says what still waits or runs.

    Source: https://github.com/facebookincubator/submitit
    """

    def __init__(self, settings: dict[str, Any], ledger: Ledger) -> None:
        super().__init__(settings, ledger)
        import submitit

        folder = Path(ledger.folder.resolve()) / "slurm" / "%j"
        self.executor = submitit.SlurmExecutor(folder=folder)
        minutes = settings["timeout_min"]
        words: dict[str, Any] = {
            "job_name": f"pneumonia-{ledger.folder.name}",
            "time": None if minutes is None else int(minutes) + MARGIN_MIN,
            "partition": settings["partition"],
            "cpus_per_task": settings["cpus_per_job"],
            "gpus_per_node": int(settings["gpus_per_job"]) or None,
            "mem": None if settings["mem_gb"] is None else f"{settings['mem_gb']}GB",
            "array_parallelism": settings["n_jobs"] or 1024,
            "use_srun": False,
        }
        self.executor.update_parameters(**{key: value for key, value in words.items() if value is not None})

    def submit(self, work: Callable[..., bool], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self.executor.batch():
            jobs = [self.executor.submit(work, *call) for call in calls]
        return jobs

    def finished(self, handles: Sequence[Any]) -> dict[Any, bool | str]:
        waiting = self._queued(handles)
        found: dict[Any, bool | str] = {}
        for handle in handles:
            if handle.job_id in waiting:
                continue
            if handle.paths.result_pickle.exists():
                outcome, value = handle._get_outcome_and_result()
                found[handle] = (
                    bool(value) if outcome == "success" else f"its task raised: {str(value).strip().splitlines()[-1]}"
                )
            else:
                found[handle] = f"SLURM ended its task {handle.job_id} ({self._why(handle)}); see {handle.paths.stderr}"
        return found

    def cancel(self, handles: Sequence[Any]) -> None:
        for number in {handle.job_id.partition("_")[0] for handle in handles}:
            ask_slurm("scancel", number)

    def _queued(self, handles: Sequence[Any]) -> set[str]:
        """Ids that wait or run."""
        numbers = ",".join(sorted({handle.job_id.partition("_")[0] for handle in handles}))
        lines = ask_slurm(
            "squeue", "--noheader", "--array", "--states=all", f"--jobs={numbers}", "--format=%i %T", missing=""
        )
        rows = [line.split() for line in lines.splitlines() if line.strip()]
        return {number for number, state in rows if state not in ENDED}

    def _why(self, handle: Any) -> str:
        lines = ask_slurm(
            "squeue", "--noheader", "--array", "--states=all", f"--jobs={handle.job_id}", "--format=%T %r", missing=""
        )
        return lines.strip() or "nothing more is known of it"
