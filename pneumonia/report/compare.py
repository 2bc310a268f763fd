"""Group comparable runs, estimate their metrics, and test their differences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import pandas as pd

from pneumonia.metrics.bootstrap import (
    NAN,
    Difference,
    ResampledMetric,
    differing_patients,
    estimate,
    paired_difference,
    resampled_metrics,
)
from pneumonia.metrics.classification import lower_is_better, metrics_of
from pneumonia.metrics.significance import delong, difference_over_folds, estimate_over_folds, holm, mcnemar
from pneumonia.metrics.thresholds import one_vs_rest
from pneumonia.report.entries import EVALUATED, Entry, by_configuration
from pneumonia.report.formatting import NO_DIFFERENCE, sentence
from pneumonia.report.naming import labels_of
from pneumonia.runs.folder import OWN
from pneumonia.system.console import track
from pneumonia.system.files import digest
from pneumonia.tasks import SUBTYPE, Task

LEVEL: Final = 0.05  # of the corrected p below which two are called different
ALL_PAIRS: Final = 12  # candidates; of more, each is held against the best alone
Kind = Literal["images", "folds"]
Bounded = tuple[float, float, float]


@dataclass
class Candidate:
    """One configuration in one comparison.

    Attributes:
        label: Unique name.
        entries: Its trainings.
        estimates: By metric: mean, lower and upper bound; NaN where undefined.
        typical: The training nearest to the mean, which figures show.
    """

    label: str
    entries: list[Entry]
    estimates: dict[str, Bounded]
    typical: Entry
    _sampled: dict[str, ResampledMetric] = field(default_factory=dict, repr=False)

    @property
    def trainings(self) -> int:
        return len(self.entries)

    @property
    def members(self) -> int:
        """Number of averaged runs; 1 unless the configuration is an ensemble."""
        return self.entries[0].members

    @property
    def fit_s(self) -> float:
        """Seconds of one training: the mean over its trainings; of an ensemble, those of its first member."""
        return float(np.mean([entry.result.cost.fit_s for entry in self.entries]))

    @property
    def peak_memory_mib(self) -> float:
        """Peak memory of one training, the mean over its trainings."""
        return float(np.mean([entry.result.cost.peak_memory_mib for entry in self.entries]))

    @property
    def once(self) -> bool:
        """Whether the variation between trainings is unknown."""
        return self.trainings == self.members == 1


@dataclass(frozen=True)
class Pair:
    """The difference of two candidates.

    Attributes:
        first: Label.
        second: Label.
        difference: First less second, of the metric.
        corrected: p by Holm over all pairs of the comparison.
        verdict: Of the first: ``better``, ``worse``, ``undefined`` or ``no significant difference``.
        mcnemar: Exact p of equal accuracy of the two typical trainings, images taken for independent; NaN over folds.
        auroc: p of equal AUROC of the two typical trainings by DeLong's test for clustered data, for pneumonia or not.
    """

    first: str
    second: str
    difference: Difference
    corrected: float
    verdict: str
    mcnemar: float
    auroc: float


@dataclass
class Comparison:
    """Candidates that were measured on the same images, or on the folds of one cross-validation.

    Attributes:
        task: Of all of them.
        manifest: Hash of images and labels.
        split: For example ``grouped``, ``kfold with 5 folds``.
        subset: ``test`` or ``val``.
        other_data: Name of the data, if they are not the runs' own.
        kind: ``images`` if all predicted the same images, ``folds`` if each fold its own.
        n: Images.
        patients: Of them.
        metric: By which is ranked.
        candidates: Best first.
        pairs: Of candidates; all, or each with the best.
        leaks: Sentence on the leak of the split; empty without a leak.
        leak_share: The share of images that leak, for a table.
    """

    task: Task
    manifest: str
    split: str
    subset: str
    other_data: str | None
    kind: Kind
    n: int
    patients: int
    metric: str
    candidates: list[Candidate]
    pairs: list[Pair]
    leaks: str
    leak_share: str

    @property
    def title(self) -> str:
        text = sentence(self.task.title)
        subset = "test" if self.subset == "test" else "validation"
        if self.other_data:
            return f"{text}: {subset} subset of other data, {self.other_data} (trained with split={self.split})"
        return f"{text}: {subset} subset of split={self.split}"


def comparisons(entries: Sequence[Entry], metric: str) -> list[Comparison]:
    """Compare each group of comparable runs: their own data first, test subsets first, splits without leaks first.

    Runs of unlike task, images or split are kept apart, and so are evaluations on unlike data.

    Runs that were evaluated on the test split are not compared on the validation split again, on which their best epoch was
    chosen.
    """
    groups: dict[Protocol, list[Entry]] = {}
    for subset in EVALUATED:
        for entry in entries:
            if subset in entry.tables and (subset == "test" or "test" not in entry.tables):
                groups.setdefault(_protocol(entry, subset), []).append(entry)
    tracked = track(list(groups.items()), len(groups), "Resampling patients, comparing runs")
    made = [_comparison(protocol, found, metric) for protocol, found in tracked]
    return sorted(
        made,
        key=lambda one: (bool(one.other_data), one.subset != "test", one.task != SUBTYPE, bool(one.leaks), one.split),
    )


@dataclass(frozen=True)
class Protocol:
    """What two runs must have in common to be compared; ``images`` is the hash of images and labels, unless over folds."""

    subset: str
    task: Task
    manifest: str
    split: str
    other_sha256: str | None
    kind: Kind
    images: str | None


def _protocol(entry: Entry, subset: str) -> Protocol:
    split = entry.config.split
    text = split.method
    if text in {"kfold", "rotating"}:
        text += f" with {split.k} folds"
    if split.seed:
        text += f" split.seed={split.seed}"
    other = entry.other_sha256(subset)
    folds = subset == "val" and split.method == "kfold" and other is None and not entry.tta
    images = None if folds else digest(entry.tables[subset][["image_id", "label"]].to_numpy().tolist())
    manifest = entry.result.data.manifest_sha256
    return Protocol(subset, entry.result.task, manifest, text, other, "folds" if folds else "images", images)


def _comparison(protocol: Protocol, entries: list[Entry], metric: str) -> Comparison:
    subset, kind, task = protocol.subset, protocol.kind, protocol.task
    metric = "f1_macro" if metric == "f1" and len(task.classes) > 2 else metric
    trainings = by_configuration(entries).values()
    labels = labels_of([found[0] for found in trainings], common=("split", "data", "task"))
    make = _over_folds if kind == "folds" else _over_images
    candidates = [make(label, found, subset, task, metric) for label, found in zip(labels, trainings, strict=True)]
    sign = 1 if lower_is_better(metric) else -1
    candidates.sort(key=lambda one: (np.isnan(one.estimates[metric][0]), sign * one.estimates[metric][0], one.label))
    tables = [entry.tables[subset] for entry in entries]
    ids = pd.concat([table[["image_id", "patient_id"]] for table in tables]).drop_duplicates("image_id")
    leak, share = _leak(entries[0], subset)
    return Comparison(
        task=task,
        manifest=protocol.manifest,
        split=protocol.split,
        subset=subset,
        other_data=entries[0].data if entries[0].data != OWN else None,
        kind=kind,
        n=len(ids),
        patients=ids["patient_id"].nunique(),
        metric=metric,
        candidates=candidates,
        pairs=_pairs(candidates, subset, task, metric, kind),
        leaks=leak,
        leak_share=share,
    )


def _leak(entry: Entry, subset: str) -> tuple[str, str]:
    """Describe a leak as a sentence and as a proportion; the leaks of a split concern the run's own data."""
    if entry.data != OWN:
        found = entry.evaluations[subset]
        if not found.trained_on:
            return "", ""
        text = f"{found.trained_on} of {found.n} images have the names of images that a model was trained on"
        return text, f"{found.trained_on / found.n:.0%}"
    if entry.config.split.method == "rotating" and subset == "val":
        return "the model was trained on its validation images in other turns of the folds", "100%"
    for leak in entry.result.data.leaks:
        if leak.subset == subset:
            text = f"{leak.images} of {leak.of} images show a patient that the models were trained on"
            return text, f"{leak.images / leak.of:.0%}"
    return "", ""


