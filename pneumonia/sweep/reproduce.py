"""The whole study in one command: sweeps, the best of each family on the test split, the report. Call it again and it goes on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pneumonia.config.schema import conf_dir
from pneumonia.errors import ConfigError, PneumoniaError, nearest
from pneumonia.report.collect import gather
from pneumonia.report.entries import Entry
from pneumonia.report.formatting import count
from pneumonia.system.console import say, warn

Verb = Callable[[list[str]], int]
METRIC = "f1_macro"  # of the validation split, by which the best of a family is chosen


@dataclass(frozen=True)
class Preset:
    """What to do.

    Attributes:
        name: Of the file.
        words: Overrides of every sweep.
        sweeps: Overrides of each.
        needs_data: Whether drawn phantoms will not do.
    """

    name: str
    words: list[str]
    sweeps: dict[str, list[str]]
    needs_data: bool


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(path.stem for path in (conf_dir() / "reproduce").glob("*.yaml"))


def read_preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        ConfigError: There is none of that name.
    """
    known = preset_names()
    if name not in known:
        raise ConfigError(f"preset={name} is not known; choose one of {', '.join(known)}.{nearest(name, known)}")
    found: dict[str, Any] = yaml.safe_load((conf_dir() / "reproduce" / f"{name}.yaml").read_text(encoding="utf-8"))
    return Preset(name, found["words"], found["sweeps"], found.get("needs_data", False))


def reproduce(preset: Preset, words: Sequence[str], runs_dir: Path, out: Path, verbs: Mapping[str, Verb]) -> int:
    """Does what is missing of a preset.

    Args:
        preset: What to do.
        words: More overrides, of every sweep.
        runs_dir: Where the sweeps go.
        out: Where the report goes.
        verbs: The command line's ``sweep``, ``evaluate`` and ``report``.

    Returns:
        0, or 1 where a job or an evaluation failed; the report then says which.

    Raises:
        PneumoniaError: Overrides that no sweep can take, before anything has run.
    """
    if preset.needs_data and not any(word.startswith("data=") for word in words):
        raise ConfigError(
            f"preset={preset.name} trains on X-rays, and drawn phantoms would say nothing. Say data=folder "
            "data.root=DIR, or "
            "preset=smoke to see it work."
        )
    failed = _sweep(preset, words, runs_dir, verbs["sweep"])
    folders = [runs_dir / name for name in preset.sweeps if (runs_dir / name).is_dir()]
    chosen = best_of_families(gather(folders).entries)
    say(
        f"\n[bold]Test split[/]: {count(len(chosen), 'run')} of the best configuration of each family, chosen by "
        "validation"
    )
    code = verbs["evaluate"]([*(str(entry.folder.path) for entry in chosen), "split=test", *_cache(words)])
    say("\n[bold]Report[/]")
    verbs["report"]([*map(str, folders), "--out", str(out), "--title", f"The study, re-done (preset {preset.name})"])
    if failed:
        say(f"Not all jobs are done in {', '.join(failed)}; the report lists them. The same command tries them again.")
    return 1 if failed or code else 0


def _sweep(preset: Preset, words: Sequence[str], runs_dir: Path, sweep: Verb) -> list[str]:
    """Does every sweep; the names of those that are not whole."""
    failed = []
    for number, (name, own) in enumerate(preset.sweeps.items(), 1):
        say(f"\n[bold]Sweep {number} of {len(preset.sweeps)}: {name}[/]")
        try:
            code = sweep([name, *preset.words, *own, *words, f"runs_dir={runs_dir}"])
        except KeyboardInterrupt:
            raise
        except PneumoniaError as error:
            if number == 1:
                raise  # bad input shows in the first sweep, and nothing has run
            warn(f"{type(error).__name__}: {error}")
            code = 1
        if code:
            failed.append(name)
    return failed


def _cache(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.startswith("cache_dir=")]


def best_of_families(entries: Sequence[Entry]) -> list[Entry]:
    """All trainings of the configuration with the best mean validation figure, for each family, task and kind of split."""
    groups: dict[tuple[str, ...], dict[str, list[Entry]]] = {}
    for entry in entries:
        split = entry.config["split"]
        key = (
            entry.result["task"],
            entry.family,
            entry.result["data"]["manifest_sha256"],
            split["method"],
            str(split["k"]),
        )
        if entry.members == 1:
            groups.setdefault(key, {}).setdefault(entry.configuration, []).append(entry)
    best = []
    for configurations in groups.values():
        best += max(configurations.values(), key=_validated)
    return best


def _validated(entries: Iterable[Entry]) -> float:
    values = [entry.result["metrics"]["val"][METRIC] for entry in entries]
    return float(np.mean([-1.0 if value is None else value for value in values]))
