"""How to make everything in a report again: commands that give the same run ids, and the versions that made them."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from pneumonia.evaluation.error_gallery import gallery_file
from pneumonia.report.entries import Entry
from pneumonia.report.overrides import commands_of, words_of
from pneumonia.report.render.document import Block, Code, Heading, Items, Note, Text


def again(entries: Sequence[Entry], command: str) -> list[Block]:
    """The section, from training to report.

    Args:
        entries: Runs and ensembles of the report.
        command: That wrote it.
    """
    text = (
        "The same images, settings and seeds give the same run ids, and on a CPU the same figures to the last digit. "
        "What is finished is recognised and not trained again: say `runs_dir=again` to each line for a second set."
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
    blocks: list[Block] = [Heading("How to make this again"), Text(text), Code("\n".join(lines)), Items(items)]
    if any(len(known) > 1 for known in versions.values()):
        blocks.append(
            Note("These runs were made with different versions: a difference between them may be of the software.")
        )
    return blocks


def training(entries: Sequence[Entry]) -> list[str]:
    """Lines of shell that train every run, a remark above those of each folder."""
    folders: dict[Path, list[Entry]] = {}
    for entry in entries:
        if not entry.joined:
            folders.setdefault(entry.folder.path.parent, []).append(entry)
    lines: list[str] = []
    for folder, runs in folders.items():
        known = [run for run in runs if words_of(run.config) is not None]
        lines += [""] if lines else []
        lines += [f"# {folder}", *commands_of([run.config for run in known])] if known else []
        lines += [
            f"# {run.folder.path}: made of config files of one's own; its config.yaml has every setting"
            for run in runs
            if run not in known
        ]
    return lines


def evaluating(entries: Sequence[Entry]) -> list[str]:
    """Lines of shell that evaluate what was evaluated, under the same views, on the same data."""
    groups: dict[tuple[str, ...], list[str]] = {}
    lines = []
    for entry in (one for run in entries for one in run.everywhere):
        for subset, found in entry.evaluations.items():
            of = found["of"]
            words = [f"split={subset}"]
            words += [f"tta={entry.tta}"] if entry.tta else []
            words += ["data=folder", f"data.root={of['other_data']}"] if of["other_data"] else []
            if entry.joined:
                members = ",".join(member["run"] for member in entry.joined)
                lines.append(shlex.join(["pneumonia", "evaluate", f"ensemble={members}", *words]))
                continue
            pictured = gallery_file(entry.evaluation(subset)).is_file()
            words += ["cases=true"] if pictured else []
            groups.setdefault(tuple(words), []).append(str(entry.folder.path))
    return [shlex.join(["pneumonia", "evaluate", *runs, *words]) for words, runs in groups.items()] + lines