def _over_images(label: str, entries: list[Entry], subset: str, task: Task, metric: str) -> Candidate:
    found = _resampled(entries, subset, task)
    mean = found[metric].values.mean()
    typical = entries[int(np.abs(found[metric].values - mean).argmin())]
    return Candidate(label, entries, {name: estimate(one, name) for name, one in found.items()}, typical, found)


def _resampled(entries: Sequence[Entry], subset: str, task: Task) -> dict[str, ResampledMetric]:
    """Resample every metric of a configuration whose trainings predicted the same images."""
    predicted = [entry.predicted(subset)[0] for entry in entries]
    return resampled_metrics(predicted, entries[0].predicted(subset)[1], entries[0].patients(subset), task)


def _over_folds(label: str, entries: list[Entry], subset: str, task: Task, metric: str) -> Candidate:
    values = fold_metrics(entries, subset)
    estimates = estimates_on(entries, subset)
    typical = entries[int(np.abs(np.array(values[metric]) - estimates[metric][0]).argmin())]
    return Candidate(label, entries, estimates, typical)


def estimates_on(entries: Sequence[Entry], subset: str) -> dict[str, Bounded]:
    """Estimate every metric of a configuration on one subset, over the same images or over folds."""
    images = {tuple(entry.tables[subset]["image_id"]) for entry in entries}
    if len(images) > 1:
        values = fold_metrics(entries, subset)
        return {name: estimate_over_folds(values[name], *_sizes(entries, subset), name) for name in values}
    found = _resampled(entries, subset, entries[0].result.task)
    return {name: estimate(one, name) for name, one in found.items()}


