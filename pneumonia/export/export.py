"""Export a finished run as a bundle; refuse to write one that predicts otherwise than the trained model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from itertools import permutations
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from pydantic import TypeAdapter, ValidationError
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pneumonia.config.schema import DataConfig
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.decoded_images import DecodedImages
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.data.splits.files import row_by_row
from pneumonia.errors import BrokenImagesError, BundleError, ConfigError, LayoutError, ManifestError, RunError
from pneumonia.export.bundle_folder import BUNDLE, check_folder, replacing_folder
from pneumonia.export.contract import (
    ARCHIVE,
    CONTRACT,
    MAX_TEXT,
    MODEL,
    OOD_DETECTOR,
    OPSET,
    Contract,
    FileName,
    ModelInfo,
    OnnxInfo,
    OodDetectorInfo,
    Text,
)
from pneumonia.export.contract_builder import (
    COVERAGE,
    INTENDED_USE,
    data_info,
    decision_rules,
    limitations,
    metric_info,
    preprocessing,
)
from pneumonia.export.contract_file import contract_text, first_problem
from pneumonia.export.huggingface import HUB, hub_files
from pneumonia.export.onnx_graph import export_graph
from pneumonia.export.ood_detector import OodDetector, fit_ood_detector
from pneumonia.export.parity import check_parity, measure_parity, unmeasured
from pneumonia.export.reproducible_archive import reproducible_tar_gz
from pneumonia.export.runtime import Bundle
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.models.base import Classifier
from pneumonia.runs.load import FinishedRun, load_finished_run
from pneumonia.runs.model_warnings import warnings_of
from pneumonia.runs.predictions import predict_subset
from pneumonia.system.arrays import Floats
from pneumonia.system.console import say
from pneumonia.system.files import check_writable
from pneumonia.tasks import Task

LICENCE: Final = "not stated; ask whoever trained the model, and mind the terms of the images that it was trained on"
EXPORTED_WITH: Final = ("pneumonia", "torch", "onnx", "onnxscript", "onnxruntime")
FULL_PRECISION: Final = ("32-true", "32", "64-true", "64")


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export.

    Attributes:
        run: A run folder.
        out: The folder of the bundle; ``None`` where only a model repository is written.
        coverage: The fraction of validation images to predict; the bundle abstains on the others.
        licence: Terms of the weights; ``None`` where none were stated.
        force: Whether an existing export may be replaced.
        root: The current folder of the run's images; ``None`` where they have not moved.
        cache_dir: The folder of decoded images.
        huggingface: The folder of a repository for a model hub; ``None`` where none is written.
    """

    run: Path
    out: Path | None
    coverage: float = COVERAGE
    licence: str | None = None
    force: bool = False
    root: Path | None = None
    cache_dir: Path = Path("cache")
    huggingface: Path | None = None

    def check_folders(self) -> None:
        """Refuse folders that can't be written, before any work is done.

        Raises:
            BundleError: One holds something else, or lies in the other.
            ConfigError: None is named.
            StorageError: One can't be written.
        """
        folders = [(path, kind) for path, kind in ((self.out, BUNDLE), (self.huggingface, HUB)) if path is not None]
        if not folders:
            raise ConfigError("No folder is named, so nothing would be written. Use --out BUNDLE, --huggingface DIR, or both.")
        for path, kind in folders:
            check_folder(path, self.force, kind)
        inside = [one.resolve().is_relative_to(other.resolve()) for one, other in permutations([path for path, _ in folders], 2)]
        if any(inside):
            raise BundleError(f"--out {self.out} and --huggingface {self.huggingface} lie in each other. Name separate folders.")
        for path, _ in folders:
            check_writable(path.parent)


@dataclass(frozen=True)
class _Inputs:
    """A finished run with its model, its images, and the validation predictions that it recorded."""

    run: FinishedRun
    classifier: Classifier
    datamodule: XRayDataModule
    recorded: pd.DataFrame

    @property
    def best_epoch(self) -> int:
        """Counted from 0."""
        return self.run.result.best_epoch - 1


def export(options: ExportOptions) -> Contract:
    """Write the bundle of a run, a repository for a model hub, or both; the same run gives the same bytes.

    Returns:
        The contract of the bundle.

    Raises:
        RunError: The run did not finish, or its images are missing.
        ParityError: The bundle differs from the trained model; nothing is written.
        BundleError: A folder can't be replaced, or ONNX has no operator for a part of the model.
        CheckpointError, StorageError: With a remedy.
    """
    options.check_folders()
    check_licence(options.licence)
    with threadpool_limits(1), _one_thread():  # so that sums do not depend on the number of cores
        inputs = _load_inputs(options)
        say("Writing the graph")
        graph, ir_version = export_graph(inputs.classifier)
        say("Fitting the out-of-distribution detector")
        detector, info = _fit_detector(inputs)
        files: dict[FileName, bytes] = {MODEL: graph, OOD_DETECTOR: detector.to_bytes()}
        contract = _build_contract(options, inputs, info, files, ir_version)
        parity = measure_parity(Bundle(contract, graph, detector), *_expected(inputs), _is_exact(inputs.run))
    check_parity(parity)
    contract = contract.model_copy(update={"parity": parity}).with_digest()
    content: dict[str, bytes] = {name: raw for name, raw in files.items()}
    content[CONTRACT] = contract_text(contract).encode()
    if options.out is not None:
        _write(options.out, content | {ARCHIVE: reproducible_tar_gz(content)})
    if options.huggingface is not None:
        _write(options.huggingface, content | hub_files(contract, inputs.classifier))
    return contract


