"""Summarise the findings of an audit in sentences, for its page and the terminal."""

from typing import Final, Literal

from pneumonia.data.audit.records import Audit, Interval, Score
from pneumonia.system.console import format_value
from pneumonia.tasks import SUBSETS

SMALL: Final = 0.6  # AUROC up to which a difference is small; 0.75 is half way from chance to certain
LARGE: Final = 0.75
BETRAYS: Final = 0.9
KINDS: Final = {
    "metadata": "File metadata (width, height, bytes, mode)",
    "thumbnail": "Thumbnail (16 px, linear model)",
}


def conclusion(found: Audit) -> tuple[Literal["clean", "leak", "unknown"], str]:
    """Return the verdict, and a sentence about it."""
    named = [name for name in found.subsets if name in SUBSETS]
    if found.leaks:
        texts = []
        for leak in found.leaks:
            one, other = leak.subsets
            who = "patient or X-ray is" if leak.groups == 1 else "patients or X-rays are"
            share = f"{leak.share[other]:.1%} of the images of {other}"
            texts.append(f"{leak.groups} {who} in both {one} and {other} ({share})")
        return "leak", f"LEAK: {'; '.join(texts)}. Scores on these subsets are optimistic."
    if len(named) < 2:
        return "unknown", "The data are not divided into subsets, so nothing can leak yet; name a split to audit it."
    known = "" if found.patients_known else " The data name no patients: only copies of images could be found."
    return "clean", f"No leak found between {', '.join(named[:-1])} and {named[-1]}.{known}"


def remarks(found: Audit) -> list[str]:
    """Return further facts to know before trusting results on these data, the most serious first."""
    counts, sentences = found.duplicates, []
    if counts.label_conflicts:
        pair = found.pairs[0]
        sentences.append(
            f"Pairs of copies with two labels: {counts.label_conflicts}, for example {pair.first} ({pair.first_label}) "
            f"and {pair.second} ({pair.second_label}). One of each is wrong: correct it, or leave both out."
        )
    if counts.across_patients and found.patients_known:
        sentences.append(
            f"Pairs of copies under two patients: {counts.across_patients}. They are one child, or a name is wrong. Splits by "
            "group keep them together; splits by patient alone would separate them."
        )
    scores = [(found.baselines["metadata"][task], title) for task, title in found.tasks.items()]
    scores = sorted((item for item in scores if item[0].least_auroc > SMALL), key=lambda item: -item[0].least_auroc)
    if scores:
        strong = scores[0][0].least_auroc > BETRAYS
        values = "; ".join(
            f"{title}: accuracy {score.accuracy:.3f} against {score.largest_class:.3f} of the largest class, AUROC "
            f"{score.auroc:.3f}"
            for score, title in scores
        )
        sentences.append(
            f"Size and format of the files {'predict' if strong else 'partly predict'} the class without pixels ({values}). "
            "A model may learn that instead of lungs: read all images as grey, at one size, and report these baselines beside it."
        )
    for shift in found.shift:
        differing = {kind: score.auroc for kind, score in shift.scores.items() if score.least_auroc > SMALL}
        if differing:
            areas = " and ".join(f"by {kind} with AUROC {auroc:.2f}" for kind, auroc in differing.items())
            sentences.append(
                f"{' and '.join(shift.subsets)} differ {areas} (0.5 is chance): a score on one predicts little about the other."
            )
    if found.patients_known and found.images_without_patient:
        sentences.append(
            f"Images that name no patient: {found.images_without_patient}. Each counts as its own, and only copies of it can be "
            "found."
        )
    if found.skipped:
        sentences.append(f"Images that can't be read and were left out: {len(found.skipped)}.")
    return sentences


def likeness(score: Score) -> str:
    """Return how different two subsets are by their score, or the reason why it is undefined."""
    if score.auroc is None:
        return str(score.reason)
    if score.least_auroc <= 0.5:
        return "alike"
    if score.auroc <= SMALL:
        return "almost alike"
    return "different" if score.auroc <= LARGE else "very different"


def ranged(interval: Interval) -> str:
    """Format a value with its bounds."""
    value, low, high = interval
    return format_value(value, 3) + ("" if low is None else f" ({low:.3f} to {high:.3f})")
