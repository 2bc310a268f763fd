"""Print the data of a run at its start and its metrics at its end."""

from pathlib import Path

from rich.markup import escape

from pneumonia.config.schema import TrainConfig
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.sources.phantom_detection import mostly_phantoms
from pneumonia.data.splits.leaks import Leak
from pneumonia.metrics.classification import class_metric
from pneumonia.models.base import Classifier
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.model_warnings import PHANTOMS, constant_prediction
from pneumonia.runs.result import RunResult
from pneumonia.system.class_tables import print_class_counts, print_confusion
from pneumonia.system.console import format_value, say, table, warn
from pneumonia.tasks import SUBSETS


def announce(config: TrainConfig, classifier: Classifier, data: XRayDataModule, folder: RunFolder, label: str) -> None:
    """Print what a run trains (``label`` tells it from others), and warnings about its data."""
    counts = {subset: data.counts(subset) for subset in SUBSETS}
    classes = data.task.classes
    rows = [(subset, *(str(count) for count in counts[subset]), str(counts[subset].sum())) for subset in SUBSETS]
    print_class_counts(f"Split {config.split.method}, images by class", classes, rows, ("all",))
    seen = data.images.manifest.iloc[data.positions("train")]
    if mostly_phantoms(seen["path"].tolist(), seen["sha256"].tolist(), Path(config.cache_dir)):
        say("These are drawn phantoms: they show that everything works, not how good a model is. Real X-rays: data=folder")
    split = config.split
    if split.rules.folded:
        turns = f"; every {split.every} epochs the next one does" if data.rotate_every else ""
        say(f"Fold {split.fold} of {split.k} validates{turns}")
    for leak in data.leaks:
        warn(_leak_text(split.method, leak))
    for path, reason in data.images.skipped.items():
        warn(f"left out {path}: {reason}")
    if classifier.note:
        say(classifier.note)
    if classifier.training_rule:
        say(f"{type(classifier).__name__} learns {classifier.training_rule}")
    if getattr(config.model, "activation", None) == "binary_step":
        say("The binary step has no slope to learn from: it trains by a straight-through gradient, that of clamp(x, -1, 1)")
    batches = "the whole subset at once" if classifier.full_batch else f"batches of {config.batch_size}"
    name = f"{escape(label)} ({folder.path.name})" if label else folder.path.name
    say(f"Training {name}: {config.max_epochs} epochs, {batches}")


def show(result: RunResult, folder: RunFolder, note: str = "") -> None:
    """Print the tables at the end of a run."""
    trained, validated = result.metrics["train"], result.metrics["val"]
    classes = result.confusion.classes
    apart = {class_metric(name, label) for name in ("recall", "precision") for label in classes}
    names = [name for name in {**validated, **trained} if name not in apart]
    rows = [(name, *(format_value(values[name]) if name in values else "" for values in (trained, validated))) for name in names]
    family = f"{result.family} {getattr(result.config.model, 'name', '')}".strip()
    title = f"{family}, best epoch {result.best_epoch} of {result.epochs}"
    table(title, ("metric", "train", "val"), rows)
    rates = {
        name: [format_value(validated.get(class_metric(name, label))) for label in classes]
        for name in ("recall", "precision")
        if len(classes) > 2
    }
    print_confusion("Validation, by true class", classes, result.confusion.counts, rates)
    cost = result.cost
    if cost.images_per_s:
        say(f"{cost.images_per_s:.0f} images/s, {cost.fit_s:.0f} s, {cost.peak_memory_mib:.0f} MiB on {cost.device}")
    for leak in result.data.leaks:
        warn(_leak_text(result.config.split.method, leak))
    if result.data.skipped:
        warn(f"{len(result.data.skipped)} images could not be read and were left out: see data.skipped in result.json.")
    constant = constant_prediction(result.confusion.counts, classes, "validation")
    if constant:
        warn(constant)
    if result.data.phantoms and result.config.data.source != "phantom":
        warn(PHANTOMS)
    if note:
        say(note)
    say(f"Run folder: [bold]{folder.path}[/]")


def _leak_text(method: str, leak: Leak) -> str:
    return (
        f"split={method} is LEAKY: {leak.images} of {leak.of} {leak.subset} images ({leak.fraction:.0%}) show a patient that "
        f"the model was trained on, for example {leak.example}. Its scores are optimistic; split=grouped keeps patients apart."
    )
