"""Build a W&B workspace for a sweep, without a login; save it with one."""

import warnings
from importlib import import_module
from typing import Any, Final

from pneumonia.errors import ConfigError, TransferError
from pneumonia.sweep.plan import Plan

CURVES: Final = ("val/loss", "train/loss", "val/accuracy", "val/f1_macro", "lr")
BINARY: Final = ("best/val/fnr", "best/val/fpr")
BEST: Final = ("best/val/loss", "best/val/accuracy", "best/val/f1_macro", "best/val/auroc")
COST: Final = ("cost/images_per_s", "cost/peak_memory_mib", "cost/fit_s", "cost/usd")
CONFIG_KEY: Final = {  # the key that names the choice in a config group
    "task": "task.name",
    "model": "model._target_",
    "optimizer": "optimizer._target_",
    "scheduler": "scheduler._target_",
    "experiment": "model._target_",
    "split": "split.method",
    "augmentation": "augmentation.rotate_deg",
}
PICTURES: Final = ("val/samples", "augmentation", "weights")


def build(plan: Plan, project: str, entity: str) -> Any:
    """Build the workspace of a sweep: curves, best metrics, their dependence on the swept values, cost, images.

    Raises:
        ConfigError: wandb-workspaces is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package still uses an older style of pydantic's
            reports: Any = import_module("wandb_workspaces.reports.v2")
            workspaces: Any = import_module("wandb_workspaces.workspaces")
    except ImportError as error:
        raise ConfigError("Dashboards need wandb-workspaces: pip install 'pneumonia[wandb]'.") from error
    best = (*BEST, *BINARY) if any(len(job.config.task.classes) == 2 for job in plan.jobs) else BEST
    # Types of the library, because it reads plain text as a metric of the run's summary.
    swept = dict.fromkeys(CONFIG_KEY.get(key, key) for key in plan.axes)
    columns = [*map(reports.Config, swept), *map(reports.SummaryMetric, best[:3])]
    sections = {
        "By epoch": [reports.LinePlot(title=name, x=reports.Metric("epoch"), y=[reports.Metric(name)]) for name in CURVES],
        "Best epoch": [reports.BarPlot(title=name, metrics=[reports.Metric(name)]) for name in best],
        "Swept values and metrics": [
            reports.ParallelCoordinatesPlot(
                title=plan.question, columns=[reports.ParallelCoordinatesPlotColumn(metric=axis) for axis in columns]
            )
        ],
        "Cost": [reports.BarPlot(title=name, metrics=[reports.Metric(name)]) for name in COST],
        "Images": [reports.MediaBrowser(title=name, media_keys=[name]) for name in PICTURES],
    }
    name = plan.common.name
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=f"Sweep {name}: {plan.question}",
        sections=[workspaces.Section(name=title, panels=panels, is_open=True) for title, panels in sections.items()],
        runset_settings=workspaces.RunsetSettings(filters=workspaces.And(workspaces.Metric("Group") == name)),
        auto_generate_panels=False,
    )


def as_json(workspace: Any) -> str:
    """Return the workspace as JSON, as W&B's server receives it."""
    text: str = workspace._to_model().model_dump_json(by_alias=True, indent=2)
    return text


def save(workspace: Any) -> str:
    """Save a workspace on the server; return its URL.

    Raises:
        TransferError: The server refuses it or can't be reached.
    """
    try:
        return str(workspace.save().url)
    except Exception as error:
        text = str(error).partition("\n")[0][:200]
        raise TransferError(
            f"W&B did not take the workspace ({type(error).__name__}: {text}). Check WANDB_API_KEY, the entity and the "
            "project, or use --json FILE to write it to a file."
        ) from error
