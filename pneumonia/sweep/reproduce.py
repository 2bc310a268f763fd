"""Reproduce the study: run a preset's sweeps, evaluate the best of each family on the test split, write the report."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from pneumonia.config.keys import conf_dir
from pneumonia.errors import ConfigError, PneumoniaError, nearest
from pneumonia.report.collect import gather
from pneumonia.report.entries import Entry
from pneumonia.report.formatting import count
from pneumonia.system.console import say, warn

METRIC = "f1_macro"  # on validation; chooses the best configuration of a family


@dataclass(frozen=True)
class Preset:
    """A file of ``conf/reproduce``."""

    name: str
    overrides: list[str]  # of all sweeps
    sweeps: dict[str, list[str]]  # overrides of each sweep, by its name
    needs_data: bool = False  # phantoms are refused


def preset_names() -> list[str]:
    """Return the names of the packaged presets."""
    return sorted(path.stem for path in (conf_dir() / "reproduce").glob("*.yaml"))


def read_preset(name: str) -> Preset:
    """Read a preset.

    Raises:
        ConfigError: There is no preset of that name.
    """
    known = preset_names()
    if name not in known:
        raise ConfigError(f"preset={name} is not known; choose one of {', '.join(known)}.{nearest(name, known)}")
    return Preset(name, **yaml.safe_load((conf_dir() / "reproduce" / f"{name}.yaml").read_text(encoding="utf-8")))


def reproduce(preset: Preset, overrides: Sequence[str], runs_dir: Path, out: Path, run: Callable[[Sequence[str]], int]) -> int:
    """Run the unfinished steps of a preset.

    Args:
        preset: Sweeps to run.
        overrides: More overrides for every sweep.
        runs_dir: Folder of the sweeps.
        out: Folder of the report.
        run: Runs a command of ``pneumonia``.

    Returns:
        The exit code: 0, or 1 if a job or an evaluation failed; the report lists it.

    Raises:
        PneumoniaError: The first sweep refuses the overrides; nothing has run.
    """
    if preset.needs_data and not any(override.startswith("data=") for override in overrides):
        raise ConfigError(
            f"preset={preset.name} needs X-rays, because results on phantoms mean nothing. Set data=folder data.root=DIR, or "
            "use preset=smoke for a trial."
        )
    failed = _sweep(preset, overrides, runs_dir, run)
    folders = [runs_dir / name for name in preset.sweeps if (runs_dir / name).is_dir()]
    chosen = best_of_families(gather(folders).entries)
    say(f"\n[bold]Test split[/]: the best configuration of each family by validation ({count(len(chosen), 'run')})")
    cache = [f"--{one.replace('cache_dir', 'cache-dir', 1)}" for one in overrides if one.startswith("cache_dir=")]
    code = run(["evaluate", *(str(entry.folder.path) for entry in chosen), "--split", "test", *cache])
    say("\n[bold]Report[/]")
    title = f"The study, reproduced (preset {preset.name})"
    run(["report", *map(str, folders), "--out", str(out), "--title", title])
    if failed:
        say(f"Some jobs of {', '.join(failed)} are not finished; see the report. Run the same command to try again.")
    return 1 if failed or code else 0


def _sweep(preset: Preset, overrides: Sequence[str], runs_dir: Path, run: Callable[[Sequence[str]], int]) -> list[str]:
    """Run every sweep; return the names of those with unfinished jobs."""
    failed = []
    for number, (name, own) in enumerate(preset.sweeps.items(), 1):
        say(f"\n[bold]Sweep {number} of {len(preset.sweeps)}: {name}[/]")
        try:
            code = run(["sweep", name, *preset.overrides, *own, *overrides, f"runs_dir={runs_dir}"])
        except PneumoniaError as error:
            if number == 1 or isinstance(error, KeyboardInterrupt):
                raise  # bad input before anything has run, or an interruption
            warn(f"{type(error).__name__}: {error}")
            code = 1
        if code:
            failed.append(name)
    return failed


def best_of_families(entries: Sequence[Entry]) -> list[Entry]:
    """Return all runs of the configuration with the best mean validation metric, per family, task, data and split method."""
    groups: dict[tuple[str | int, ...], dict[str, list[Entry]]] = {}
    for entry in entries:
        result, split = entry.result, entry.result.config.split
        key = (result.task.name, entry.family, result.data.manifest_sha256, split.method, split.k)
        if entry.members == 1:
            groups.setdefault(key, {}).setdefault(entry.configuration, []).append(entry)
    return [entry for group in groups.values() for entry in max(group.values(), key=_mean_metric)]


def _mean_metric(entries: Iterable[Entry]) -> float:
    values = [entry.result.metrics["val"][METRIC] for entry in entries]
    return float(np.mean([-1.0 if value is None else value for value in values]))
