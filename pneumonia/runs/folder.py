"""A run's identity, its folder, its result; what is done is not done again, what was cut goes on."""

import csv
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from pneumonia.errors import RunError, StorageError, some
from pneumonia.system.files import digest, read_json, replacing, translated_os_errors, write_json
from pneumonia.tasks import TASKS

if TYPE_CHECKING:
    import pandas as pd

OF_A_RESULT = ("run_id", "task", "config", "data", "metrics")  # without which no one can use a result
OF_A_CONFIG = ("task", "image_size", "seed", "data", "split", "model", "trainer", "tta")
OF_THE_DATA = ("manifest_sha256", "split_sha256")
COMPLETED, DEBUG = "completed", "debug"  # the status of a result
OWN = "own"  # data on which a run was trained, in the name of an evaluation
EVALUATION = re.compile(r"(?P<data>.+)-(?P<subset>train|val|test)(?:-tta-(?P<tta>[a-z]+))?")
SHORT_HASH = 8
PACKAGES = ("pneumonia", "torch", "lightning", "torchmetrics", "albumentations", "numpy")


def run_identity(config: dict[str, Any], manifest_sha256: str, split_sha256: str) -> str:
    """Twelve hexadecimal digits that stand for all that can change a run's result, not for where or when it ran.

    Args:
        config: From :func:`pneumonia.config.schema.identity`.
        manifest_sha256: Of the images and labels.
        split_sha256: Of the subsets.
    """
    return digest([config, manifest_sha256, split_sha256])[:12]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, ``runs_dir/name/run_id``."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def progress(self) -> Path:
        """How fast the running epochs go; for those who watch, of no use to the run itself."""
        return self.path / "progress.json"

    @property
    def tracking(self) -> Path:
        """Which run in W&B mirrors this one, and what was sent to it."""
        return self.path / "wandb.json"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    def split(self, sha256: str) -> Path:
        """The split that the run was trained on, kept with it."""
        return self.path / f"split-{sha256[:12]}.parquet"

    def weight_picture(self, epoch: int) -> Path:
        """The weights after an epoch, counted from 1."""
        return self.path / "pictures" / "weights" / f"epoch-{epoch:03d}.png"

    def predictions(self, subset: str) -> Path:
        return self.path / "predictions" / f"{subset}.parquet"

    def evaluation(self, subset: str, suffix: str, data: str = OWN, tta: str = "") -> Path:
        """A file of an evaluation, which no evaluation of other data or with other views shares.

        Args:
            subset: Of the data.
            suffix: ``json``, ``parquet``, ``html``.
            data: :data:`OWN`, or the name of other data from :meth:`name_of_data`.
            tta: Views, where they are not those of the training.
        """
        return self.path / "evaluation" / f"{data}-{subset}{f'-tta-{tta}' if tta else ''}.{suffix}"

    def evaluations(self) -> dict[tuple[str, str, str], Path]:
        """The evaluations in the folder, by data, subset and views; see :meth:`evaluation`."""
        found = {path: EVALUATION.fullmatch(path.stem) for path in sorted((self.path / "evaluation").glob("*.json"))}
        return {(name["data"], name["subset"], name["tta"] or ""): path for path, name in found.items() if name}

    def name_of_data(self, root: Path, manifest_sha256: str) -> str:
        """``<folder>-<hash>`` for other data: the folder under which the run was first evaluated on these very images."""
        short = manifest_sha256[:SHORT_HASH]
        known = [data for data, _, _ in self.evaluations() if data.endswith(f"-{short}")]
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", root.resolve().name).strip("._-")[:40]
        return known[0] if known else f"{readable or 'data'}-{short}"

    def finished(self) -> dict[str, Any] | None:
        """The result of a run whose training ended as its config says; ``None`` while there is none.

        Raises:
            RunError: ``result.json`` is there, but no one can read it.
        """
        result = self.ended()
        return None if result is None or result["status"] != COMPLETED else result

    def ended(self) -> dict[str, Any] | None:
        """The result of a run with nothing left to train, finished or shortened for debugging; ``None`` while there is none.

        Raises:
            RunError: ``result.json`` is there, but no one can read it.
        """
        if not self.result.is_file():
            return None
        remedy = (
            "Delete it and give the same `pneumonia train` again, which goes on from the last checkpoint; or train anew with "
            "force=true."
        )
        try:
            found: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
            if found["status"] not in {COMPLETED, DEBUG}:
                return None
            wanted = (*OF_A_RESULT, "shortened_by") if found["status"] == DEBUG else OF_A_RESULT
            lacking = [key for key in wanted if key not in found]
            lacking += [f"config.{key}" for key in OF_A_CONFIG if not lacking and key not in found["config"]]
            lacking += [f"data.{key}" for key in OF_THE_DATA if not lacking and key not in found["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.result} is damaged ({type(error).__name__}: {error}). {remedy}") from error
        if lacking:
            raise RunError(f"{self.result} is damaged: it lacks {some(lacking)}. {remedy}")
        if found["config"]["task"] not in TASKS or found["task"] != found["config"]["task"]:
            said = f"task={found['task']}, and of its config task={found['config']['task']}"
            raise RunError(f"{self.result} is damaged: it speaks of {said}; tasks are {some(TASKS)}. {remedy}")
        return found

    def begin(self, config: dict[str, Any]) -> None:
        """Makes the folder and writes what will be done."""
        with replacing(self.config) as part:
            part.write_text(OmegaConf.to_yaml(OmegaConf.create(config)), encoding="utf-8")

    def clear(self) -> None:
        """Removes what an earlier training left."""
        for entry in self.path.glob("*"):
            if entry.is_dir():
                rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()

    def finish(self, result: dict[str, Any]) -> None:
        """Writes the result, last and at once: from now on the run is done."""
        write_json(self.result, result)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes out of the folder while this one trains; a killed process holds nothing.

        Raises:
            RunError: Another process is training this very run.
        """
        with translated_os_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / "lock")
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise RunError(
                    f"Another process is training this very run in {self.path}. Wait for it, or change the config."
                ) from error
        try:
            yield
        finally:
            lock.release()


def open_run(path: Path) -> tuple[RunFolder, dict[str, Any], dict[str, Any]]:
    """A finished run's folder, result and config.

    Raises:
        RunError: The folder is missing, is no run, or its run did not finish.
    """
    if not path.is_dir():
        what = f"{path} is a file, and no run folder" if path.exists() else f"There is no run folder {path}"
        raise RunError(f"{what}. It is named at the end of `pneumonia train`.")
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise RunError(f"{path} is not a run folder: {_what_instead(path)}")
    result = folder.ended()
    if result is not None and result["status"] == DEBUG:
        raise RunError(f"The run in {path} {shortened(result)}. Train it without, or name another run.")
    if result is None:
        raise RunError(
            f"The run in {path} did not finish. Run the same `pneumonia train` again: it goes on where it was."
        )
    return folder, result, dict(result["config"])


def shortened(result: Mapping[str, Any]) -> str:
    """Why the result of a run with status ``debug`` is none, as the end of a sentence."""
    return f"was shortened for debugging by {some(result['shortened_by'])}, so its metrics and weights are no result"


def _what_instead(path: Path) -> str:
    """What a folder without a config is, and what to name in its place."""
    if (path / "ensemble.json").is_file():
        return "it is an evaluation of several runs. Repeat `pneumonia evaluate ensemble=...` with them."
    inside = next(path.glob("*/config.yaml"), None)
    if inside is not None:
        return f"it is a folder of runs. Name one of them, for example {inside.parent}."
    return "it holds no config.yaml. Name the folder that `pneumonia train` printed."


def evaluation_identity(
    run_ids: Sequence[str], tta: str, other_data: str | None = None, other_sha256: str | None = None
) -> dict[str, Any]:
    """What an evaluation was made of; an equal one need not be made again.

    Args:
        run_ids: Of the runs that answered.
        tta: Views that were averaged.
        other_data: Where other data than the runs' own lie.
        other_sha256: Of their images and labels.
    """
    about = {"run_ids": list(run_ids), "tta": tta, "other_data": other_data, "other_sha256": other_sha256}
    return about | {"version": version("pneumonia")}


def is_evaluated(folder: RunFolder, result: dict[str, Any], subset: str, tta: str | None) -> bool:
    """Whether a run's own subset was evaluated so, since it was last trained."""
    trained = result["config"]["tta"]
    views = "" if tta in {None, trained} else str(tta)
    path = folder.evaluation(subset, "json", tta=views)
    wanted = evaluation_identity([result["run_id"]], tta or trained)
    if read_json(path).get("of") != wanted or not path.with_suffix(".parquet").is_file():
        return False
    return path.stat().st_mtime >= folder.result.stat().st_mtime


def find_runs(places: list[Path]) -> list[RunFolder]:
    """The run folders at or below some places, each once however often it is named.

    Raises:
        RunError: A place is not there.
    """
    check_places(places)
    found: dict[Path, Path] = {}
    for place in places:
        for config in sorted(place.rglob("config.yaml")):
            if not {"wandb", "checkpoints"} & set(config.relative_to(place).parts):
                found.setdefault(config.parent.resolve(), config.parent)
    return [RunFolder(path) for path in found.values()]


def check_places(places: Sequence[Path]) -> None:
    """Refuses a place of runs that is not there.

    Raises:
        RunError: With the place.
    """
    for place in places:
        if not place.is_dir():
            what = f"{place} is a file" if place.exists() else f"There is no folder {place}"
            raise RunError(f"{what}. Name run folders, or folders of them such as runs/train.")


def label_of(folder: RunFolder) -> str:
    """What tells a run from the others of its sweep, where it belongs to one."""
    return " ".join(f"{key}={value}" for key, value in _job_of(folder).get("differs", {}).items())


def how_broken(folder: RunFolder) -> str:
    """How the job of a sweep that trained a run broke, as :class:`pneumonia.sweep.state.SweepState` notes it; else nothing."""
    job = _job_of(folder)
    return str(read_json(folder.path.parent / "jobs" / f"{job['key']}.broken.json").get("state", "")) if job else ""


def _job_of(folder: RunFolder) -> dict[str, Any]:
    """The job in the plan of the sweep that a run belongs to; empty where it belongs to none."""
    jobs: list[dict[str, Any]] = read_json(folder.path.parent / "sweep.json").get("jobs", [])
    notes = folder.path.parent / "jobs"
    return next((job for job in jobs if read_json(notes / f"{job['key']}.json").get("run") == folder.path.name), {})


def read_split(folder: RunFolder, result: dict[str, Any]) -> "pd.DataFrame":
    """The split that a finished run was trained on: ``image_id``, ``subset``, ``fold``.

    Raises:
        RunError: Its file is gone or damaged.
    """
    import pandas as pd

    path = folder.split(result["data"]["split_sha256"])
    try:
        return pd.read_parquet(path, columns=["image_id", "subset", "fold"])
    except (OSError, ValueError) as error:
        what = "is damaged" if path.is_file() else "is gone"
        raise RunError(
            f"{path} {what}, which says what the run was trained on. Train it again: the same `pneumonia train` with "
            "force=true."
        ) from error


def read_metrics(folder: RunFolder) -> list[dict[str, str]]:
    """The rows of ``metrics.csv``, one an epoch; none before the first."""
    if not folder.metrics.exists():
        return []
    with folder.metrics.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return {name: version(name) for name in PACKAGES}


def writable(path: Path) -> None:
    """Raises ``StorageError`` where a run could not be written, before hours are spent on it."""
    with translated_os_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        try:
            tempfile.TemporaryFile(dir=path).close()  # without a name, since jobs that begin at once all look
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise OSError(error.errno, error.strerror, str(path)) from error
