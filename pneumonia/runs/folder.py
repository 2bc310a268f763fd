"""Name, write and lock the files of a run folder."""

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Final

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from pneumonia.config.convert import from_plain, to_plain
from pneumonia.config.schema import TrainConfig
from pneumonia.errors import RunError, sentence
from pneumonia.system.files import replacing, translated_os_errors

OWN: Final = "own"  # the data on which a run was trained, in the name of an evaluation
EVALUATION: Final = re.compile(r"(?P<data>.+)-(?P<subset>train|val|test)(?:-tta-(?P<tta>[a-z]+))?")
HASH_DIGITS: Final = 8
LOCK_TIMEOUT_S: Final = 0.5  # `is_locked`, which lists of runs call, holds a lock for a moment


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, ``<runs_dir>/<name>/<run_id>``."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def label(self) -> Path:
        """The overrides in which the run differs from the others of its sweep or multirun."""
        return self.path / "label.txt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def progress(self) -> Path:
        """Speed of the current epochs, for progress tables."""
        return self.path / "progress.json"

    @property
    def steps(self) -> Path:
        """Training loss and learning rate of steps, where ``trainer.log_every_n_steps`` asks for them."""
        return self.path / "steps.csv"

    def tracker(self, name: str) -> Path:
        """The id of the run that mirrors this one in a tracker such as ``wandb``, and what was sent to it."""
        return self.path / f"{name}.json"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def profile(self) -> Path:
        """Reports of ``trainer.profiler``."""
        return self.path / "profile"

    def split(self, sha256: str) -> Path:
        """The split on which the run was trained."""
        return self.path / f"split-{sha256[:12]}.parquet"

    def weight_picture(self, epoch: int) -> Path:
        """A picture of the weights after an epoch, counted from 1."""
        return self.path / "pictures" / "weights" / f"epoch-{epoch:03d}.png"

    def predictions(self, subset: str) -> Path:
        return self.path / "predictions" / f"{subset}.parquet"

    def evaluation(self, subset: str, suffix: str, data: str = OWN, tta: str = "") -> Path:
        """A file of an evaluation.

        Args:
            subset: ``train``, ``val`` or ``test``.
            suffix: ``json``, ``parquet`` or ``html``.
            data: :data:`OWN`, or the name of other data from :meth:`name_of_data`.
            tta: Test-time augmentation, where it differs from that of the training.
        """
        return self.path / "evaluation" / f"{data}-{subset}{f'-tta-{tta}' if tta else ''}.{suffix}"

    def evaluations(self) -> dict[tuple[str, str, str], Path]:
        """The JSON files of all evaluations by data, subset and test-time augmentation; see :meth:`evaluation`."""
        found = {path: EVALUATION.fullmatch(path.stem) for path in sorted((self.path / "evaluation").glob("*.json"))}
        return {(name["data"], name["subset"], name["tta"] or ""): path for path, name in found.items() if name}

    def name_of_data(self, root: Path, manifest_sha256: str) -> str:
        """Return ``<folder>-<hash>`` for other data; the folder is that of the first evaluation on these images."""
        short = manifest_sha256[:HASH_DIGITS]
        known = [data for data, _, _ in self.evaluations() if data.endswith(f"-{short}")]
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", root.resolve().name).strip("._-")[:40]
        return known[0] if known else f"{readable or 'data'}-{short}"

    def begin(self, config: TrainConfig, label: str = "") -> None:
        """Create the folder and write ``config.yaml``, and ``label.txt`` for a run that has a label."""
        with replacing(self.config) as part:
            part.write_text(OmegaConf.to_yaml(OmegaConf.create(to_plain(config))), encoding="utf-8")
        if label:
            with replacing(self.label) as part:
                part.write_text(f"{label}\n", encoding="utf-8")

    def clear(self) -> None:
        """Remove the files of an earlier training."""
        for entry in self.path.glob("*"):
            if entry.is_dir():
                rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder against other processes; the lock of a killed process is free.

        Raises:
            RunError: Another process is training this run.
        """
        with translated_os_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / "lock")
            try:
                lock.acquire(timeout=LOCK_TIMEOUT_S)
            except Timeout as error:
                raise RunError(
                    f"Another process is training this run in {self.path}. Wait for it, or change the config."
                ) from error
        try:
            yield
        finally:
            lock.release()


def read_config(folder: RunFolder) -> TrainConfig:
    """Read ``config.yaml``.

    Raises:
        RunError: It is missing, damaged, or of another version.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # many times faster, where PyYAML was built with libyaml
    try:
        return from_plain(yaml.load(folder.config.read_bytes(), Loader=loader))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = sentence(error)
        raise RunError(f"{folder.config} is damaged or of another version: {reason} Train the run again.") from error


def read_metrics(folder: RunFolder) -> list[dict[str, str]]:
    """Read the rows of ``metrics.csv``, one per epoch; none before the end of the first.

    Raises:
        RunError: The file is damaged: a row has no epoch.
    """
    if not folder.metrics.exists():
        return []
    try:
        with folder.metrics.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            int(row["epoch"])
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(
            f"{folder.metrics} is damaged ({type(error).__name__}: {error}). Train the run again, with force=true."
        ) from error
    return rows
