"""From a sweep file and overrides to the jobs, each with its whole checked config; imports neither torch nor pandas."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig, OmegaConf, open_dict

from pneumonia.config.schema import TrainConfig, conf_dir, identity, resolved
from pneumonia.config.validation import check, check_root
from pneumonia.errors import ConfigError
from pneumonia.sweep.sweep_files import OF_THE_SWEEP, chosen_files, find_sweep, names_its_folder, question, swept_keys
from pneumonia.system.files import digest

MOST_JOBS = 10_000


@dataclass(frozen=True)
class Job:
    """One training run of a sweep.

    Attributes:
        key: Twelve hexadecimal digits of all in the config that can change the result, and of where the data are.
        differs: What tells the job from the others, key and value.
        config: Resolved and checked.
    """

    key: str
    differs: dict[str, str]
    config: dict[str, Any]

    @property
    def label(self) -> str:
        """``optimizer=sgd seed=0``."""
        return " ".join(f"{key}={value}" for key, value in self.differs.items())


@dataclass(frozen=True)
class Plan:
    """All jobs of a sweep, in order.

    Attributes:
        name: Of the sweep file.
        question: Its first line.
        axes: The values that are swept over, by key.
    """

    name: str
    question: str
    axes: dict[str, list[str]]
    jobs: list[Job]

    @property
    def common(self) -> dict[str, Any]:
        """The config that all jobs share where it matters to the sweep: folders, launcher, what to do on failure."""
        return self.jobs[0].config

    @property
    def folder(self) -> Path:
        return Path(str(self.common["runs_dir"])) / str(self.common["name"])


@dataclass(frozen=True)
class Search:
    """A sweep over ranges, whose jobs are not known before.

    Attributes:
        question: Its first line.
        swept: The overrides with several values or ranges.
        base: The words that all trials share, as ``pneumonia train`` would take them.
        lines: The overrides of the call that all trials share.
        common: The config but for what is searched.
        job: From what differs to a checked job.
    """

    question: str
    swept: list[Override]
    base: list[str]
    lines: list[str]
    common: dict[str, Any]
    job: Callable[[dict[str, str]], Job]

    @property
    def folder(self) -> Path:
        return Path(str(self.common["runs_dir"])) / str(self.common["name"])


@contextmanager
def open_search(name: str, words: Sequence[str]) -> Iterator[Search | None]:
    """A search, where the file is one (it says ``search.trials``); else nothing.

    Raises:
        ConfigError: Unknown words, or values that no trial can take.
    """
    path, asked, fixed = _read(name, words)
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


def make_plan(name: str, words: Sequence[str]) -> Plan:
    """Composes and checks every job of a sweep.

    Args:
        name: Of a file in ``sweeps``, or the path of one's own.
        words: Overrides. One with several values (``seed=0,1,2``) is swept over too; one of a key that the file sweeps over
            takes the place of the file's values.

    Raises:
        ConfigError: Unknown words, values that a job can not take, a sweep over sweeps; before any job has run.
    """
    path, swept, fixed = _read(name, words)
    axes = {override.get_key_element().lstrip("+"): _values(override) for override in swept}
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MOST_JOBS:
        raise ConfigError(f"These are {count} jobs, and a sweep may have {MOST_JOBS}. Ask for fewer values.")
    jobs: list[Job] = []
    with _composer(path, fixed) as config_of:
        for chosen in itertools.product(*axes.values()):
            differs = dict(zip(axes, chosen, strict=True))
            config = config_of(differs)
            jobs.append(Job(job_key(config), differs, config))
    _refuse_twins(jobs)
    for root in {job.config["data"]["root"] for job in jobs} - {None}:
        check_root(Path(root).expanduser())
    return Plan(path.stem, question(path), axes, jobs)


def _read(name: str, words: Sequence[str]) -> tuple[Path, list[Override], list[str]]:
    """The file of a sweep, what its jobs may differ in, and the other overrides as they were written.

    A key that the file sweeps over keeps its place among the others when an override gives it other values, or a single one.
    """
    path = find_sweep(name)
    of_file = _without_globs(_parse(map(_line, swept_keys(path).items())), path)
    swept = {override.get_key_element(): override for override in of_file}
    fixed = []
    for override in _without_globs(_parse(words), path):
        key, said = override.get_key_element().lstrip("+"), str(override.input_line)
        if key.lstrip("~").startswith("hydra"):
            raise ConfigError(f"{said}: a sweep has no key of Hydra's own. Say launcher=... for where it runs.")
        if override.is_delete() and key.lstrip("~") in swept:
            del swept[key.lstrip("~")]  # the sweep leaves it as it is
        elif override.is_delete():
            fixed.append(said)
        elif key in swept or override.is_sweep_override():
            swept[key] = override
        else:
            fixed.append(said)
    for key, override in swept.items():
        if key.partition(".")[0] in OF_THE_SWEEP:
            raise ConfigError(
                f"{override.input_line}: all jobs of a sweep share {key.partition('.')[0]}, so it takes one value. "
                "Call the sweep once for each."
            )
    if not names_its_folder(path) and not any(word.startswith("name=") for word in fixed):
        fixed.append(f"name={path.stem}")
    return path, list(swept.values()), fixed


def _without_globs(overrides: Iterable[Override], path: Path) -> Iterator[Override]:
    """Overrides with the names of files in place of ``glob(...)``.

    Raises:
        ConfigError: No file has such a name.
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
            there = f"there are {', '.join(names)}" if names else f"{key} is no group of files"
            raise ConfigError(f"{override.input_line} has no value: {there}.")
        yield from _parse([f"{key}={','.join(found)}"])


