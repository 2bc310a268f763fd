"""Summarise the findings of an audit in sentences, for its page and the terminal."""

from typing import Any, Final

from pneumonia.system.console import figure
from pneumonia.tasks import SUBSETS, in_class_order

SMALL: Final = 0.6  # AUROC up to which a difference is small; 0.75 is half way from chance to certain
LARGE: Final = 0.75
BETRAYS: Final = 0.9
TASKS: Final = {"subtype": "normal, virus or bacteria", "pneumonia": "normal or pneumonia"}
KINDS: Final = {
    "metadata": "File metadata (width, height, bytes, mode)",
    "thumbnail": "Thumbnail (16 px, linear model)",
}


def conclusion(found: dict[str, Any]) -> tuple[str, str]:
    """Return ``clean``, ``leak`` or ``unknown``, and a sentence about it."""
    named = [name for name in found["subsets"] if name in SUBSETS]
    if found["leaks"]:
        texts = []
        for leak in found["leaks"]:
            one, other = leak["subsets"]
            who = "patient or X-ray is" if leak["groups"] == 1 else "patients or X-rays are"
            share = f"{leak['share'][other]:.1%} of the images of {other}"
            texts.append(f"{leak['groups']} {who} in both {one} and {other} ({share})")
        return "leak", f"LEAK: {'; '.join(texts)}. Scores on these subsets are optimistic."
    if len(named) < 2:
        return "unknown", "The data are not divided into subsets, so nothing can leak yet; name a split to audit it."
    known = "" if found["patients_known"] else " The data name no patients: only copies of images could be found."
    return "clean", f"No leak found between {', '.join(named[:-1])} and {named[-1]}.{known}"


def remarks(found: dict[str, Any]) -> list[str]:
    """Return further facts to know before trusting results on these data, the most serious first."""
    counts, said = found["duplicates"], []
    pair = found["pairs"][0] if found["pairs"] else {}
    if counts["label_conflicts"]:
        said.append(
            f"Pairs of copies with two labels: {counts['label_conflicts']}, for example {pair['first']} ({pair['first_label']}) "
            f"and {pair['second']} ({pair['second_label']}). One of each is wrong: correct it, or leave both out."
        )
    if counts["across_patients"] and found["patients_known"]:
        said.append(
            f"Pairs of copies under two patients: {counts['across_patients']}. They are one child, or a name is wrong. Splits by "
            "group keep them together; splits by patient alone would separate them."
        )
    scores = {title: found["baselines"]["metadata"][task] for task, title in TASKS.items()}
    scores = {title: score for title, score in scores.items() if at_least(score) > SMALL}
    if scores:
        strong = max(map(at_least, scores.values())) > BETRAYS
        values = "; ".join(
            f"{title}: accuracy {score['accuracy']:.3f} against {score['largest_class']:.3f} of the largest class, AUROC "
            f"{score['auroc']:.3f}"
            for title, score in sorted(scores.items(), key=lambda item: -at_least(item[1]))
        )
        said.append(
            f"Size and format of the files {'predict' if strong else 'partly predict'} the class without pixels ({values}). "
            "A model may learn that instead of lungs: read all images as grey, at one size, and report these baselines beside it."
        )
    for entry in found["shift"]:
        kinds = [kind for kind in KINDS if at_least(entry[kind]) > SMALL]
        if kinds:
            one, other = entry["subsets"]
            areas = " and ".join(f"by {kind} with AUROC {entry[kind]['auroc']:.2f}" for kind in kinds)
            said.append(
                f"{one} and {other} differ {areas} (0.5 is chance): a score on one predicts little about the other."
            )
    unknown = found["images_without_patient"] if found["patients_known"] else 0
    if unknown:
        said.append(
            f"Images that name no patient: {unknown}. Each counts as its own, and only copies of it can be found."
        )
    if found.get("skipped"):
        said.append(f"Images that can't be read and were left out: {len(found['skipped'])}.")
    return said


def likeness(score: dict[str, Any]) -> str:
    """Return how different two subsets are by their score, or the reason why it is undefined."""
    if score["auroc"] is None:
        return str(score["reason"])
    if at_least(score) <= 0.5:
        return "alike"
    if score["auroc"] <= SMALL:
        return "almost alike"
    return "different" if score["auroc"] <= LARGE else "very different"


def at_least(score: dict[str, Any]) -> float:
    """Return the lower bound of the AUROC; the AUROC itself without a bound, and 0 without either."""
    return float(next((score[key] for key in ("auroc_low", "auroc") if score[key] is not None), 0))


def ranged(score: dict[str, Any], name: str = "accuracy") -> str:
    """Format a value with its 95% bounds."""
    low, high = (score[end if name == "accuracy" else f"{name}_{end}"] for end in ("low", "high"))
    return figure(score[name], 3) + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def with_all(found: dict[str, Any]) -> dict[str, Any]:
    """Return the counts of each subset, and the total if there are several."""
    subsets: dict[str, Any] = found["subsets"]
    if len(subsets) < 2:
        return subsets
    labels = in_class_order(label for subset in subsets.values() for label in subset["classes"])
    counts = {label: sum(subset["classes"].get(label, 0) for subset in subsets.values()) for label in labels}
    return {**subsets, "all": {"images": found["images"], "patients": found["patients"], "classes": counts}}
