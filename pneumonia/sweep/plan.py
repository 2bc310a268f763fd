"""Plan a sweep: a sweep file and overrides to jobs, each with a checked config. Imports neither torch nor pandas."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig, OmegaConf, open_dict

from pneumonia.config.compose import hydra_session, typed
from pneumonia.config.convert import from_plain, identity, to_plain
from pneumonia.config.keys import conf_dir, config_groups
from pneumonia.config.validation import check_root
from pneumonia.errors import ConfigError
from pneumonia.sweep.sweep_files import SHARED_KEYS, chosen_files, find_sweep, question, sets_name, swept_keys
from pneumonia.system.files import digest

MAX_JOBS = 10_000


@dataclass(frozen=True)
class Job:
    """One training run of a sweep.

    Attributes:
        key: Hash (12 hexadecimal digits) of everything in the config that can change the result, and of the data's place.
        differs: Keys and values in which the jobs of the sweep differ.
        config: Resolved and checked config.
    """

    key: str
    differs: dict[str, str]
    config: dict[str, Any]

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
    def common(self) -> dict[str, Any]:
        """Config of the first job, for the keys that all jobs share (:data:`pneumonia.sweep.sweep_files.SHARED_KEYS`)."""
        return self.jobs[0].config

    @property
    def folder(self) -> Path:
        return Path(str(self.common["runs_dir"])) / str(self.common["name"])


@dataclass(frozen=True)
class Search:
    """A sweep over ranges, whose jobs Optuna proposes.

    Attributes:
        question: First line of the sweep file.
        swept: Overrides with several values or ranges.
        base: Overrides that all trials share, those of the sweep file included.
        overrides: Overrides of the call that all trials share.
        common: Config without what is searched.
        job: Composes and checks the job of some differences.
    """

    question: str
    swept: list[Override]
    base: list[str]
    overrides: list[str]
    common: dict[str, Any]
    job: Callable[[dict[str, str]], Job]

    @property
    def folder(self) -> Path:
        return Path(str(self.common["runs_dir"])) / str(self.common["name"])


@contextmanager
def open_search(name: str, overrides: Sequence[str]) -> Iterator[Search | None]:
    """Open a search, if the sweep sets ``search.trials``; else yield ``None``.

    Raises:
        ConfigError: Unknown overrides, or values out of range.
    """
    path, asked, fixed = _read(name, overrides)
    swept = [override for override in asked if override.is_sweep_override()]
    lines = [*fixed, *(str(override.input_line) for override in asked if not override.is_sweep_override())]
    with _composer(path, lines) as config_of:
        common = config_of({})
        if common["search"]["trials"] is None:
            yield None
            return

        def job(differs: dict[str, str]) -> Job:
            config = config_of(differs)
            return Job(job_key(config), differs, config)

        left_out = {line.removeprefix("~") for line in lines if line.startswith("~")}
        chosen = [word for word in chosen_files(path) if word.partition("=")[0] not in left_out]
        kept = [line for line in lines if not line.startswith(("search.", "backup.", "~"))]
        yield Search(question(path), swept, [*chosen, *kept], lines, common, job)


def make_plan(name: str, overrides: Sequence[str]) -> Plan:
    """Compose and check every job of a sweep.

    Args:
        name: Name of a packaged sweep, or path of another sweep file.
        overrides: Overrides. One with several values (``seed=0,1,2``) is swept over too; one of a key that the file sweeps
            over replaces the file's values.

    Raises:
        ConfigError: Unknown overrides, values out of range, a sweep over sweeps; before any job has run.
    """
    path, swept, fixed = _read(name, overrides)
    axes = {override.get_key_element().lstrip("+"): _values(override) for override in swept}
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MAX_JOBS:
        raise ConfigError(f"The sweep has {count} jobs, and at most {MAX_JOBS} are allowed. Sweep over fewer values.")
    jobs: list[Job] = []
    with _composer(path, fixed) as config_of:
        for chosen in itertools.product(*axes.values()):
            differs = dict(zip(axes, chosen, strict=True))
            config = config_of(differs)
            jobs.append(Job(job_key(config), differs, config))
    _check_distinct(jobs)
    for root in {job.config["data"]["root"] for job in jobs} - {None}:
        check_root(Path(root).expanduser())
    return Plan(path.stem, question(path), axes, jobs)


def _read(name: str, overrides: Sequence[str]) -> tuple[Path, list[Override], list[str]]:
    """Return the sweep file, the overrides that are swept over, and the other overrides as text.

    A key that the file sweeps over keeps its position when an override gives it other values, or a single one.
    """
    path = find_sweep(name)
    of_file = _without_globs(_parse(map(_line, swept_keys(path).items())), path)
    swept = {override.get_key_element(): override for override in of_file}
    fixed = []
    for override in _without_globs(_parse(overrides), path):
        key, text = override.get_key_element().lstrip("+"), str(override.input_line)
        if key.lstrip("~").startswith("hydra"):
            raise ConfigError(f"{text}: a sweep has no keys of Hydra. Set launcher=... to choose where it runs.")
        if override.is_delete() and key.lstrip("~") in swept:
            del swept[key.lstrip("~")]
        elif override.is_delete():
            fixed.append(text)
        elif key in swept or override.is_sweep_override():
            swept[key] = override
        else:
            fixed.append(text)
    for key, override in swept.items():
        if key.partition(".")[0] in SHARED_KEYS:
            raise ConfigError(
                f"{override.input_line}: all jobs of a sweep share {key.partition('.')[0]}, so it takes one value. "
                "Run a sweep for each."
            )
    if not sets_name(path) and not any(word.startswith("name=") for word in fixed):
        fixed.append(f"name={path.stem}")
    return path, list(swept.values()), fixed


def _without_globs(overrides: Iterable[Override], path: Path) -> Iterator[Override]:
    """Replace ``glob(...)`` by the names of files.

    Raises:
        ConfigError: No file matches.
    """
    for override in overrides:
        value: object = override.value()
        key = override.get_key_element()
        if not isinstance(value, Glob):
            yield override
            continue
        folders = [conf_dir() / key.lstrip("+"), path.parent / key.lstrip("+")]
        names = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
        found = value.filter(names)
        if not found:
            there = f"there are {', '.join(names)}" if names else f"{key} is not a config group"
            raise ConfigError(f"{override.input_line} has no value: {there}.")
        yield from _parse([f"{key}={','.join(found)}"])


def _line(item: tuple[str, Any]) -> str:
    return f"{item[0]}={item[1]}"


def job_key(config: dict[str, Any]) -> str:
    """Hash a job's config. The run id needs the data as well, and is known once they are read."""
    return digest([identity(from_plain(config)), config["data"], config["split"]["file"]])[:12]


