"""From a sweep file and overrides to the jobs, each with its whole checked config; imports neither torch nor pandas."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from yaml import YAMLError

from pneumonia.config import TrainConfig, check, check_root, conf_dir, identity, resolved
from pneumonia.errors import ConfigError, nearest
from pneumonia.storage.local import digest

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
        common: The config but for what is searched.
        job: From what differs to a checked job.
    """

    question: str
    swept: list[Override]
    base: list[str]
    common: dict[str, Any]
    job: Callable[[dict[str, str]], Job]

    @property
    def folder(self) -> Path:
        return Path(str(self.common["runs_dir"])) / str(self.common["name"])


def sweep_names() -> list[str]:
    """The sweeps that come with the package."""
    return sorted(path.stem for path in conf_dir("sweeps").glob("*.yaml"))


def find_sweep(name: str) -> Path:
    """The file of a sweep: one that comes with the package, or one's own by its path.

    Raises:
        ConfigError: There is none.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ConfigError(f"There is no sweep file {name}.")
        return Path(name).resolve()
    known = sweep_names()
    if name not in known:
        raise ConfigError(
            f"There is no sweep '{name}'; choose one of {', '.join(known)}, or name a file of your own by its path."
            f"{nearest(name, known)}"
        )
    return conf_dir("sweeps") / f"{name}.yaml"


def question(path: Path) -> str:
    """The first line of a sweep file, which says what it asks."""
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return line.lstrip("# ").partition("   ")[0] if line.startswith("#") else path.stem


@contextmanager
def open_search(name: str, words: Sequence[str]) -> Iterator[Search | None]:
    """A search, where the file is one (it says ``search.trials``); else nothing.

    Raises:
        ConfigError: Unknown words, or values that no trial can take.
    """
    path, swept, fixed = _read(name, words)
    lines = [str(override.input_line) for override in fixed]
    with _composer(path, lines) as config_of:
        common = config_of({})
        if common["search"]["trials"] is None:
            yield None
            return

        def job(differs: dict[str, str]) -> Job:
            config = config_of(differs)
            return Job(job_key(config), differs, config)

        left_out = {line.removeprefix("~") for line in lines if line.startswith("~")}
        chosen = [word for word in _base(path) if word.partition("=")[0] not in left_out]
        kept = [line for line in lines if not line.startswith(("search.", "~"))]
        yield Search(question(path), swept, [*chosen, *kept], common, job)


def _base(path: Path) -> list[str]:
    """The choices of files that a sweep file makes, as words of ``pneumonia train``."""
    loaded: Any = OmegaConf.to_container(OmegaConf.load(path))
    chosen = [item for item in loaded.get("defaults", []) if isinstance(item, dict)]
    return [
        f"{str(key).removeprefix('override ').lstrip('/')}={value}" for item in chosen for key, value in item.items()
    ]


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
    axes = {override.get_key_element(): _values(override) for override in swept}
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MOST_JOBS:
        raise ConfigError(f"These are {count} jobs, and a sweep may have {MOST_JOBS}. Ask for fewer values.")
    jobs: list[Job] = []
    with _composer(path, [str(override.input_line) for override in fixed]) as config_of:
        for chosen in itertools.product(*axes.values()):
            differs = dict(zip(axes, chosen, strict=True))
            config = config_of(differs)
            jobs.append(Job(job_key(config), differs, config))
    _refuse_twins(jobs)
    for root in {job.config["data"]["root"] for job in jobs} - {None}:
        check_root(Path(root).expanduser())
    return Plan(path.stem, question(path), axes, jobs)


def _read(name: str, words: Sequence[str]) -> tuple[Path, list[Override], list[Override]]:
    """The file of a sweep, what is swept over, and the other overrides."""
    path = find_sweep(name)
    params = _params(path)
    asked = _parse(words)
    for override in asked:
        key = override.get_key_element()
        if key.lstrip("+~").startswith("hydra"):
            raise ConfigError(
                f"{override.input_line}: a sweep has no key of Hydra's own. Say launcher=... for where it runs."
            )
        params.pop(key, None)
    swept = [*_parse([f"{key}={value}" for key, value in params.items()]), *(o for o in asked if o.is_sweep_override())]
    return path, swept, [override for override in asked if not override.is_sweep_override()]


def job_key(config: dict[str, Any]) -> str:
    """Stands for a job before its data are read; a run's own id, which needs them, is found later."""
    return digest([identity(config), config["data"], config["split"]["file"]])[:12]


def _params(path: Path) -> dict[str, Any]:
    """The swept keys of a file, with the values as they are written there."""
    try:
        loaded: Any = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, YAMLError) as error:
        raise ConfigError(f"{path} can't be read as YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} is no sweep file: it holds no keys. sweeps/optimizer.yaml shows how one looks.")
    for base in loaded.get("defaults", []):
        if isinstance(base, str) and base in sweep_names():
            raise ConfigError(
                f"{path} extends the sweep {base}: a sweep over sweeps would lose the inner one. Write all its values into one "
                "file, over train."
            )
    params = loaded.get("hydra", {}).get("sweeper", {}).get("params") or {}
    wrong = [key for key in params if key.lstrip("+~").startswith(("hydra", "sweep"))]
    if wrong:
        raise ConfigError(
            f"{path} sweeps over {wrong[0]}: a sweep over sweeps would lose the inner one. Use keys of a run."
        )
    return dict(params)


def _parse(words: Sequence[str]) -> list[Override]:
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
    folders = [path.parent, conf_dir()]

    def config_of(differs: dict[str, str]) -> dict[str, Any]:
        files = tuple(
            f"{key}={value}" for key, value in differs.items() if any((folder / key).is_dir() for folder in folders)
        )
        if files not in base:
            words = [f"hydra.searchpath=[file://{conf_dir()}]", *fixed, *files]
            whole = compose(path.stem, words, return_hydra_config=True)
            choices = {str(group): str(choice) for group, choice in whole.hydra.runtime.choices.items()}
            with open_dict(whole):
                del whole["hydra"]
            base[files] = whole, choices
        shared, choices = base[files]
        config = copy.deepcopy(shared)
        for override in _parse([f"{key}={value}" for key, value in differs.items() if f"{key}={value}" not in files]):
            OmegaConf.update(config, override.get_key_element(), override.value(), merge=True)
        check(config, choices, folders)
        return resolved(config)

    with initialize_config_dir(str(path.parent), version_base="1.3"):
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
