"""Scores finished runs on one subset: what each says of every image, and what that is worth."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from pneumonia.config.convert import from_plain
from pneumonia.config.schema import DataConfig
from pneumonia.data.audit.baselines import baseline_probabilities
from pneumonia.data.datamodule import DecodedImages, XRayDataModule
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.data.sources.phantom_detection import mostly_phantoms
from pneumonia.data.splits.files import row_by_row
from pneumonia.errors import PneumoniaError, RunError, SplitError, some
from pneumonia.evaluation.error_gallery import cases_file, write_cases
from pneumonia.evaluation.error_gallery_pictures import draw_cases
from pneumonia.evaluation.evaluate_predictions import assess, gain, with_intervals
from pneumonia.evaluation.summary import show_evaluation
from pneumonia.metrics.predictions import PROBABILITY_PREFIX
from pneumonia.models.base import Classifier
from pneumonia.runs.ensembles import check_images, check_members, describe_ensemble, ensemble_folder, mean_predictions
from pneumonia.runs.folder import OWN, RunFolder
from pneumonia.runs.identity import evaluation_identity
from pneumonia.runs.load import FinishedRun, load_finished_run
from pneumonia.runs.predictions import predict_subset
from pneumonia.system.console import say
from pneumonia.system.files import digest, replacing, write_json
from pneumonia.tasks import Task

BASELINES: Final = ("metadata", "thumbnail")


@dataclass(frozen=True)
class Request:
    """What to evaluate.

    Attributes:
        run: A run folder.
        subset: ``train``, ``val`` or ``test``.
        data: Other data than the run's own; ``None`` for its own.
        cache_dir: Where decoded images are kept.
        tta: Views whose answers are averaged, for example ``flip``; ``None`` for what the run was trained with.
        cases: Also draw the images that are worth looking at.
        brief: Show one line, not tables.
    """

    run: Path
    subset: str = "test"
    data: DataConfig | None = None
    cache_dir: Path = Path("cache")
    tta: str | None = None
    cases: bool = False
    brief: bool = False


@dataclass
class Desk:
    """What the evaluations of one process share: images, and the baselines of a split."""

    data_cache: RunDataCache = field(default_factory=RunDataCache)
    baselines: dict[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        path: JSON file of the values; predictions and error gallery lie beside it.
        values: Content of that file.
    """

    path: Path
    values: dict[str, Any]


@dataclass(frozen=True)
class _Told:
    """What one run says.

    Attributes:
        table: Of the subset.
        fitting: Of its own validation images; ``None`` where they can't be had, because of ``without``.
        own: The run's own data with its split; ``None`` where they can't be had, because of ``own_missing``.
        manifest_sha256: Of the data that were evaluated.
        foreign: Whether these are other data than the run's own.
        views_changed: Whether other views are averaged than in training.
    """

    run: FinishedRun
    classifier: Classifier
    module: XRayDataModule
    table: pd.DataFrame
    fitting: pd.DataFrame | None
    without: str
    trained_on: set[str]
    own: XRayDataModule | None
    own_missing: str
    manifest_sha256: str
    foreign: bool
    views_changed: bool


def evaluate(request: Request, desk: Desk | None = None) -> Evaluation:
    """Evaluates a run, shows a table, writes ``evaluation/<data>-<subset>.json`` and ``.parquet`` into the run folder.

    ``<data>`` is ``own``, or names other data, so that neither overwrites the other; views that differ from those of the
    training are named too. Other data are divided by their own folders: ``split=test`` takes the folder ``test``, or
    everything where the data have no such folders. Data with the very images and labels of the run's own are its own,
    wherever they lie.

    Raises:
        RunError, CheckpointError, LayoutError, BrokenImagesError, SplitError: With what to do.
    """
    desk = desk or Desk()
    told = _tell(request, desk)
    return _finish(told.run.folder, [told], told.table, told.fitting, request, desk)


