"""Plan a sweep: a sweep file and overrides to jobs, each with a checked config. Imports neither torch nor pandas."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra.core.override_parser.types import Override

from pneumonia.config.convert import identity
from pneumonia.config.error_translation import translated
from pneumonia.config.schema import TrainConfig
from pneumonia.config.validation import check_root
from pneumonia.errors import ConfigError
from pneumonia.sweep.compose_jobs import JobComposer
from pneumonia.sweep.sweep_files import find_sweep, question, read_sweep_file
from pneumonia.sweep.swept_overrides import override_values, split_overrides
from pneumonia.system.files import digest

MAX_JOBS = 10_000


@dataclass(frozen=True)
class Job:
    """One training run of a sweep.

    Attributes:
        key: Hash (12 hexadecimal digits) of everything in the config that can change the result, and of the data's place.
        differs: Keys and values in which the jobs of the sweep differ.
        config: Config of the run.
    """

    key: str
    differs: dict[str, str]
    config: TrainConfig

    @property
    def label(self) -> str:
        """Name the job by its differences: ``optimizer=sgd seed=0``."""
        return " ".join(f"{key}={value}" for key, value in self.differs.items())


@dataclass(frozen=True)
class Plan:
    """All jobs of a sweep, in order.

    Attributes:
        name: Name of the sweep file.
        question: First line of the sweep file.
        axes: Swept values by key.
        jobs: One job for each combination of them.
    """

    name: str
    question: str
    axes: dict[str, list[str]]
    jobs: list[Job]

    @property
    def common(self) -> TrainConfig:
        """Config of the first job, for the keys that all jobs share (:data:`pneumonia.sweep.sweep_files.SHARED_KEYS`)."""
        return self.jobs[0].config

    @property
    def folder(self) -> Path:
        """Folder of the sweep and its runs."""
        return Path(self.common.runs_dir, self.common.name)


@dataclass(frozen=True)
class Search:
    """A sweep over ranges, whose jobs Optuna proposes.

    Attributes:
        question: First line of the sweep file.
        swept: Overrides with several values or ranges.
        base: Overrides that all trials share, those of the sweep file included.
        overrides: Overrides of the call that all trials share.
        common: Config without what is searched.
        composer: Composes the config of a trial.
    """

    question: str
    swept: list[Override]
    base: list[str]
    overrides: list[str]
    common: TrainConfig
    composer: JobComposer

    @property
    def folder(self) -> Path:
        """Folder of the search and its runs."""
        return Path(self.common.runs_dir, self.common.name)

    def job(self, differs: dict[str, str]) -> Job:
        """Compose and check the job of a trial."""
        return make_job(self.composer, differs)


@translated()
def make_search(name: str, overrides: Sequence[str], config_dir: Path | None = None) -> Search | None:
    """Prepare a search, if the sweep sets ``search.trials``; the arguments are those of :func:`make_plan`.

    Raises:
        ConfigError: Unknown overrides, or values out of range.
    """
    path = find_sweep(name, config_dir)
    file = read_sweep_file(path, config_dir)
    asked, fixed = split_overrides(file, overrides)
    swept = [override for override in asked if override.is_sweep_override()]
    shared = [*fixed, *(str(override.input_line) for override in asked if not override.is_sweep_override())]
    composer = JobComposer(file, shared)
    common = composer({})
    _refuse_tune(common)
    if common.search.trials is None:
        return None
    deleted = {line.removeprefix("~") for line in shared if line.startswith("~")}
    chosen = [f"{group}={choice}" for group, choice in file.choices.items() if group not in deleted]
    base = [*chosen, *(line for line in shared if not line.startswith(("search.", "backup.", "~")))]
    return Search(question(path), swept, base, shared, common, composer)


@translated()
def make_plan(name: str, overrides: Sequence[str], config_dir: Path | None = None) -> Plan:
    """Compose and check every job of a sweep.

    Args:
        name: Name of a packaged sweep, or path of another sweep file.
        overrides: Overrides. One with several values (``seed=0,1,2``) is swept over too; one of a key that the file sweeps
            over replaces the file's values.
        config_dir: A folder with config groups and sweep files of the user's own.

    Raises:
        ConfigError: Unknown overrides, values out of range, a sweep over sweeps; before any job has run.
    """
    path = find_sweep(name, config_dir)
    file = read_sweep_file(path, config_dir)
    swept, fixed = split_overrides(file, overrides)
    axes = {override.get_key_element().lstrip("+"): override_values(override) for override in swept}
    if (count := math.prod(map(len, axes.values()))) > MAX_JOBS:
        raise ConfigError(f"The sweep has {count} jobs, and at most {MAX_JOBS} are allowed. Sweep over fewer values.")
    composer = JobComposer(file, fixed)
    jobs = [make_job(composer, dict(zip(axes, chosen, strict=True))) for chosen in itertools.product(*axes.values())]
    distinct = {job.key: job for job in jobs}
    for job in jobs:
        if distinct[job.key] is not job:
            raise ConfigError(
                f"{distinct[job.key].label} and {job.label} are the same run: a value is repeated, or changes nothing. "
                "Leave one out."
            )
    for root in {job.config.data.root for job in jobs}:
        if root is not None:
            check_root(Path(root).expanduser())
    return Plan(path.stem, question(path), axes, jobs)


def make_job(composer: JobComposer, differs: dict[str, str]) -> Job:
    """Compose and check a job.

    Its key hashes the config; the run id hashes the data as well, and is known once they are read.
    """
    config = composer(differs)
    _refuse_tune(config)
    return Job(job_key(config), differs, config)


def job_key(config: TrainConfig) -> str:
    """Return the hash of a config by :attr:`Job.key`."""
    files = [config.init_from, config.ckpt_path] if config.init_from or config.ckpt_path else []
    return digest([identity(config), asdict(config.data), config.split.file, *files])[:12]


def grouped(jobs: Iterable[Job], key: Callable[[Job], str]) -> dict[str, list[Job]]:
    """Group jobs by a key, in their order."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(key(job), []).append(job)
    return groups


def _refuse_tune(config: TrainConfig) -> None:
    if config.tune is not None:
        raise ConfigError(
            f"tune={config.tune} trains no run, and each job of a sweep trains one. Use `pneumonia train tune={config.tune}` for "
            "one config, and its suggestion in the sweep."
        )
