"""Write the model card and the TRIPOD+AI checklist."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import yaml

from pneumonia.config.convert import class_name
from pneumonia.metrics.classification import metric_label
from pneumonia.report.compare import Bounded, Comparison
from pneumonia.report.formatting import bounded, count, number, seconds
from pneumonia.report.render.document import Block, Heading, Table, Text

ITEMS: Final = Path(__file__).with_name("tripod.yaml")
ASKED: Final = "for you to write"


def card(comparison: Comparison) -> list[Block]:
    """Return the model card of a comparison's best candidate. Source: Mitchell et al. (2019), Model cards for model reporting."""
    best = comparison.candidates[0]
    entry, result = best.typical, best.typical.result
    config, data = entry.config, result.data
    joined = f"the mean of {entry.members} runs, of which the first is " if entry.joined else ""
    settings = {key: value for key, value in vars(config.model).items() if key != "_target_"}
    augmented = {key: value for key, value in vars(config.augmentation).items() if value}
    seed = f" (seed {result.seed})" if best.trainings > 1 else ""
    other_data = f" of other data, {comparison.other_data}" if comparison.other_data else ""
    mean = "" if best.trainings == 1 else f", mean of {best.trainings} trainings"
    rows = [
        ("Model", f"{joined}{entry.family}: {_listed(settings) or 'no settings'}"),
        ("Task", f"{comparison.task.name}: {', '.join(result.task.classes)}"),
        (
            "Input",
            f"grey chest X-ray, {config.image_size} x {config.image_size} pixels ({config.data.resize}), "
            f"normalisation={config.normalisation}",
        ),
        (
            "Training data",
            f"{data.train:,} images ({config.data.source}), split={comparison.split}, manifest `{data.manifest_sha256[:12]}`",
        ),
        (
            "Training",
            f"{class_name(config.optimizer)}, learning rate {getattr(config.optimizer, 'lr', '–')}, "
            f"{class_name(config.scheduler)}, batch {config.batch_size}, best of {result.epochs} epochs: "
            f"{result.best_epoch}{seed}",
        ),
        ("Augmentation", _listed(augmented) or "none"),
        ("Measured on", f"{_measured(comparison)}, {comparison.subset} split{other_data}"),
        (f"Metrics{mean}", _values(best.estimates, ("accuracy", "f1_macro", "auroc"))),
        (f"By class{mean}", _values(best.estimates, _class_metrics(best.estimates))),
        (
            f"Cost of one training{mean}",
            f"{seconds(best.fit_s)} on {result.cost.device}, peak memory {best.peak_memory_mib:,.0f} MiB",
        ),
        ("Meant for", "comparing methods of classification in research and teaching"),
        ("Not meant for", "deciding about a patient: it is no medical device, and was tested on none"),
        ("Known limits", _limits(comparison)),
    ]
    return [Heading(f"Model card: {best.label}"), Table(("", ""), rows, "", 2, "model-card")]


def _listed(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _measured(comparison: Comparison) -> str:
    return f"{count(comparison.n, 'image')} of {count(comparison.patients, 'patient')}"


def _values(estimates: Mapping[str, Bounded], names: Iterable[str]) -> str:
    return "; ".join(f"{metric_label(name)} {bounded(*estimates[name])}" for name in names)


def _class_metrics(estimates: Mapping[str, Bounded]) -> list[str]:
    by_class = [name for name in estimates if name.startswith("recall_") and name != "recall_macro"]
    return by_class or ["sensitivity", "specificity"]


def _limits(comparison: Comparison) -> str:
    limits = ["other hospitals, machines, ages and diseases than those of the data were not seen"]
    if comparison.candidates[0].typical.result.data.phantoms:
        limits = ["drawn phantoms: nothing here says anything about medicine"]
    if comparison.leaks:
        limits.append(f"optimistic: {comparison.leaks}")
    if comparison.candidates[0].once:
        limits.append("trained once: how far another seed differs is not known")
    return "; ".join(limits)


def tripod(comparison: Comparison) -> list[Block]:
    """Return the checklist of TRIPOD+AI, with the items that a training platform can answer filled in.

    Source: Collins et al. (2024), TRIPOD+AI statement: updated guidance for reporting clinical prediction models.
    """
    best = comparison.candidates[0]
    entry, result = best.typical, best.typical.result
    data, config, classes = result.data, entry.config, result.task.classes
    found = entry.evaluations.get(comparison.subset)
    temperature = found.calibration.temperature if found else None
    events = zip(classes, found.confusion.counts if found else [], strict=False)
    place = entry.folder.path
    facts = {
        "asked": ASKED,
        "classes": ", ".join(classes),
        "outputs": len(classes),
        "objective": "evaluation on other data" if comparison.other_data else "development and internal evaluation",
        "source": config.data.source,
        "manifest": data.manifest_sha256[:12],
        "size": config.image_size,
        "resize": config.data.resize,
        "skipped": count(len(data.skipped), "image"),
        "train": f"{data.train:,}",
        "val": f"{data.val:,}",
        "test": f"{data.test:,}",
        "family": entry.family,
        "metrics": ", ".join(map(metric_label, ("accuracy", "f1_macro", "auroc", "loss"))),
        "tests": count(len(comparison.pairs), "paired test"),
        "class_weights": config.class_weights,
        "split": comparison.split,
        "leaks": comparison.leaks or "no patient in two subsets",
        "version": version("pneumonia"),
        "measured": _measured(comparison),
        "by_class": "; ".join(f"{name} {sum(row):,}" for name, row in events) or "by class: evaluate the run",
        "trainings": count(best.trainings, "training"),
        "specification": (
            f"`{place}/ensemble.json` names its members, each with checkpoints/best.ckpt and config.yaml"
            if entry.joined
            else f"`{place}/checkpoints/best.ckpt`, config.yaml in the run folder"
        ),
        "performance": _values(best.estimates, [comparison.metric]),
        "updating": f"temperature {number(temperature)} fitted on the validation split" if temperature else "none",
        "limits": _limits(comparison),
    }
    items = yaml.safe_load(ITEMS.read_text(encoding="utf-8"))
    rows = [(item, asks, here.format_map(facts)) for item, asks, here in items]
    text = (
        "What the platform knows of each item of TRIPOD+AI (Collins et al., 2024), in our words; whoever publishes has to write "
        f"the {sum(ASKED in row[2] for row in rows)} that it can't know."
    )
    return [Heading("TRIPOD+AI"), Text(text), Table(("item", "asks for", "here"), rows, "", 3, "tripod-ai")]
