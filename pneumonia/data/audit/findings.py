"""What an audit found, in sentences: for its page and for the terminal."""

from typing import Any, Final

from pneumonia.system.console import figure
from pneumonia.tasks import SUBSETS, in_class_order

SMALL: Final = 0.6  # AUROC up to which a difference is called small; 0.75 is half way from chance to always
LARGE: Final = 0.75
BETRAYS: Final = 0.9
TASKS: Final = {"subtype": "normal, virus or bacteria", "pneumonia": "normal or pneumonia"}
KINDS: Final = {
    "metadata": "File metadata (width, height, bytes, mode)",
    "thumbnail": "Thumbnail (16 px, linear model)",
}


def conclusion(found: dict[str, Any]) -> tuple[str, str]:
    """``clean``, ``leak`` or ``unknown``, and one sentence that says so."""
    named = [name for name in found["subsets"] if name in SUBSETS]
    if found["leaks"]:
        texts = []
        for leak in found["leaks"]:
            one, other = leak["subsets"]
            who = "patient or X-ray stands" if leak["groups"] == 1 else "patients or X-rays stand"
            texts.append(
                f"{leak['groups']} {who} in both {one} and {other} ({leak['share'][other]:.1%} of the images of {other})"
            )
        return "leak", f"LEAK: {'; '.join(texts)}. Scores on these subsets are optimistic."
    if len(named) < 2:
        return "unknown", "The data are not divided into subsets, so nothing can leak yet; name a split to audit it."
    known = "" if found["patients_known"] else " The data name no patients: only copies of images could be looked for."
    return "clean", f"No leak found between {', '.join(named[:-1])} and {named[-1]}.{known}"


def remarks(found: dict[str, Any]) -> list[str]:
    """What else a person must know before a result on these data is believed: one or two sentences each, gravest first."""
    counts, said = found["duplicates"], []
    pair = found["pairs"][0] if found["pairs"] else {}
    if counts["label_conflicts"]:
        said.append(
            f"Pairs of copies with two labels: {counts['label_conflicts']}, for example {pair['first']} ({pair['first_label']}) "
            f"and {pair['second']} ({pair['second_label']}). One of each is wrong: correct it, or leave both out."
        )
    if counts["across_patients"] and found["patients_known"]:
        said.append(
            f"Pairs of copies under two patients: {counts['across_patients']}. They are one child, or a name is wrong. Our "
            "splits keep them together; splits by patient alone would tear them."
        )
    told = {title: found["baselines"]["metadata"][task] for task, title in TASKS.items()}
    told = {title: score for title, score in told.items() if at_least(score) > SMALL}
    if told:
        betrayed = max(map(at_least, told.values())) > BETRAYS
        areas = "; ".join(
            f"{title}: accuracy {score['accuracy']:.3f} against {score['largest_class']:.3f} of the largest class, AUROC "
            f"{score['auroc']:.3f}"
            for title, score in sorted(told.items(), key=lambda item: -at_least(item[1]))
        )
        said.append(
            f"{'The files betray the class' if betrayed else 'Size and format of the files say something of the class'}, without "
            f"their pixels ({areas}). A model may learn that instead of lungs: read all images as grey, at one size, and show "
            "these figures beside its own."
        )
    for entry in found["shift"]:
        kinds = [kind for kind in KINDS if at_least(entry[kind]) > SMALL]
        if kinds:
            areas = " and ".join(f"by {kind} with AUROC {entry[kind]['auroc']:.2f}" for kind in kinds)
            said.append(
                f"{entry['subsets'][0]} and {entry['subsets'][1]} differ {areas} (0.5 is chance): a score on the one says "
                "little about the other."
            )
    some_unknown = found["images_without_patient"] if found["patients_known"] else 0
    if some_unknown:
        said.append(
            f"Images that name no patient: {some_unknown}. Each counts as its own, and only copies of it can be found."
        )
    if found.get("skipped"):
        said.append(f"Images that can't be read and were left out: {len(found['skipped'])}.")
    return said


def likeness(score: dict[str, Any]) -> str:
    """What the score of telling two subsets apart means; the reason where there is none."""
    if score["auroc"] is None:
        return str(score["reason"])
    if at_least(score) <= 0.5:
        return "alike"
    if score["auroc"] <= SMALL:
        return "almost alike"
    return "different" if score["auroc"] <= LARGE else "very different"


def at_least(score: dict[str, Any]) -> float:
    """The lower bound of the AUROC; the AUROC itself where there is no bound, and 0 where there is none either."""
    return float(next((score[key] for key in ("auroc_low", "auroc") if score[key] is not None), 0))


def ranged(score: dict[str, Any], name: str = "accuracy") -> str:
    """A figure with its 95% bounds."""
    low, high = (score[end if name == "accuracy" else f"{name}_{end}"] for end in ("low", "high"))
    return figure(score[name], 3) + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def with_all(found: dict[str, Any]) -> dict[str, Any]:
    """Counts of each subset, and of all subsets together where there are several."""
    subsets: dict[str, Any] = found["subsets"]
    if len(subsets) < 2:
        return subsets
    labels = in_class_order(label for subset in subsets.values() for label in subset["classes"])
    counts = {label: sum(subset["classes"].get(label, 0) for subset in subsets.values()) for label in labels}
    return {**subsets, "all": {"images": found["images"], "patients": found["patients"], "classes": counts}}