def evaluate_ensemble(members: Sequence[Path], request: Request, desk: Desk | None = None) -> Evaluation:
    """Evaluates the mean of several runs' probabilities: seeds of one configuration, folds, or unlike models.

    A validation image counts with the mean of those members that had it in their validation split, so that temperature and
    thresholds are chosen on images that none of these was trained on.

    Args:
        members: Two or more run folders.
        request: As for one run; its ``run`` is not looked at.
        desk: What the evaluations of one process share.

    Returns:
        The evaluation, in ``<runs_dir>/ensembles/<hash of the members>``.

    Raises:
        RunError: Runs of different tasks, images or subsets, which have no common answer; and as :func:`evaluate`.
    """
    desk = desk or Desk()
    check_members([load_finished_run(path) for path in members])
    told = [_tell(replace(request, run=path), desk) for path in members]
    check_images([(one.run.folder.path, one.table) for one in told], request.subset)
    task = told[0].run.task
    table = mean_predictions([one.table for one in told], task)
    known = [one.fitting for one in told if one.fitting is not None]
    fitting = mean_predictions(known, task) if len(known) == len(told) else None
    folder = RunFolder(ensemble_folder([one.run.folder for one in told]))
    write_json(folder.path / "ensemble.json", describe_ensemble([one.run for one in told]))
    return _finish(folder, told, table, fitting, request, desk)


def _tell(request: Request, desk: Desk) -> _Told:
    run = load_finished_run(request.run)
    config = run.config
    data = from_plain(config).data
    if request.data is not None:
        data = replace(request.data, resize=data.resize)  # a model is fed as it was trained
    images, manifest_hash = desk.data_cache.images(data, config["image_size"], request.cache_dir)
    is_own = manifest_hash == run.result.data.manifest_sha256
    if request.data is None and not is_own:
        raise RunError(
            f"The data of {run.folder.path} have changed since it was trained: other images, labels or folders. Its split no "
            "longer says which images it has not seen. Name the data to evaluate: data=folder data.root=DIR"
        )
    trained_on = run.split()
    split = row_by_row(trained_on, images.manifest) if is_own else _by_folders(images, request.subset)
    module = XRayDataModule(images, split, run.task, batch_size=64)
    if not len(module.positions(request.subset)):
        have = ", ".join(f"{subset} {count}" for subset, count in split["subset"].value_counts().items())
        raise SplitError(
            f"The data hold no image of the subset '{request.subset}' (they hold {have}). Use another split."
        )
    classifier = run.load_model().to("cuda" if torch.cuda.is_available() else "cpu")
    views = request.tta or classifier.options.tta
    changed = views != classifier.options.tta
    classifier.options = replace(classifier.options, tta=views)
    table = predict_subset(classifier, module, request.subset)
    own, own_missing = (module, "") if is_own else _own_data(run, trained_on, request, desk)
    fitting, without = _fitting(run, classifier, own, own_missing, changed)
    subsets = ["train", "val"] if config["split"]["method"] == "rotating" else ["train"]
    seen = set(trained_on.loc[trained_on["subset"].isin(subsets), "image_id"])
    return _Told(
        run,
        classifier,
        module,
        table,
        fitting,
        without,
        seen,
        own,
        own_missing,
        manifest_hash,
        not is_own,
        changed,
    )


def _own_data(
    run: FinishedRun, trained_on: pd.DataFrame, request: Request, desk: Desk
) -> tuple[XRayDataModule | None, str]:
    """The data of a run that is evaluated on others, or why they can't be had."""
    config = run.config
    data = from_plain(config).data
    if data.source == "azure":
        return None, "the run's own images are in Azure, from where an evaluation of other data does not fetch them"
    try:
        images, sha256 = desk.data_cache.images(data, config["image_size"], request.cache_dir)
    except PneumoniaError as error:
        return None, f"the run's own images can't be read ({some(str(error).splitlines(), 1)})"
    if sha256 != run.result.data.manifest_sha256:
        return None, f"the run's own images or labels in {data.root} have changed since it was trained"
    return XRayDataModule(images, row_by_row(trained_on, images.manifest), run.task, batch_size=64), ""