def _write(out: Path, content: dict[str, bytes]) -> None:
    """Write a folder atomically, and load it as a bundle before it replaces another."""
    with replacing_folder(out) as folder:
        for name, raw in content.items():
            (folder / name).write_bytes(raw)
        Bundle.load(folder)


def check_licence(licence: str | None) -> None:
    """Refuse terms that a contract can't hold, before any work is done.

    Raises:
        ConfigError: With the reason.
    """
    try:
        TypeAdapter(Text | None).validate_python(licence)
    except ValidationError as error:
        raise ConfigError(
            f"--licence {licence!r:.80} is not allowed in a contract: it is empty, longer than {MAX_TEXT} characters, or has "
            "control characters. Leave it out, or name the licence."
        ) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load_inputs(options: ExportOptions) -> _Inputs:
    run = load_finished_run(options.run)
    folder, config = run.folder, run.config
    if not folder.predictions("val").is_file():
        raise RunError(
            f"{folder.path} has no predictions/val.parquet, against which a bundle is compared. Train it again with force=true."
        )
    data = config.data
    if options.root is not None:
        source = data.source if data.source in {"folder", "medmnist"} else "folder"
        data = replace(data, source=source, root=str(options.root))
    images = _load_images(data, config.image_size, options, run.task)
    if images.sha256 != run.result.data.manifest_sha256:
        raise RunError(
            f"The images found are not those of {folder.path}: other images, labels or folders than it was trained on. A bundle "
            "is compared on the validation images. Use --data DIR with the folder that the run was trained on."
        )
    split = row_by_row(run.split(), images.manifest)
    datamodule = XRayDataModule.from_images(images, split, run.task, config.split, batch_size=16)
    return _Inputs(run, run.load_model(), datamodule, run.validation_predictions())


def _load_images(data: DataConfig, size: int, options: ExportOptions, task: Task) -> DecodedImages:
    try:
        return RunDataCache().images(data, size, options.cache_dir, task)
    except (LayoutError, BrokenImagesError, ManifestError) as error:
        raise RunError(
            f"The images of {options.run} are missing, and a bundle is compared on the validation images. Use --data DIR with "
            f"the folder that the run was trained on. ({type(error).__name__}: {error})"
        ) from error


def _fit_detector(inputs: _Inputs) -> tuple[OodDetector, OodDetectorInfo]:
    module = inputs.datamodule
    rows = np.sort(np.concatenate([module.positions("train"), module.positions("val", inputs.best_epoch)]))
    patients = module.images.manifest["patient_id"].to_numpy()[rows]
    return fit_ood_detector(module.images.pixels[module.images.rows[rows]], [str(name) for name in patients])


def _build_contract(
    options: ExportOptions, inputs: _Inputs, detector: OodDetectorInfo, files: dict[FileName, bytes], ir_version: int
) -> Contract:
    """Build the contract, without its parity and its digest."""
    run, result, classifier = inputs.run, inputs.run.result, inputs.classifier
    warnings = tuple(warnings_of(result))
    reason = run.why_uncalibrated
    calibration, points, abstention = decision_rules(inputs.recorded, run.task, options.coverage, reason)
    try:
        return Contract(
            task=run.task.name,
            classes=run.task.classes,
            model=ModelInfo(
                name=result.name, run_id=result.run_id, family=result.family, seed=result.seed, epoch=result.best_epoch
            ),
            preprocessing=preprocessing(classifier.options),
            calibration=calibration,
            operating_points=points,
            abstention=abstention,
            ood_detector=detector,
            parity=unmeasured(result.data.val),
            data=data_info(result),
            metrics=metric_info(run),
            licence=options.licence or LICENCE,
            intended_use=INTENDED_USE.format(classes=", ".join(run.task.classes)),
            warnings=warnings,
            limitations=limitations(result, warnings, detector, abstention),
            caveat=classifier.caveat,
            files={name: sha256(raw).hexdigest() for name, raw in files.items()},
            onnx=OnnxInfo(opset=OPSET, ir_version=ir_version),
            versions={name: version(name) for name in EXPORTED_WITH},
        )
    except ValidationError as error:
        raise BundleError(f"The run can't be exported, since its contract would be invalid: {first_problem(error)}.") from error


def _expected(inputs: _Inputs) -> tuple[list[Path], Floats, Floats]:
    """Return files and probabilities, now and as recorded, of the validation images in one order."""
    run, module = inputs.run, inputs.datamodule
    trained = predict_subset(inputs.classifier, module, "val", inputs.best_epoch)
    recorded = inputs.recorded.set_index("image_id")
    if sorted(recorded.index) != sorted(trained["image_id"]):
        raise RunError(
            f"{run.folder.predictions('val')} names other images than the validation split of the run. Train it again with "
            "force=true."
        )
    tables = trained, recorded.loc[trained["image_id"]].reset_index()
    now, then = (prediction_arrays(table, run.task.classes)[0].astype(np.float64) for table in tables)
    paths = module.images.manifest["path"].to_numpy()[module.positions("val", inputs.best_epoch)]
    return [Path(path) for path in paths], now, then


def _is_exact(run: FinishedRun) -> bool:
    """Return whether the run was trained on a CPU in full precision, so that the recorded predictions are exact."""
    return run.result.cost.device == "cpu" and run.config.trainer.precision in FULL_PRECISION
