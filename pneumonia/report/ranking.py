"""Write the section of a comparison: ranking, costs, and significant differences."""

from collections.abc import Sequence

import numpy as np

from pneumonia.metrics.classification import metric_label
from pneumonia.report.compare import ALL_PAIRS, Comparison
from pneumonia.report.formatting import (
    NO_DIFFERENCE,
    bounded,
    count,
    describe_intervals,
    listed,
    p_value,
    seconds,
    sentence,
)
from pneumonia.report.render import figures
from pneumonia.report.render.document import Block, Figure, Heading, Note, Table, Text
from pneumonia.tasks import ANY_POSITIVE, NORMAL, UNKNOWN_KIND, Task

MOST_DOTS = 15
SHOWN = ("f1_macro", "accuracy", "auroc")


def in_short(comparison: Comparison) -> str:
    """Summarize a comparison in two or three sentences."""
    best, metric = comparison.candidates[0], comparison.metric
    figure = bounded(*best.estimates[metric])
    if len(comparison.candidates) == 1:
        return f"**{best.label}** alone: {metric_label(metric)} {figure}; there is nothing to compare it with."
    beaten = [pair.second for pair in comparison.pairs if pair.first == best.label and pair.verdict == "better"]
    equal = [pair.second for pair in comparison.pairs if pair.first == best.label and pair.verdict == NO_DIFFERENCE]
    text = f"**{best.label}** stands first with {metric_label(metric)} {figure}."
    if equal:
        text += f" There is no significant difference to {_few(equal)}."
    if beaten:
        text += f" It is significantly better than {_few(beaten)}."
    return text


def _few(labels: Sequence[str], limit: int = 4) -> str:
    bold = [f"**{label}**" for label in labels[:limit]]
    return listed(bold) if len(labels) <= limit else f"{', '.join(bold)} and {len(labels) - limit} more"


def comparison_section(comparison: Comparison, number_: int) -> list[Block]:
    """Return the section of a comparison, without the closer look at its best model."""
    blocks: list[Block] = [Heading(comparison.title), Text(in_short(comparison))]
    if comparison.leaks:
        name = "Trained on" if comparison.other_data else "Leaky"
        blocks.append(Note(f"{name}: {comparison.leaks}. All values of this section are optimistic.", "bad"))
    if comparison.subset == "val" and not comparison.other_data:
        text = (
            "These are validation values, on which each run's best epoch was chosen; no run of this section was evaluated on the "
            "test split."
        )
        blocks.append(Note(text))
    if comparison.other_data:
        text = (
            f"These images are not of the data that the models were trained on, but of {comparison.other_data}. They are "
            "compared with nothing that was measured on other images."
        )
        blocks.append(Note(text))
    blocks += [_ranked(comparison, number_), *_members(comparison, number_)]
    blocks += [_drawn(comparison, number_), *_costs(comparison, number_)]
    return blocks + _pairwise(comparison, number_)


def _costs(comparison: Comparison, number_: int) -> list[Block]:
    """Plot training time against the metric, for three configurations and more."""
    metric = comparison.metric
    alone = [one for one in comparison.candidates if one.members == 1 and np.isfinite(one.estimates[metric][0])]
    times = [one.fit_s for one in alone]
    if not 3 <= len(alone) <= MOST_DOTS or min(times) <= 0:
        return []
    names, values = [one.label for one in alone], [one.estimates[metric][0] for one in alone]
    svg = figures.scatter(names, times, values, "mean training time, seconds", metric_label(metric))
    fastest = alone[int(np.argmin(times))].label
    caption = f"Mean training time against {metric_label(metric)}."
    return [Figure(f"costs-{number_}", svg, caption, f"{fastest} trains in the least time, {min(times):.1f} s.")]


def _ranked(comparison: Comparison, number_: int) -> Table:
    last = "fnr" if len(comparison.task.classes) == 2 else "loss"
    metrics = list(dict.fromkeys((comparison.metric, *SHOWN, last)))
    rows = [
        [
            str(rank),
            one.label,
            f"{one.members} as one" if one.members > 1 else str(one.trainings),
            *(bounded(*one.estimates[metric]) for metric in metrics),
            f"{one.members} x {seconds(one.fit_s)}" if one.members > 1 else seconds(one.fit_s),
        ]
        for rank, one in enumerate(comparison.candidates, 1)
    ]
    measured = f"{count(comparison.n, 'image')} of {count(comparison.patients, 'patient')}"
    caption = f"Ranked by {metric_label(comparison.metric)}: {measured}, 95% intervals"
    head = ["", "configuration", "trainings", *(metric_label(metric) for metric in metrics), "mean training time"]
    return Table(head, rows, caption, 2, f"ranking-{number_}")


