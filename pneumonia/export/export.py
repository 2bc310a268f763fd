"""From a finished run to a bundle: gathers, writes beside, measures, and only then gives it its name."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pneumonia.config.convert import from_plain
from pneumonia.config.schema import DataConfig
from pneumonia.data.datamodule import DecodedImages, XRayDataModule
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.data.splits.files import row_by_row
from pneumonia.errors import BrokenImagesError, BundleError, ConfigError, LayoutError, ManifestError, RunError
from pneumonia.export.contract import (
    ARCHIVE,
    CONTRACT,
    MODEL,
    OOD_DETECTOR,
    OPSET,
    Contract,
    OodDetectorFacts,
    ParityFacts,
)
from pneumonia.export.contract_builder import (
    COVERAGE,
    chosen,
    data_facts,
    image_facts,
    intended_use,
    limits,
    metric_facts,
    model_facts,
    ood_detector_facts,
)
from pneumonia.export.contract_schema import LONGEST, is_showable
from pneumonia.export.onnx_graph import export_graph
from pneumonia.export.ood_detector import fit_ood_detector
from pneumonia.export.parity import check_parity, measure_parity
from pneumonia.export.reproducible_archive import reproducible_tar_gz
from pneumonia.export.runtime import Bundle
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.models.base import Classifier
from pneumonia.runs.load import FinishedRun, load_finished_run
from pneumonia.runs.model_warnings import warnings_of
from pneumonia.runs.predictions import predict_subset
from pneumonia.system.console import say
from pneumonia.system.files import check_writable, translated_os_errors

LICENCE: Final = "not stated; ask whoever trained the model, and mind the terms of the images that it was trained on"
EXPORTED_WITH: Final = ("pneumonia", "torch", "onnx", "onnxscript", "onnxruntime")
FULL: Final = ("32-true", "32", "64-true", "64")
UNMEASURED: Final = ParityFacts(False, 0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Attributes:
        run: A run folder.
        out: The bundle.
        coverage: The share of validation images that the bundle is to answer; it abstains on the others.
        licence: Terms of the weights; ``None`` where no one has stated any.
        force: Take the place of a bundle that is there.
        root: Where the images of the run lie now; ``None`` for where they lay.
        cache_dir: Where decoded images are kept.
    """

    run: Path
    out: Path
    coverage: float = COVERAGE
    licence: str | None = None
    force: bool = False
    root: Path | None = None
    cache_dir: Path = Path("cache")


@dataclass(frozen=True)
class _Inputs:
    """A finished run with its model and images."""

    run: FinishedRun
    classifier: Classifier
    module: XRayDataModule
    recorded: pd.DataFrame


def export(order: ExportOptions) -> Contract:
    """Writes the bundle of a run; the same run gives the same bytes.

    Returns:
        The contract, as it stands in the bundle.

    Raises:
        RunError: The run did not finish, or its images are not at hand.
        ParityError: The bundle would not be the trained model; nothing is left of it.
        BundleError: ``out`` is taken, or the model has no place in ONNX.
        CheckpointError, StorageError: With what to do.
    """
    check_place(order.out, order.force)
    check_licence(order.licence)
    check_writable(order.out.parent)
    with threadpool_limits(1), _one_thread():  # sums then do not depend on the number of cores
        inputs = _open(order)
        run = inputs.run
        say("Writing the graph")
        graph, ir_version = export_graph(inputs.classifier)
        say("Fitting the out-of-distribution detector")
        known = np.concatenate(
            [inputs.module.positions("train"), inputs.module.positions("val", run.result.best_epoch - 1)]
        )
        known.sort()
        fitted = fit_ood_detector(
            inputs.module.images.pixels[inputs.module.images.rows[known]], _patients(inputs.module.images, known)
        )
        ood_detector = fitted.ood_detector.to_bytes()
        contract = _promise(
            order, inputs, ood_detector_facts(fitted), {MODEL: graph, OOD_DETECTOR: ood_detector}, ir_version
        )
        trained = predict_subset(inputs.classifier, inputs.module, "val", run.result.best_epoch - 1)
        exact = run.result.cost.device == "cpu" and run.config["trainer"]["precision"] in FULL
        parity = measure_parity(Bundle(contract, graph, fitted.ood_detector), *_answers(inputs, trained), exact)
    check_parity(parity)
    contract = replace(contract, parity=parity).sealed()
    files = {MODEL: graph, OOD_DETECTOR: ood_detector, CONTRACT: contract.text().encode()}
    with _placed(order.out) as folder:
        for name, raw in (files | {ARCHIVE: reproducible_tar_gz(files)}).items():
            (folder / name).write_bytes(raw)
        Bundle.load(folder)
    return contract


def check_place(out: Path, force: bool) -> None:
    """Refuses a place for a bundle before any work is done.

    Raises:
        BundleError: Something is there that must not be overwritten.
    """
    if not out.name or out.resolve() == Path.cwd().resolve():
        raise BundleError(
            f"--out {out} is no folder that can be made anew. Name one of its own, for example --out bundle."
        )
    if not os.path.lexists(out):
        return
    if not out.is_dir() or out.is_symlink():
        raise BundleError(f"{out} is a file, and a bundle is a folder. Name another with --out.")
    if not any(out.iterdir()):
        return
    foreign = sorted({path.name for path in out.iterdir()} - {MODEL, OOD_DETECTOR, CONTRACT, ARCHIVE})
    if foreign:
        raise BundleError(
            f"{out} holds what is no part of a bundle, for example {foreign[0]}, and is not removed for one. Name "
            "another folder with --out."
        )
    if not force:
        raise BundleError(
            f"{out} holds a bundle already. Say --force to put the new one in its place, or name another folder."
        )


