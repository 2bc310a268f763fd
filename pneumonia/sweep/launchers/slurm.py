"""``launcher=slurm``: each job a SLURM task, submitted through submitit and watched through ``squeue``."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from pneumonia.config.choices import SlurmConfig
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.sweep.launchers.base import Launcher
from pneumonia.sweep.launchers.checks import query_slurm
from pneumonia.sweep.plan import Job
from pneumonia.sweep.run_job import JobOptions, JobOutcome, run_job
from pneumonia.sweep.state import State, SweepState

ENDED: Final = frozenset(
    "COMPLETED FAILED CANCELLED TIMEOUT NODE_FAIL OUT_OF_MEMORY PREEMPTED BOOT_FAIL DEADLINE REVOKED".split()
)
MARGIN_MIN: Final = 5  # between the time limit of a job, which records it, and SLURM's own


class SlurmLauncher(Launcher):
    """Run jobs as tasks of one array, of which at most ``n_jobs`` run at once.

    submitit watches through ``sacct``, which small installations lack; this class asks ``squeue`` instead.

    Source: https://github.com/facebookincubator/submitit
    """

    def __init__(self, settings: SlurmConfig, state: SweepState, cache: RunDataCache) -> None:
        super().__init__(settings, state, cache)
        self.threads = settings.cpus_per_job or 1
        import submitit

        self.executor = submitit.SlurmExecutor(folder=Path(state.folder.resolve()) / "slurm" / "%j")
        minutes = settings.timeout_min
        options = {
            "job_name": f"pneumonia-{state.folder.name}",
            "time": None if minutes is None else int(minutes) + MARGIN_MIN,
            "partition": settings.partition,
            "cpus_per_task": settings.cpus_per_job,
            "gpus_per_node": int(settings.gpus_per_job) or None,
            "mem": None if settings.mem_gb is None else f"{settings.mem_gb}GB",
            "array_parallelism": settings.n_jobs or 1024,
            "use_srun": False,
        }
        self.executor.update_parameters(**{key: value for key, value in options.items() if value is not None})

    def submit(self, jobs: Sequence[Job], options: JobOptions) -> list[Any]:
        with self.executor.batch():
            return [self.executor.submit(run_job, job, self.state, options) for job in jobs]

    def ended(self, handles: Sequence[Any]) -> dict[Any, JobOutcome | tuple[State, str]]:
        rows = [line.split() for line in _squeue(set(map(_array, handles)), "%i %T").splitlines() if line.strip()]
        queued = {number for number, state in rows if state not in ENDED}
        found: dict[Any, JobOutcome | tuple[State, str]] = {}
        for handle in handles:
            if handle.job_id in queued:
                continue
            if handle.paths.result_pickle.exists():
                outcome, value = handle._get_outcome_and_result()
                error = str(value).strip().splitlines()
                found[handle] = value if outcome == "success" else ("killed", f"its task raised: {error[-1]}")
            else:
                reason = _squeue([handle.job_id], "%T %r").strip() or "squeue lists no reason"
                lost = f"SLURM ended its task {handle.job_id} ({reason}); see {handle.paths.stderr}"
                found[handle] = "killed", lost
        return found

    def cancel(self, handles: Sequence[Any]) -> None:
        for number in set(map(_array, handles)):
            query_slurm("scancel", number)


def _array(handle: Any) -> str:
    """Return the number of the array that a task belongs to."""
    return str(handle.job_id).partition("_")[0]


def _squeue(numbers: Iterable[str], columns: str) -> str:
    """Return a line for each task of some jobs; none for those that SLURM has forgotten."""
    query = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(sorted(numbers))}"]
    return query_slurm(*query, f"--format={columns}", missing="")
