"""Write the model card and the TRIPOD+AI checklist."""

from collections.abc import Mapping
from importlib.metadata import version

from pneumonia.config.convert import class_name
from pneumonia.metrics.classification import metric_label
from pneumonia.report.compare import Bounded, Comparison
from pneumonia.report.entries import Entry
from pneumonia.report.formatting import bounded, count, number, seconds
from pneumonia.report.render.document import Block, Heading, Table, Text

ASKED = "for you to write"


def card(comparison: Comparison) -> list[Block]:
    """Return the model card of a comparison's best candidate. Source: Mitchell et al. (2019), Model cards for model reporting."""
    best = comparison.candidates[0]
    entry = best.typical
    config, data, cost = entry.config, entry.result.data, entry.result.cost
    phantom = entry.result.data.phantoms
    settings = {key: value for key, value in vars(config.model).items() if key != "_target_"}
    augmented = {key: value for key, value in vars(config.augmentation).items() if value}
    rows = [
        ("Model", f"{_mean_of(entry)}{entry.family}: {_listed(settings) or 'no settings'}"),
        ("Task", f"{comparison.task}: {', '.join(entry.result.task.classes)}"),
        (
            "Input",
            f"grey chest X-ray, {config.image_size} x {config.image_size} pixels "
            f"({config.data.resize}), normalisation={config.normalisation}",
        ),
        (
            "Training data",
            f"{data.train:,} images ({config.data.source}), split={comparison.split}, manifest "
            f"`{data.manifest_sha256[:12]}`",
        ),
        (
            "Training",
            f"{class_name(config.optimizer)}, learning rate {getattr(config.optimizer, 'lr', '–')}, "
            f"{class_name(config.scheduler)}, batch {config.batch_size}, best of "
            f"{entry.result.epochs} epochs: {entry.result.best_epoch}"
            + (f" (seed {entry.result.seed})" if best.trainings > 1 else ""),
        ),
        ("Augmentation", _listed(augmented) or "none"),
        (
            "Measured on",
            f"{count(comparison.n, 'image')} of {count(comparison.patients, 'patient')}, {comparison.subset} split"
            + (f" of other data, {comparison.other_data}" if comparison.other_data else ""),
        ),
        (
            _of_how_many("Metrics", best.trainings),
            "; ".join(
                f"{metric_label(metric)} {bounded(*best.estimates[metric])}"
                for metric in ("accuracy", "f1_macro", "auroc")
            ),
        ),
        (_of_how_many("By class", best.trainings), _by_class(best.estimates)),
        (
            _of_how_many("Cost of one training", best.trainings),
            f"{seconds(best.fit_s)} on {cost.device}, peak memory {best.peak_memory_mib:,.0f} MiB",
        ),
        ("Meant for", "comparing methods of classification in research and teaching"),
        ("Not meant for", "deciding about a patient: it is no medical device, and was tested on none"),
        ("Known limits", _limits(comparison, phantom)),
    ]
    return [Heading(f"Model card: {best.label}"), Table(("", ""), rows, "", 2, "model-card")]


def _of_how_many(name: str, trainings: int) -> str:
    """Return the name of a value, with the number of trainings of which it is the mean."""
    return name if trainings == 1 else f"{name}, mean of {trainings} trainings"


def _mean_of(entry: Entry) -> str:
    return f"the mean of {entry.members} runs, of which the first is " if entry.joined else ""


