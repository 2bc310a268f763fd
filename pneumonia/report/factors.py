"""Write the section of each sweep: curves, metrics, speed, memory and price by value."""

from collections.abc import Sequence

import numpy as np

from pneumonia.metrics.classification import metric_label
from pneumonia.report.compare import Bounded, estimates_on
from pneumonia.report.entries import Entry, by_configuration
from pneumonia.report.formatting import bounded, describe_intervals, number, seconds, sentence
from pneumonia.report.naming import labels_of
from pneumonia.report.render import figures
from pneumonia.report.render.document import Block, Figure, Heading, Note, Table, Text
from pneumonia.report.study import load_study
from pneumonia.runs.result import Cost

MOST_CURVES = 10
Group = list[Entry]


def sweep_sections(by_sweep: dict[str, list[Entry]], questions: dict[str, str]) -> list[Block]:
    """Return a section for each sweep with two configurations or more, by task and set of images."""
    blocks: list[Block] = []
    for sweep, entries in by_sweep.items():
        apart: dict[tuple[str, str], Group] = {}
        for entry in entries:
            if "val" in entry.tables:
                key = entry.result.task.name, entry.result.data.manifest_sha256
                apart.setdefault(key, []).append(entry)
        for (task, _), found in apart.items():
            groups = _by_configuration(found)
            if len(groups) > 1:
                name = sweep if len(apart) == 1 else f"{sweep}-{task}"
                blocks += _section(name, questions[sweep], task if len(apart) > 1 else "", groups)
    if blocks:
        text = (
            "Values of the validation split, on which each run's best epoch was chosen; bounds are 95% and count patients, and "
            "seeds where there are several. They describe; what is better is said above, where tests are corrected."
        )
        return [Heading("Sweeps, one factor at a time"), Text(text), *blocks]
    return []


def _by_configuration(entries: Sequence[Entry]) -> dict[str, Group]:
    """Trainings by the label of their configuration."""
    found = by_configuration(entries)
    labels = labels_of([group[0] for group in found.values()])
    return dict(zip(labels, found.values(), strict=True))


def _section(name: str, question: str, task: str, groups: dict[str, Group]) -> list[Block]:
    found = {label: estimates_on(group, "val") for label, group in groups.items()}
    blocks: list[Block] = [Heading(f"{name}: {question}", 3)]
    leaky = [label for label, group in groups.items() if group[0].config.split.method in {"random", "rotating"}]
    if leaky:
        share = "All" if len(leaky) == len(groups) else ", ".join(leaky)
        blocks.append(Note(f"{share}: a leaky split; patients of the validation split were trained on.", "bad"))
    images = {tuple(entry.tables["val"]["image_id"]) for group in groups.values() for entry in group}
    if len(images) > 1:
        text = "These were not all validated on the same images, so that a difference may be of the images."
        blocks.append(Note(text))
    best = sorted(groups, key=lambda label: found[label]["loss"][0])[:MOST_CURVES]
    shown = [label for label in groups if label in best]
    series = {label: [_losses(entry) for entry in groups[label]] for label in shown}
    some = "" if len(shown) == len(groups) else f" The {len(shown)} of the lowest loss, of {len(groups)}."
    drawn = figures.curves(series, "epoch", "validation loss")
    several = any(len(group) > 1 for group in groups.values())
    caption = f"Validation loss by epoch.{' Thin: each training; thick: their mean.' if several else ''}{some}"
    lowest = f"{best[0]} reaches the lowest loss, {number(found[best[0]]['loss'][0])}"
    blocks.append(Figure(f"{name}-curves", drawn, caption, f"Curves of validation loss by epoch; {lowest}."))
    metric = "f1_macro"
    order = sorted(groups, key=lambda label: -np.nan_to_num(found[label][metric][0], nan=-1))
    if len(order) <= 40:
        values, lows, highs = zip(*(found[label][metric] for label in order), strict=True)
        drawn = figures.intervals(order, values, lows, highs, f"{metric_label(metric)}, validation split")
        shown_bounds = describe_intervals([found[label][metric] for label in order])
        caption = f"{sentence(metric_label(metric))} of the best epoch, {shown_bounds}."
        blocks.append(Figure(f"{name}-metric", drawn, caption, f"{order[0]} stands first."))
    return [*blocks, _results(name, groups, found, order), _costs(name, groups)]


def _losses(entry: Entry) -> list[float]:
    return [float(row["val/loss"]) if row.get("val/loss") else float("nan") for row in entry.epochs]


def _results(name: str, groups: dict[str, Group], found: dict[str, dict[str, Bounded]], order: Sequence[str]) -> Table:
    metrics = ("loss", "accuracy", "f1_macro", "auroc")
    key = _factor_key(groups)
    study = {column: values for column, values in load_study().factors.get(key, {}).items() if column.startswith("loss_")}
    rows = []
    for label in order:
        group = groups[label]
        epochs = sorted({entry.result.best_epoch for entry in group})
        row = [label, str(len(group)), *(bounded(*found[label][metric]) for metric in metrics)]
        row.append(f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}")
        for column, values in study.items():
            losses = [_losses(entry)[0 if column == "loss_first_epoch" else -1] for entry in group]
            row += [number(float(np.mean(losses))), number(values.get(_value(group, key)))]
        rows.append(row)
    head = ["", "trainings", *(metric_label(metric) for metric in metrics), "best epoch"]
    for column in study:
        when = "first" if column == "loss_first_epoch" else "last"
        head += [f"loss, {when} epoch", f"study, {when} epoch"]
    return Table(head, rows, "Best epoch by validation, best first", 1, f"sweep-{name}")


def _costs(name: str, groups: dict[str, Group]) -> Table:
    key = _factor_key(groups)
    study = {column: values for column, values in load_study().factors.get(key, {}).items() if not column.startswith("loss_")}
    titles = {"peak_memory_mib": "study, VRAM MiB", "batches_per_s": "study, batches/s"}
    rows = []
    for label, group in groups.items():
        costs = [entry.result.cost for entry in group]
        priced = [cost.usd for cost in costs if cost.usd is not None]
        row = [
            label,
            _mean(costs, "images_per_s", 0),
            _mean(costs, "batches_per_s", 2),
            _mean(costs, "peak_memory_mib", 0),
            seconds(float(np.mean([cost.fit_s for cost in costs]))),
            f"{np.mean(priced):.4f}" if priced else "–",
        ]
        rows.append(row + [number(values.get(_value(group, key)), 2).removesuffix(".00") for values in study.values()])
    columns = ("images/s", "batches/s", "peak MiB", "mean training time", "USD a training")
    head = ["", *columns, *(titles[column] for column in study)]
    devices = {entry.result.cost.device for group in groups.values() for entry in group}
    on = f"Speed, memory and price, means over the trainings of this sweep, on {', '.join(sorted(devices))}"
    if study:
        on += "; the study's on a T4 with RGB images"
    return Table(head, rows, on, 1, f"cost-{name}")


def _mean(costs: Sequence[Cost], key: str, digits: int) -> str:
    values = [value for cost in costs if (value := getattr(cost, key)) is not None]
    return f"{np.mean(values):,.{digits}f}" if values else "–"


def _factor_key(groups: dict[str, Group]) -> str:
    """Return the swept key; empty if there are several."""
    keys = {key for group in groups.values() for key in group[0].differs}
    return keys.pop() if len(keys) == 1 else ""


def _value(group: Group, key: str) -> str:
    return group[0].differs.get(key, "")
