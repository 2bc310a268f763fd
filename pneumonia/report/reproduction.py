"""Write the reproduction section: commands that give the same run ids, and the versions of the software."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from pneumonia.config.overrides import overrides_from_config
from pneumonia.evaluation.error_gallery import gallery_file
from pneumonia.report.entries import Entry
from pneumonia.report.render.document import Block, Code, Heading, Items, Note, Text
from pneumonia.report.train_commands import train_commands


def reproduction_section(entries: Sequence[Entry], command: str) -> list[Block]:
    """Return the section, with commands from training to report.

    Args:
        entries: Runs and ensembles of the report.
        command: That wrote it.
    """
    text = (
        "The same images, settings and seeds give the same run ids, and on a CPU the same values to the last digit. "
        "Finished runs are recognised and not trained again: add `runs_dir=again` to each line for a second set."
    )
    evaluated = evaluating(entries)
    lines = [*training(entries), "", *evaluated, *([""] if evaluated else []), command]
    versions: dict[str, set[str]] = {}
    for entry in entries:
        for name, number in entry.result.versions.items():
            versions.setdefault(name, set()).add(number)
    devices = sorted({entry.result.cost.device for entry in entries})
    items = [
        "Versions: " + ", ".join(f"{name} {' and '.join(sorted(known))}" for name, known in versions.items()),
        f"Trained on: {', '.join(devices)}",
    ]
    blocks: list[Block] = [Heading("How to reproduce this"), Text(text), Code("\n".join(lines)), Items(items)]
    if any(len(known) > 1 for known in versions.values()):
        blocks.append(Note("These runs were made with different versions: differences may be caused by the software."))
    return blocks


def training(entries: Sequence[Entry]) -> list[str]:
    """Return shell commands that train every run, with a comment above those of each folder."""
    folders: dict[Path, list[Entry]] = {}
    for entry in entries:
        if not entry.joined:
            folders.setdefault(entry.folder.path.parent, []).append(entry)
    lines: list[str] = []
    for folder, runs in folders.items():
        known = [run for run in runs if overrides_from_config(run.config) is not None]
        lines += [""] if lines else []
        lines += [f"# {folder}", *train_commands([run.config for run in known])] if known else []
        lines += [
            f"# {run.folder.path}: composed from config files of your own; its config.yaml has every setting"
            for run in runs
            if run not in known
        ]
    return lines


def evaluating(entries: Sequence[Entry]) -> list[str]:
    """Return shell commands that repeat all evaluations, with the same TTA and data."""
    groups: dict[tuple[str, ...], list[str]] = {}
    lines = []
    for entry in (one for run in entries for one in run.everywhere):
        for subset, found in entry.evaluations.items():
            options = ["--split", subset]
            options += ["--tta", entry.tta] if entry.tta else []
            options += ["--data", found.of.other_data] if found.of.other_data else []
            if entry.joined:
                members = [member.run for member in entry.joined]
                lines.append(shlex.join(["pneumonia", "evaluate", *members, "--ensemble", *options]))
                continue
            pictured = gallery_file(entry.evaluation(subset)).is_file()
            options += ["--gallery"] if pictured else []
            groups.setdefault(tuple(options), []).append(str(entry.folder.path))
    return [shlex.join(["pneumonia", "evaluate", *runs, *options]) for options, runs in groups.items()] + lines