def _listed(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _by_class(estimates: Mapping[str, Bounded]) -> str:
    names = [name for name in estimates if name.startswith("recall_") and name != "recall_macro"] or [
        "sensitivity",
        "specificity",
    ]
    return "; ".join(f"{metric_label(name)} {bounded(*estimates[name])}" for name in names)


def _limits(comparison: Comparison, phantom: bool) -> str:
    limits = ["other hospitals, machines, ages and diseases than those of the data were not seen"]
    if phantom:
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
    entry = best.typical
    data, config = entry.result.data, entry.config
    found = entry.evaluations.get(comparison.subset)
    temperature = found.calibration.temperature if found else None
    counts = found.confusion.counts if found else []
    events = "; ".join(f"{name} {sum(row):,}" for name, row in zip(entry.result.task.classes, counts, strict=False))
    rows = [
        (
            "1",
            "Title: a prediction model, its outcome, its population",
            f"classification of chest X-rays: {', '.join(entry.result.task.classes)}",
        ),
        ("2", "Abstract", ASKED),
        ("3", "Background, aims, fairness between groups of patients", ASKED),
        (
            "4",
            "Objectives: development, evaluation or both",
            "development and internal evaluation" if comparison.other_data is None else "evaluation on other data",
        ),
        (
            "5",
            "Data: source, dates, how representative",
            f"{config.data.source}, manifest `{data.manifest_sha256[:12]}`; dates and representativeness: {ASKED}",
        ),
        ("6", "Participants: setting, eligibility, treatment", ASKED),
        (
            "7",
            "Data preparation",
            f"decoded to {config.image_size} pixels ({config.data.resize}), grey; "
            f"{count(len(data.skipped), 'image')} left out as unreadable; copies found by hash and kept in "
            "one subset unless the split leaks",
        ),
        ("8", "Outcome: definition, who assessed it", f"the release's own labels; who assessed them: {ASKED}"),
        ("9", "Predictors", "the pixels of one image; no clinical variable"),
        (
            "10",
            "Sample size",
            f"{data.train:,} training, {data.val:,} validation, {data.test:,} test images; how it was "
            f"arrived at: {ASKED}",
        ),
        ("11", "Missing data", "none within an image; unreadable images are listed"),
        (
            "12",
            "Analysis: model, training, selection, performance measures",
            f"{entry.family}, every setting in config.yaml; epoch chosen by validation; "
            f"{_metrics(best.estimates)}; intervals by patient; {count(len(comparison.pairs), 'paired test')} "
            "with Holm's correction",
        ),
        ("13", "Class imbalance", f"class_weights={config.class_weights}; macro averages reported beside accuracy"),
        ("14", "Fairness", f"age, sex and site are not in the data, so that groups can't be compared: {ASKED}"),
        (
            "15",
            "Model output",
            f"probabilities of {len(entry.result.task.classes)} classes; thresholds chosen on the validation split "
            "for a sensitivity of 0.95",
        ),
        (
            "16",
            "Training and evaluation compared",
            f"split={comparison.split}: {comparison.leaks or 'no patient in two subsets'}",
        ),
        ("17", "Ethical approval", ASKED),
        (
            "18",
            "Open science: funding, conflicts, protocol, registration, data, code",
            f"code: pneumonia {version('pneumonia')}; the rest: {ASKED}",
        ),
        ("19", "Patient and public involvement", ASKED),
        (
            "20",
            "Flow of participants, characteristics",
            f"measured on {count(comparison.n, 'image')} of {count(comparison.patients, 'patient')}; "
            f"{events or 'by class: evaluate the run'}",
        ),
        (
            "21",
            "Model development: numbers in each analysis",
            f"{data.train:,} images, {count(best.trainings, 'training')}",
        ),
        (
            "22",
            "Model specification: how to obtain it",
            f"`{entry.folder.path}/ensemble.json` names its members, each with checkpoints/best.ckpt and config.yaml"
            if entry.joined
            else f"`{entry.folder.path}/checkpoints/best.ckpt`, config.yaml in the run folder",
        ),
        (
            "23",
            "Performance with intervals",
            f"{metric_label(comparison.metric)} {bounded(*best.estimates[comparison.metric])}; all values above",
        ),
        (
            "24",
            "Model updating",
            f"temperature {number(temperature)} fitted on the validation split" if temperature else "none",
        ),
        ("25", "Interpretation", ASKED),
        ("26", "Limitations", _limits(comparison, entry.result.data.phantoms)),
        (
            "27",
            "Usability: handling of poor input, expertise needed, next steps",
            f"unreadable images are refused by name; the rest: {ASKED}",
        ),
    ]
    text = (
        "What the platform knows of each item of TRIPOD+AI (Collins et al., 2024), in our words; whoever "
        "publishes has to write the "
        f"{sum(ASKED in row[2] for row in rows)} that it can't know."
    )
    return [Heading("TRIPOD+AI"), Text(text), Table(("item", "asks for", "here"), rows, "", 3, "tripod-ai")]


def _metrics(estimates: Mapping[str, Bounded]) -> str:
    return ", ".join(metric_label(name) for name in ("accuracy", "f1_macro", "auroc", "loss") if name in estimates)
