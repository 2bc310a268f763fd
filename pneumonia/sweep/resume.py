"""Resume a sweep: check that its folder holds the same sweep, and find the jobs that are not finished."""

from dataclasses import asdict

from pneumonia.config.convert import dotted, identity
from pneumonia.errors import RunError, some
from pneumonia.sweep.plan import Job, Plan
from pneumonia.sweep.state import FINISHED, SweepState
from pneumonia.system.files import one_at_a_time


def unfinished_jobs(plan: Plan, state: SweepState) -> list[Job]:
    """Return the jobs to run, by :meth:`pneumonia.sweep.state.SweepState.status`.

    Interrupted and failed jobs resume from their last finished epoch; finished ones are skipped unless ``force=true``.
    """
    return [job for job in plan.jobs if plan.common.force or state.status(job).state not in FINISHED]


def record_plan(plan: Plan, state: SweepState) -> None:
    """Write the jobs of the plan to ``sweep.json``, unless the folder holds all of them already.

    Raises:
        RunError: The folder holds a sweep of other jobs.
    """
    with one_at_a_time(state.folder / "sweep.lock", "opening this sweep"):
        held = check_same_sweep(plan, state)
        old, new = {job.key for job in held}, {job.key for job in plan.jobs}
        if not old or new > old:
            state.write_jobs(plan.name, plan.question, plan.jobs)


def check_same_sweep(plan: Plan, state: SweepState, place: str | None = None) -> list[Job]:
    """Return the jobs that the folder holds; none if none of their runs has started.

    Args:
        plan: The sweep to run.
        state: State of the folder.
        place: Name of the folder in the message, for a copy from elsewhere.

    Raises:
        RunError: The folder holds jobs of which the plan's are neither a subset nor a superset.
    """
    started = place is not None or any(state.folder.glob("*/config.yaml"))
    held = state.jobs() if state.plan_file.exists() and started else []
    old, new = {job.key for job in held}, {job.key for job in plan.jobs}
    if held and not (old <= new or new <= old):
        missing = [job.label for job in held if job.key not in new]
        raise RunError(
            f"{place or state.folder} holds a sweep of other jobs: {len(missing)} of its {len(old)} are not in this one "
            f"({some(missing, 2)}), because {_differences(held, plan.jobs)}. One table of both would compare runs that are "
            f"not comparable. Set name={plan.common.name}_2 for another folder, or repeat the overrides of the first call."
        )
    return held


def _differences(held: list[Job], new: list[Job]) -> str:
    """Describe the settings in which two sweeps of one name differ."""
    by_label = {job.label: job for job in held}
    pairs = [(by_label[job.label], job) for job in new if job.label in by_label] or [(held[0], new[0])]
    before, now = ({**dotted(identity(job.config)), **dotted(asdict(job.config.data), "data.")} for job in pairs[0])
    swept = {*pairs[0][0].differs, *pairs[0][1].differs}
    changed = [key for key in sorted({*before, *now} - swept) if before.get(key) != now.get(key)]
    if not changed:
        return "other values are swept over"
    return some([f"{key} was {before.get(key)} and is {now.get(key)} now" for key in changed], 4)