def _parse(overrides: Iterable[str]) -> list[Override]:
    from hydra.core.plugins import Plugins

    Plugins.instance()
    return OverridesParser.create().parse_overrides(list(overrides))


def _values(override: Override) -> list[str]:
    """Return the values of an override, each as it is written in one."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if override.is_interval_sweep():
        raise ConfigError(
            f"{override.input_line} is a range without steps, which only a search can use. Name values with commas, or "
            "range(low, high, step); or set search.trials=30."
        )
    values = list(override.sweep_string_iterator())
    if not values:
        raise ConfigError(f"{override.input_line} has no value. Name one, or several with commas between them.")
    return values


@contextmanager
def _composer(path: Path, fixed: list[str]) -> Iterator[Any]:
    """Yield a function that composes the config of some differences.

    Hydra composes once for each set of chosen files (0.25 s each); other values are then set as Hydra sets them.
    """
    base: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}
    groups = set(config_groups())

    def config_of(differs: dict[str, str]) -> dict[str, Any]:
        files = tuple(f"{key}={value}" for key, value in differs.items() if key in groups)
        if files not in base:
            overrides = [f"hydra.searchpath=[file://{conf_dir()},file://{own}]", *fixed, *files]
            whole = compose(primary, overrides, return_hydra_config=True)
            choices = {str(group): str(choice) for group, choice in whole.hydra.runtime.choices.items()}
            with open_dict(whole):
                del whole["hydra"]
            base[files] = whole, choices
        shared, choices = base[files]
        config = copy.deepcopy(shared)
        for override in _parse([f"{key}={value}" for key, value in differs.items() if f"{key}={value}" not in files]):
            OmegaConf.update(config, override.get_key_element(), override.value(), merge=True)
        return to_plain(typed(config, choices, [conf_dir(), path.parent]))

    # Hydra takes any folder beside a config file for a group, and any file there for the one of that name in conf/. So its
    # search path has the sweep file alone, then conf/, then the groups and the other files beside the sweep file.
    packaged = {entry.stem for entry in conf_dir().glob("*.yaml")} | {"schema"}
    primary = "sweep_file" if path.stem in packaged else path.stem
    with TemporaryDirectory() as place:
        main, own = Path(place) / "main", Path(place) / "own"
        main.mkdir()
        own.mkdir()
        (main / f"{primary}.yaml").symlink_to(path)
        for entry in path.parent.iterdir():
            if (entry.is_dir() and entry.name in groups) or (entry.suffix == ".yaml" and entry.stem not in packaged):
                (own / entry.name).symlink_to(entry)
        with hydra_session(main):
            yield config_of


def _check_distinct(jobs: list[Job]) -> None:
    seen: dict[str, Job] = {}
    for job in jobs:
        if job.key in seen:
            raise ConfigError(
                f"{job.label} and {seen[job.key].label} are the same run: a value is repeated, or changes nothing. "
                "Leave one out."
            )
        seen[job.key] = job
