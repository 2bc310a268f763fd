"""Write ``results.csv``: one row a job with its differences, state, metrics and cost."""

import csv
from collections.abc import Sequence
from pathlib import Path

from pneumonia.sweep.plan import Job
from pneumonia.sweep.state import JobStatus
from pneumonia.system.files import replacing


def write_results(path: Path, jobs: Sequence[tuple[Job, JobStatus]]) -> None:
    """Write the table of all jobs. Columns of metrics come after the others, columns of cost last."""
    rows = [_row(job, status) for job, status in jobs]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns.sort(key=lambda name: ("/" in name or name.startswith("cost."), name.startswith("cost.")))
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _row(job: Job, status: JobStatus) -> dict[str, object]:
    row: dict[str, object] = {**job.differs, "state": status.state, "epochs": status.epochs}
    row["run_id"] = status.folder.path.name if status.folder else ""
    row["reason"] = status.reason
    if status.result is not None:
        row["best_epoch"] = status.result.best_epoch
        values = {f"{split}/{key}": v for split, metrics in status.result.metrics.items() for key, v in metrics.items()}
        values |= {f"cost.{key}": value for key, value in vars(status.result.cost).items()}
        row |= {key: "" if value is None else value for key, value in values.items()}
    elif status.best_row is not None:
        row["best_epoch"] = status.best_row["epoch"]
        row |= {key: value for key, value in status.best_row.items() if "/" in key}
    return row