def _members(comparison: Comparison, number_: int) -> list[Block]:
    """Return the table of the members of ensembles."""
    rows = []
    for candidate in comparison.candidates:
        for member in candidate.entries[0].joined:
            settings = [f"{key}={value}" for key, value in member.differs.items()]
            what = " ".join([member.family, *settings])
            fold = str(member.fold) if candidate.typical.config.split.method == "kfold" else "–"
            rows.append([candidate.label, what, str(member.seed), fold, f"`{member.run}`"])
    if not rows:
        return []
    head = ("ensemble", "member", "seed", "fold", "run")
    return [Table(head, rows, "What the ensembles are the mean of", 5, f"ensembles-{number_}")]


def _drawn(comparison: Comparison, number_: int) -> Figure:
    candidates = comparison.candidates[:30]
    names = [candidate.label for candidate in candidates]
    values, lows, highs = zip(*(candidate.estimates[comparison.metric] for candidate in candidates), strict=True)
    svg = figures.intervals(names, values, lows, highs, metric_label(comparison.metric))
    single = sum(candidate.once for candidate in comparison.candidates)
    drawn = describe_intervals([candidate.estimates[comparison.metric] for candidate in candidates])
    caption = f"{sentence(metric_label(comparison.metric))}, {drawn}"
    if not np.isfinite(lows).any():
        caption += "."
    elif comparison.kind == "folds":
        caption += " of Nadeau and Bengio over the folds."
    else:
        caption += ": which patients, and which seed where there are several trainings."
        if single:
            caption += f" {count(single, 'configuration')} trained once, without the variation between trainings."
    if len(candidates) < len(comparison.candidates):
        caption += f" The first {len(candidates)} of {len(comparison.candidates)} configurations."
    return Figure(f"ranking-{number_}", svg, caption, in_short(comparison).replace("**", ""))


def _pairwise(comparison: Comparison, number_: int) -> list[Block]:
    if not comparison.pairs:
        return []
    metric, folds = comparison.metric, comparison.kind == "folds"
    rows = [
        [
            pair.first,
            f"**{pair.verdict}**" if pair.verdict != NO_DIFFERENCE else NO_DIFFERENCE,
            pair.second,
            bounded(pair.difference.value, pair.difference.low, pair.difference.high),
            p_value(pair.difference.p),
            p_value(pair.corrected),
            *([] if folds else [p_value(pair.mcnemar), p_value(pair.auroc)]),
        ]
        for pair in comparison.pairs
    ]
    head = ["", "is", "", f"difference in {metric_label(metric)}", "p", "p, corrected"]
    head += [] if folds else ["McNemar, p", "DeLong, p"]
    how = (
        "The difference over the folds, by the corrected resampled t-test of Nadeau and Bengio (2003)."
        if folds
        else "The difference on the same patients, resampled together 2,000 times (paired cluster bootstrap), with the "
        "trainings' own spread where there are several; Student's test by Welch and Satterthwaite."
    )
    if len(rows) > 1:
        how += f" p is corrected by Holm over the {len(rows)} pairs; below 0.05 one is called better."
    else:
        how += " With one pair there is nothing to correct p for; below 0.05 one is called better."
    if len(comparison.candidates) > ALL_PAIRS:
        how += f" Of {len(comparison.candidates)} configurations each is compared with the first only."
    if not folds:
        how += (
            " McNemar's exact test (accuracy; it assumes independent images) and DeLong's test for clustered data (AUROC of "
            f"{_positive(comparison.task)}) are of the training nearest to each mean, uncorrected, and do not affect the verdict "
            "here."
        )
    if not folds and any(candidate.once for candidate in comparison.candidates):
        how += (
            " Where a configuration was trained once, the verdict is of that trained model, not of the configuration: another "
            "seed may differ."
        )
    blocks: list[Block] = [Heading("Which differences are real", 3), Text(how)]
    if 3 <= len(comparison.candidates) <= ALL_PAIRS:
        names = [candidate.label for candidate in comparison.candidates]
        verdicts = {(pair.first, pair.second): pair.verdict for pair in comparison.pairs}
        matrix = [[_seen(verdicts, one, other) for other in names] for one in names]
        caption = "Each row against each column: + better, − worse, = no significant difference."
        if "undefined" in verdicts.values():
            caption += " Blank off the diagonal: undefined."
        grid = figures.pairwise(names, matrix)
        blocks.append(Figure(f"pairs-{number_}", grid, caption, "The table below, as a grid."))
    return [*blocks, Table(head, rows, "Every pair: 0.05 is the limit of p, corrected", 3, f"pairs-{number_}")]


def _positive(task: Task) -> str:
    """Return the first question of a task in words: ``pneumonia against normal``."""
    known = {UNKNOWN_KIND: "pneumonia", NORMAL: "normal", ANY_POSITIVE: " or ".join(task.positive)}
    rest = [known.get(label, label) for label in task.negative]
    return f"{known.get(task.questions[0], task.questions[0])} against {' or '.join(rest) if len(rest) < 4 else 'all others'}"


def _seen(verdicts: dict[tuple[str, str], str], one: str, other: str) -> str:
    """Return the verdict on ``one``, in whichever order the pair was tested."""
    if one == other:
        return ""
    if (one, other) in verdicts:
        return verdicts[one, other]
    return {"better": "worse", "worse": "better"}.get(verdicts[other, one], verdicts[other, one])
