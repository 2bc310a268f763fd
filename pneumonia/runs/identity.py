"""Identify runs and evaluations by what can change their result."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Final

from pneumonia.runs.folder import RunFolder
from pneumonia.runs.result import RunResult
from pneumonia.system.files import digest, read_json

PACKAGES: Final = ("pneumonia", "torch", "lightning", "torchmetrics", "albumentations", "numpy")


def run_identity(config: Mapping[str, object], manifest_sha256: str, split_sha256: str) -> str:
    """Return the ``run_id``: twelve hexadecimal digits of all that can change a run's result, not of where or when it ran.

    ``config`` comes from :func:`pneumonia.config.convert.identity`; the hashes are those of images with labels, and of the split.
    """
    return digest([config, manifest_sha256, split_sha256])[:12]


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a result."""
    return {name: version(name) for name in PACKAGES}


@dataclass(frozen=True)
class EvaluationIdentity:
    """What identifies an evaluation, as its ``of`` key holds it.

    Attributes:
        run_ids: One for a run, several for an ensemble.
        tta: Test-time augmentation.
        other_data: Folder of other data than the runs' own.
        other_sha256: Hash of their images and labels.
        version: Of this package.
    """

    run_ids: list[str]
    tta: str
    other_data: str | None = None
    other_sha256: str | None = None
    version: str = field(default_factory=lambda: version("pneumonia"))


def is_evaluated(folder: RunFolder, result: RunResult, subset: str, tta: str | None) -> bool:
    """Whether a subset of the run's own data was evaluated with this test-time augmentation since the run was trained."""
    trained_tta = result.config.tta
    path = folder.evaluation(subset, "json", tta="" if tta in {None, trained_tta} else str(tta))
    if read_json(path).get("of") != asdict(EvaluationIdentity([result.run_id], tta or trained_tta)):
        return False
    return path.with_suffix(".parquet").is_file() and path.stat().st_mtime >= folder.result.stat().st_mtime