def _line(item: tuple[str, Any]) -> str:
    return f"{item[0]}={item[1]}"


def job_key(config: dict[str, Any]) -> str:
    """Stands for a job before its data are read; a run's own id, which needs them, is found later."""
    return digest([identity(config), config["data"], config["split"]["file"]])[:12]


def _parse(words: Iterable[str]) -> list[Override]:
    from hydra.core.plugins import Plugins

    Plugins.instance()
    return OverridesParser.create().parse_overrides(list(words))


def _values(override: Override) -> list[str]:
    """What an override stands for, each value as one would write it."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if override.is_interval_sweep():
        raise ConfigError(
            f"{override.input_line} is a range without steps, which only a search can try. Name values with commas, or "
            "range(low, high, step); or say search.trials=30."
        )
    values = list(override.sweep_string_iterator())
    if not values:
        raise ConfigError(f"{override.input_line} has no value. Name one, or several with commas between them.")
    return values


@contextmanager
def _composer(path: Path, fixed: list[str]) -> Iterator[Any]:
    """A function from what differs to a job's config.

    Hydra composes once for each set of chosen files, a quarter of a second each; plain values are then set as Hydra sets them.
    """
    ConfigStore.instance().store("schema", TrainConfig)
    GlobalHydra.instance().clear()
    base: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}
    groups = {entry.name for entry in conf_dir().iterdir() if entry.is_dir()}

    def config_of(differs: dict[str, str]) -> dict[str, Any]:
        files = tuple(f"{key}={value}" for key, value in differs.items() if key in groups)
        if files not in base:
            words = [f"hydra.searchpath=[file://{conf_dir()},file://{own}]", *fixed, *files]
            whole = compose(primary, words, return_hydra_config=True)
            choices = {str(group): str(choice) for group, choice in whole.hydra.runtime.choices.items()}
            with open_dict(whole):
                del whole["hydra"]
            base[files] = whole, choices
        shared, choices = base[files]
        config = copy.deepcopy(shared)
        for override in _parse([f"{key}={value}" for key, value in differs.items() if f"{key}={value}" not in files]):
            OmegaConf.update(config, override.get_key_element(), override.value(), merge=True)
        check(config, choices, [conf_dir(), path.parent])
        return resolved(config)

    # Hydra takes any folder beside a config file for a group, and any file there for the one of its name in conf/. So it is
    # shown the sweep file alone, and after conf/ the groups and the other files beside it.
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
        with initialize_config_dir(str(main), version_base="1.3"):
            yield config_of


def _refuse_twins(jobs: list[Job]) -> None:
    seen: dict[str, Job] = {}
    for job in jobs:
        if job.key in seen:
            raise ConfigError(
                f"{job.label} and {seen[job.key].label} are one and the same run: a value stands twice, or changes nothing. "
                "Leave one out."
            )
        seen[job.key] = job