def check_licence(licence: str | None) -> None:
    """Refuses terms that a contract can't hold, before any work is done.

    Raises:
        ConfigError: With what is wrong.
    """
    if licence is not None and not (is_showable(licence) and licence.strip() and len(licence) <= LONGEST):
        raise ConfigError(
            f"--licence {licence!r:.80} is no text that a contract can hold: it is empty, longer than {LONGEST} characters, or "
            "has control characters. Leave it out, or name the licence."
        )


@contextmanager
def _placed(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when the block ends well, and vanishes otherwise."""
    with translated_os_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        mark = secrets.token_hex(4)
        part, old = (out.with_name(f".{out.name}.{mark}.{kind}") for kind in ("part", "old"))
        try:
            part.mkdir()
            yield part
            for path in part.iterdir():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            if out.exists():
                out.rename(old)
            try:
                part.rename(out)
            except OSError:
                if old.exists():
                    old.rename(out)
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
            if out.exists():
                shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _open(order: ExportOptions) -> _Inputs:
    run = load_finished_run(order.run)
    folder, config = run.folder, run.config
    if not folder.predictions("val").is_file():
        raise RunError(
            f"{folder.path} holds no predictions/val.parquet, against which a bundle is compared. Train it again with force=true."
        )
    data = from_plain(config).data
    if order.root is not None:
        source = data.source if data.source in {"folder", "medmnist"} else "folder"
        data = replace(data, source=source, root=str(order.root))
    images, found = _images(data, int(config["image_size"]), order, folder.path)
    if found != run.result.data.manifest_sha256:
        raise RunError(
            f"The images at hand are not those of {folder.path}: other images, labels or folders than it was trained on. A "
            "bundle is compared on its validation images. Say data.root=DIR with the folder that it was trained on."
        )
    split = row_by_row(run.split(), images.manifest)
    every = config["split"]["every"] if config["split"]["method"] == "rotating" else 0
    module = XRayDataModule(images, split, run.task, batch_size=16, rotate_every=every)
    return _Inputs(run, run.load_model(), module, run.validation_predictions())


def _images(data: DataConfig, size: int, order: ExportOptions, folder: Path) -> tuple[DecodedImages, str]:
    try:
        return RunDataCache().images(data, size, order.cache_dir)
    except (LayoutError, BrokenImagesError, ManifestError) as error:
        raise RunError(
            f"The images of {folder} are not at hand, and a bundle is compared on its validation images. Say data.root=DIR "
            f"with the folder that it was trained on. ({type(error).__name__}: {error})"
        ) from error


def _patients(images: DecodedImages, positions: Any) -> list[str]:
    return [str(name) for name in images.manifest["patient_id"].to_numpy()[positions]]


def _answers(inputs: _Inputs, trained: pd.DataFrame) -> tuple[list[Path], Any, Any]:
    """Files, probabilities now and as recorded, of the validation images in one order."""
    run, by_id = inputs.run, inputs.recorded.set_index("image_id")
    if sorted(by_id.index) != sorted(trained["image_id"]):
        raise RunError(
            f"{run.folder.predictions('val')} names other images than the validation split of the run. Train it again with "
            "force=true."
        )
    recorded = by_id.loc[trained["image_id"]].reset_index()
    rows = inputs.module.positions("val", run.result.best_epoch - 1)
    files = [Path(path) for path in inputs.module.images.manifest["path"].to_numpy()[rows]]
    now, then = (prediction_arrays(table, run.task.classes)[0].astype(np.float64) for table in (trained, recorded))
    return files, now, then


def _promise(
    order: ExportOptions, inputs: _Inputs, detector: OodDetectorFacts, files: dict[str, bytes], ir_version: int
) -> Contract:
    """The contract but for its parity and its seal."""
    run, result = inputs.run, inputs.run.result
    warnings = tuple(warnings_of(result))
    calibration, points, abstention = chosen(inputs.recorded, run.task, order.coverage, run.why_uncalibrated)
    return Contract(
        task=run.task.name,
        classes=run.task.classes,
        model=model_facts(result),
        image=image_facts(inputs.classifier.options),
        calibration=calibration,
        operating_points=points,
        abstention=abstention,
        ood_detector=detector,
        parity=UNMEASURED,
        data=data_facts(result),
        metrics=metric_facts(run),
        licence=order.licence or LICENCE,
        intended_use=intended_use(run.task),
        warnings=warnings,
        limits=limits(result, warnings, detector, abstention),
        caveat=inputs.classifier.caveat,
        files={name: sha256(raw).hexdigest() for name, raw in files.items()},
        onnx={"opset": OPSET, "ir_version": ir_version},
        versions={name: version(name) for name in EXPORTED_WITH},
    )