def fold_metrics(entries: Iterable[Entry], subset: str) -> dict[str, list[float]]:
    """Return every metric of each fold, in the order of the folds."""
    ordered = sorted(entries, key=lambda entry: (entry.config.split.fold, entry.config.seed))
    found = [entry.result.metrics[subset] for entry in ordered]
    return {name: [_defined(one[name]) for one in found] for name in found[0]}


def _defined(value: float | None) -> float:
    return NAN if value is None else value


def _sizes(entries: Sequence[Entry], subset: str) -> tuple[float, float]:
    data = [entry.result.data for entry in entries]
    return float(np.mean([one.train for one in data])), float(np.mean([one.count(subset) for one in data]))


def _pairs(candidates: list[Candidate], subset: str, task: Task, metric: str, kind: Kind) -> list[Pair]:
    """Test each pair of candidates, the better ranked first; of many candidates, each against the best only."""
    numbers = range(len(candidates))
    chosen = [(i, j) for i in numbers for j in numbers if i < j and (len(candidates) <= ALL_PAIRS or i == 0)]
    found: list[tuple[Candidate, Candidate, Difference]] = []
    for i, j in chosen:
        first, second = candidates[i], candidates[j]
        test = _by_folds if kind == "folds" else _by_images
        found.append((first, second, test(first, second, subset, task, metric)))
    corrected = holm([gap.p for *_, gap in found])
    made = []
    for (first, second, gap), p in zip(found, corrected, strict=True):
        better = gap.value < 0 if lower_is_better(metric) else gap.value > 0
        verdict = ("better" if better else "worse") if p < LEVEL else NO_DIFFERENCE
        if np.isnan(p):
            verdict = "undefined"
        tests = (NAN, NAN) if kind == "folds" else _typical_tests(first.typical, second.typical, subset)
        made.append(Pair(first.label, second.label, gap, p, verdict, *tests))
    return made


def _by_images(first: Candidate, second: Candidate, subset: str, task: Task, metric: str) -> Difference:
    differing = None
    if metrics_of(task)[metric].compute:
        one, other = ([entry.predicted(subset)[0] for entry in each.entries] for each in (first, second))
        differing = differing_patients(one, other, first.entries[0].patients(subset))
    return paired_difference(first._sampled[metric], second._sampled[metric], metric, differing)


def _by_folds(first: Candidate, second: Candidate, subset: str, task: Task, metric: str) -> Difference:
    """Test the difference over the folds that both have, each once."""
    by_fold = [
        {entry.config.split.fold: _defined(entry.result.metrics[subset][metric]) for entry in reversed(one.entries)}
        for one in (first, second)
    ]
    shared = sorted(set(by_fold[0]) & set(by_fold[1]))
    if not shared:
        return Difference(NAN)
    gaps = [by_fold[0][k] - by_fold[1][k] for k in shared]
    return difference_over_folds(gaps, *_sizes(first.entries, subset), metric)


def _typical_tests(first: Entry, second: Entry, subset: str) -> tuple[float, float]:
    """Return p of equal accuracy and of equal AUROC of the positive classes against the others."""
    (one, label), (other, _) = first.predicted(subset), second.predicted(subset)
    task = first.result.task
    (score, positive), (others, _) = (one_vs_rest(scores, label, task)[task.questions[0]] for scores in (one, other))
    area = delong(score, others, positive, first.patients(subset))
    return mcnemar(one.argmax(axis=1) == label, other.argmax(axis=1) == label), area.p