def _fitting(
    run: FinishedRun,
    classifier: Classifier,
    own: XRayDataModule | None,
    own_missing: str,
    changed: bool,
) -> tuple[pd.DataFrame | None, str]:
    """Predictions of the run's own validation images, as the classifier now answers."""
    if run.config["split"]["method"] == "rotating":
        return None, run.why_uncalibrated
    if not changed:
        try:
            return run.validation_predictions(), ""
        except RunError:
            pass  # lost or damaged: told anew below, from the same checkpoint
    if own is None:
        why = "were not made with these views" if changed else "are not in the run folder"
        return None, f"{own_missing}, and predictions of its validation images {why}"
    return predict_subset(classifier, own, "val"), ""


def _finish(
    folder: RunFolder,
    told: list[_Told],
    table: pd.DataFrame,
    fitting: pd.DataFrame | None,
    request: Request,
    desk: Desk,
) -> Evaluation:
    first = told[0]
    task = first.run.task
    without = next((one.without for one in told if one.without), "")
    report = assess(table, request.subset, task, fitting, without)
    report["baselines"] = _baselines(first, table, task, request, desk)
    report["trained_on"] = int(table["image_id"].isin(set().union(*(one.trained_on for one in told))).sum())
    tta = first.classifier.options.tta
    name: str = OWN
    about: tuple[str | None, str | None] = (None, None)
    if first.foreign and request.data is not None:
        root = Path(str(request.data.root)).expanduser()
        name, about = folder.name_of_data(root, first.manifest_sha256), (str(request.data.root), first.manifest_sha256)
    shown = first.module.images.manifest.iloc[first.module.positions(request.subset)]
    report["phantoms"] = mostly_phantoms(shown["path"].tolist(), shown["sha256"].tolist(), request.cache_dir)
    report["of"] = evaluation_identity([one.run.result.run_id for one in told], tta, *about)
    written = folder.evaluation(request.subset, "json", name, tta if any(one.views_changed for one in told) else "")
    with replacing(written.with_suffix(".parquet")) as part:
        table.to_parquet(part, index=False)
    if request.cases:
        write_cases(
            cases_file(written),
            *draw_cases(table, first.module.images, [one.classifier for one in told], task),
        )
    write_json(written, report)  # last: it says that the evaluation is whole
    if request.data is not None and not first.foreign:
        say(f"{request.data.root} holds the images and labels of the run's own data, so its own split is used.")
    skipped = first.module.images.skipped
    show_evaluation(report, task, skipped, [one.run.result for one in told], request.brief)
    return Evaluation(written, report)


def _baselines(told: _Told, table: pd.DataFrame, task: Task, request: Request, desk: Desk) -> dict[str, Any]:
    """What file metadata and thumbnails alone give on the same images, fitted on the run's own training split."""
    own, module = told.own, told.module
    if own is None:
        return {"reason": told.own_missing}
    train, of = own.positions("train"), module.positions(request.subset)
    missing = [name for number, name in enumerate(task.classes) if not (own.labels[train] == number).any()]
    if missing:
        return {"reason": f"no training image shows {some(missing)}"}
    found: dict[str, Any] = {"reason": None}
    for kind in BASELINES:
        size = module.images.pixels.shape[1]
        key = digest([kind, task.name, told.run.result.data.split_sha256, told.manifest_sha256, request.subset, size])
        if key not in desk.baselines:
            manifests = [own.images.manifest.iloc[train], module.images.manifest.iloc[of]]
            answers = baseline_probabilities(
                kind,
                pd.concat(manifests, ignore_index=True),
                np.concatenate(
                    [own.images.pixels[own.rows("train")], module.images.pixels[module.rows(request.subset)]]
                ),
                own.labels[train],
                len(task.classes),
            )
            names = {f"{PROBABILITY_PREFIX}{name}": answers[:, number] for number, name in enumerate(task.classes)}
            desk.baselines[key] = table[["image_id", "patient_id", "label"]].assign(**names)
        baseline = desk.baselines[key]
        found[kind] = {"metrics": with_intervals(baseline, task), "gain": gain(table, baseline, task)}
    return found


def _by_folders(images: DecodedImages, subset: str) -> pd.DataFrame:
    """Foreign data are divided by their folders; without such folders they are the subset that was asked for."""
    source = images.manifest["source_split"]
    subsets = source.where(source != "", subset)
    return pd.DataFrame({"image_id": images.manifest["image_id"], "subset": subsets, "fold": -1})
