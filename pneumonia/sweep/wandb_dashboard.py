"""A W&B workspace for each sweep, as code: built without a login, saved with one."""

import warnings
from importlib import import_module
from typing import Any, Final

from pneumonia.errors import ConfigError, TransferError
from pneumonia.sweep.plan import Plan

CURVES: Final = ("val/loss", "train/loss", "val/accuracy", "val/f1_macro", "lr")
BINARY: Final = ("best/val/fnr", "best/val/fpr")
BEST: Final = ("best/val/loss", "best/val/accuracy", "best/val/f1_macro", "best/val/auroc")
COST: Final = ("cost/images_per_s", "cost/peak_memory_mib", "cost/fit_s", "cost/usd")
CHANGED_BY: Final = {
    "model": "model._target_",
    "optimizer": "optimizer._target_",
    "scheduler": "scheduler._target_",
    "experiment": "model._target_",
    "split": "split.method",
    "augmentation": "augmentation.rotate_deg",
}
PICTURES: Final = ("val/samples", "augmentation", "weights")


def build(plan: Plan, project: str, entity: str) -> Any:
    """The workspace of a sweep: curves by epoch, best figures by job, how they follow what is swept over, cost, pictures.

    Raises:
        ConfigError: wandb-workspaces is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package still uses an older style of pydantic's
            panels: Any = import_module("wandb_workspaces.reports.v2")
            workspaces: Any = import_module("wandb_workspaces.workspaces")
    except ImportError as error:
        raise ConfigError("Dashboards need wandb-workspaces: pip install 'pneumonia[wandb]'.") from error
    binary = any(job.config["task"] == "pneumonia" for job in plan.jobs)
    best = (*BEST, *(BINARY if binary else ()))
    # The library's own types: it reads a bare word as a metric of the run's summary.
    swept = dict.fromkeys(_config_key(key) for key in plan.axes)
    columns = [*map(panels.Config, swept), *map(panels.SummaryMetric, best[:3])]
    sections = {
        "By epoch": [panels.LinePlot(title=name, x=panels.Metric("epoch"), y=[panels.Metric(name)]) for name in CURVES],
        "Best epoch": [panels.BarPlot(title=name, metrics=[panels.Metric(name)]) for name in best],
        "What follows from what": [
            panels.ParallelCoordinatesPlot(
                title=plan.question, columns=[panels.ParallelCoordinatesPlotColumn(metric=axis) for axis in columns]
            )
        ],
        "Cost": [panels.BarPlot(title=name, metrics=[panels.Metric(name)]) for name in COST],
        "Pictures": [panels.MediaBrowser(title=name, media_keys=[name]) for name in PICTURES],
    }
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=f"Sweep {plan.common['name']}: {plan.question}",
        sections=[workspaces.Section(name=name, panels=held, is_open=True) for name, held in sections.items()],
        runset_settings=workspaces.RunsetSettings(
            filters=workspaces.And(workspaces.Metric("Group") == plan.common["name"])
        ),
        auto_generate_panels=False,
    )


def as_json(workspace: Any) -> str:
    """The workspace as W&B's server is sent it."""
    text: str = workspace._to_model().model_dump_json(by_alias=True, indent=2)
    return text


def save(workspace: Any) -> str:
    """Saves a workspace on the server and returns its address.

    Raises:
        TransferError: The server refuses or can't be reached.
    """
    try:
        return str(workspace.save().url)
    except Exception as error:
        text = str(error).partition("\n")[0][:200]
        raise TransferError(
            f"W&B did not take the workspace ({type(error).__name__}: {text}). Check WANDB_API_KEY, the entity and the "
            "project, or say --json FILE to keep it as a file."
        ) from error


def _config_key(key: str) -> str:
    """The key of a run's config that a swept word changes; one that chooses a file changes what stands for it."""
    return CHANGED_BY.get(key, key)
