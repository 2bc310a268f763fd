"""Scores a finished run on one part: metrics with patient-level intervals, and one row of probabilities per image."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pneumonia.config import DataConfig
from pneumonia.console import figure, say, table, warn
from pneumonia.data.datamodule import Images, XRayData, load_images
from pneumonia.data.manifest import manifest_sha256
from pneumonia.errors import RunError, SplitError
from pneumonia.labels import TASKS, Task
from pneumonia.metrics import confusion_counts, nullable
from pneumonia.models.build import load_classifier
from pneumonia.predictions import arrays, predict_part, table_metrics
from pneumonia.runs import RunFolder, open_run
from pneumonia.statistics import bootstrap_intervals, calibration
from pneumonia.storage.local import replacing, write_json
from pneumonia.train import data_config


@dataclass(frozen=True)
class Request:
    """What to evaluate.

    Attributes:
        run: A run folder.
        part: ``train``, ``val`` or ``test``.
        data: Other data than the run's own; ``None`` for its own.
        cache_dir: Where decoded images are kept.
    """

    run: Path
    part: str = "test"
    data: DataConfig | None = None
    cache_dir: Path = Path("cache")


def evaluate(request: Request) -> dict[str, Any]:
    """Evaluates, shows a table, writes ``evaluation/<part>.json`` and ``.parquet`` into the run folder.

    Data that the run was not trained on are divided by their own folders: ``split=test`` takes the folder ``test``, or
    everything where the data have no such folders.

    Returns:
        What the JSON file holds.

    Raises:
        RunError, CheckpointError, LayoutError, BrokenImagesError, SplitError: With what to do.
    """
    folder, result, config = open_run(request.run)
    task = TASKS[config["task"]]
    data = data_config(config)
    if request.data is not None:
        data = replace(request.data, resize=data.resize)  # a model is fed as it was trained
    images = load_images(data, config["image_size"], request.cache_dir)
    own = manifest_sha256(images.manifest) == result["data"]["manifest_sha256"]
    if request.data is None and not own:
        raise RunError(
            f"The data of {folder.path} have changed since it was trained: other images, labels or folders. Its split no "
            "longer says which images it has not seen. Name the data to evaluate: data=folder data.root=DIR"
        )
    trained_on = pd.read_parquet(folder.split(result["data"]["split_sha256"]))
    split = trained_on if own else _by_folders(images, request.part)
    module = XRayData(images, split, task, batch_size=64)
    if not len(module.positions(request.part)):
        have = ", ".join(f"{part} {count}" for part, count in split["part"].value_counts().items())
        raise SplitError(
            f"The data hold no image of the part '{request.part}' (they hold {have}). Say another split=PART."
        )
    classifier = load_classifier(folder.best, config["task"]).to("cuda" if torch.cuda.is_available() else "cpu")
    predictions = predict_part(classifier, module, request.part)
    overlap = _seen_in_training(predictions, trained_on, config["split"]["method"] == "rotating")
    report = _report(predictions, request.part, task)
    report["trained_on"] = overlap
    write_json(folder.evaluation(request.part, "json"), report)
    with replacing(folder.evaluation(request.part, "parquet")) as part:
        predictions.to_parquet(part, index=False)
    _show(report, task, folder, images, result)
    return report


def _by_folders(images: Images, part: str) -> pd.DataFrame:
    """Foreign data are divided by their folders; without such folders they are the part that was asked for."""
    source = images.manifest["source_split"]
    parts = source.where(source != "", part)
    return pd.DataFrame({"image_id": images.manifest["image_id"], "part": parts, "fold": -1})


def _seen_in_training(predictions: pd.DataFrame, split: pd.DataFrame, rotating: bool) -> int:
    """How many of these images the run was trained on, by name; rotating folds all train in their turn."""
    parts = ["train", "val"] if rotating else ["train"]
    trained = set(split.loc[split["part"].isin(parts), "image_id"])
    return int(predictions["image_id"].isin(trained).sum())


def _report(predictions: pd.DataFrame, part: str, task: Task) -> dict[str, Any]:
    probability, label = arrays(predictions, task.classes)
    exact: NDArray[np.float64] = probability.astype(np.float64)
    patient = predictions["patient_id"].to_numpy(dtype=object)
    values = table_metrics(predictions, task)
    bounds = bootstrap_intervals(exact, label, patient, task)
    metrics = {
        name: nullable({"value": value, "low": bounds[name][0], "high": bounds[name][1]})
        for name, value in values.items()
    }
    confusion = confusion_counts(probability.argmax(axis=1), label, len(task.classes))
    return {
        "split": part,
        "n": len(predictions),
        "patients": int(predictions["patient_id"].nunique()),
        "metrics": metrics,
        "confusion": {"classes": list(task.classes), "counts": confusion.tolist()},
        "calibration": calibration(exact, label),
    }


def _show(report: dict[str, Any], task: Task, folder: RunFolder, images: Images, result: dict[str, Any]) -> None:
    rows = [
        (name, figure(entry["value"]), f"{figure(entry['low'])} to {figure(entry['high'])}")
        for name, entry in report["metrics"].items()
    ]
    title = f"{report['split']}: {report['n']} images of {report['patients']} patients"
    table(title, ("metric", "value", "95% interval, by patient"), rows)
    counts = report["confusion"]["counts"]
    shown = [(name, *(str(count) for count in row)) for name, row in zip(task.classes, counts, strict=True)]
    table("Confusion: true class by predicted class", ("", *task.classes), shown)
    say(
        f"Calibration error {report['calibration']['ece']:.4f} ({report['calibration']['bins']} bins), "
        f"Brier score {report['calibration']['brier']:.4f}"
    )
    if report["trained_on"]:
        warn(
            f"The model was trained on {report['trained_on']} of these {report['n']} images: these scores are optimistic."
        )
    for leak in result["data"]["leaks"]:
        if leak["part"] == report["split"]:
            warn(
                f"split={result['config']['split']['method']} is leaky: {leak['images']} of {leak['of']} images show a patient "
                "that the model was trained on."
            )
    for path, reason in images.skipped.items():
        warn(f"left out {path}: {reason}")
    say(f"Written: [bold]{folder.evaluation(report['split'], 'json')}[/]")
