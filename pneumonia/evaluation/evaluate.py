"""Evaluate finished runs, or ensembles of them, and write the evaluation into the run folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from pneumonia.data.sources.phantom_detection import mostly_phantoms
from pneumonia.evaluation.baselines import evaluate_baselines
from pneumonia.evaluation.error_gallery import gallery_file, write_gallery
from pneumonia.evaluation.error_gallery_pictures import draw_gallery
from pneumonia.evaluation.evaluate_predictions import evaluate_predictions
from pneumonia.evaluation.result import EvaluationResult
from pneumonia.evaluation.run_predictions import EvaluateOptions, EvaluationCache, RunPredictions, predict_run
from pneumonia.evaluation.summary import print_summary
from pneumonia.runs.ensembles import check_images, check_members, ensemble_folder, mean_predictions, write_ensemble
from pneumonia.runs.folder import OWN, RunFolder
from pneumonia.runs.identity import EvaluationIdentity
from pneumonia.runs.load import load_finished_run
from pneumonia.system.console import say
from pneumonia.system.files import replacing

DEFAULTS: Final = EvaluateOptions()


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        path: The JSON file; the predictions and the error gallery lie beside it.
        result: Content of that file.
    """

    path: Path
    result: EvaluationResult


def evaluate(run: str | Path, options: EvaluateOptions = DEFAULTS, cache: EvaluationCache | None = None) -> Evaluation:
    """Evaluate a run on one subset, print a summary, and write ``evaluation/<data>-<subset>.json`` and ``.parquet``.

    ``<data>`` is ``own``, or names other data; a test-time augmentation other than that of the training is named too. Other data
    are divided by their own folders: the subset ``test`` is the folder ``test``, or everything if there are no such folders.
    Data with the images and labels of the run's own are its own, wherever they lie.

    Raises:
        RunError, CheckpointError, LayoutError, BrokenImagesError, SplitError: The run or its data cannot be used.
    """
    cache = cache or EvaluationCache()
    member = predict_run(load_finished_run(run), options, cache)
    return _evaluate(member.run.folder, [member], member.table, member.validation, options, cache)


def evaluate_ensemble(
    runs: Sequence[str | Path], options: EvaluateOptions = DEFAULTS, cache: EvaluationCache | None = None
) -> Evaluation:
    """Evaluate the mean probabilities of several runs: seeds of one configuration, folds, or different models.

    Temperature and thresholds are chosen on validation images, each predicted by the members that validated on it and so have not
    been trained on it.

    Returns:
        The evaluation, in ``<runs_dir>/ensembles/<hash of the members>``.

    Raises:
        RunError: The runs have different tasks or images; and as :func:`evaluate`.
    """
    cache = cache or EvaluationCache()
    finished = [load_finished_run(run) for run in runs]
    check_members(finished)
    members = [predict_run(run, options, cache) for run in finished]
    check_images([(member.run.folder.path, member.table) for member in members], options.subset)
    task = finished[0].task
    table = mean_predictions([member.table for member in members], task)
    validated = [member.validation for member in members if member.validation is not None]
    validation = mean_predictions(validated, task) if len(validated) == len(members) else None
    folder = RunFolder(ensemble_folder([run.folder for run in finished]))
    write_ensemble(folder, finished)
    return _evaluate(folder, members, table, validation, options, cache)


def _evaluate(
    folder: RunFolder,
    members: Sequence[RunPredictions],
    table: pd.DataFrame,
    validation: pd.DataFrame | None,
    options: EvaluateOptions,
    cache: EvaluationCache,
) -> Evaluation:
    """Evaluate predictions, write the evaluation, and print a summary."""
    first = members[0]
    task, images, tta = first.run.task, first.data.images, first.classifier.options.tta
    reason = next((member.why_uncalibrated for member in members if member.why_uncalibrated), "")
    shown = images.manifest.iloc[first.data.positions(options.subset)]
    data_name: str = OWN
    other: tuple[str | None, str | None] = (None, None)
    if options.data is not None and not first.is_own:
        root = Path(str(options.data.root)).expanduser()
        data_name = folder.name_of_data(root, first.manifest_sha256)
        other = (str(options.data.root), first.manifest_sha256)
    result = EvaluationResult(
        **vars(evaluate_predictions(table, options.subset, task, validation, reason)),
        baselines=evaluate_baselines(first, table, options.subset, cache),
        trained_on=int(table["image_id"].isin(set().union(*(member.trained_on for member in members))).sum()),
        phantoms=mostly_phantoms(shown["path"].tolist(), shown["sha256"].tolist(), options.cache_dir),
        of=EvaluationIdentity([member.run.result.run_id for member in members], tta, *other),
    )
    path = folder.evaluation(options.subset, "json", data_name, tta if first.tta_changed else "")
    with replacing(path.with_suffix(".parquet")) as part:
        table.to_parquet(part, index=False)
    if options.error_gallery:
        write_gallery(gallery_file(path), draw_gallery(table, images, [member.classifier for member in members], task))
    result.write(path)  # last: an evaluation with this file is complete
    if options.data is not None and first.is_own:
        say(f"{options.data.root} holds the images and labels of the run's own data, so its own split is used.")
    print_summary(result, task, images.skipped, [member.run.result for member in members], options.brief)
    return Evaluation(path, result)
