"""What a person should know about a release before training on it, in sentences."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pneumonia.data.images.dicom import PREFIX
from pneumonia.data.sources.file_names import UNKNOWN_PATIENT
from pneumonia.data.sources.folders import Tree
from pneumonia.errors import some
from pneumonia.tasks import BACTERIA, NORMAL, SUBSETS, UNKNOWN_KIND, VIRUS

FEW: Final = 100  # images of a subset below which a score says little: its 95% interval is ten points wide or more


def notes_on_tree(tree: Tree, root: Path) -> list[str]:
    """Where the release lay in the folder, and what was passed by."""
    notes = []
    if tree.top != root and tree.top.is_relative_to(root):
        notes.append(f"The release lies in {tree.top.relative_to(root)}.")
    if tree.passed_by:
        notes.append(
            f"{_count(tree.passed_by, 'entry', 'entries')} that are no subset and no class were left out: "
            f"{some(tree.passed_by, 3)}."
        )
    if tree.looped:
        links = _plural(len(tree.looped), "link", "links")
        notes.append(f"{links} to a folder above left out: {some(tree.looped, 3)}.")
    if tree.junk:
        notes.append(f"{_plural(tree.junk, 'hidden or system entry', 'hidden or system entries')} ignored.")
    return notes


def notes_on_images(kind: str, images: Iterable[tuple[str, str, str]]) -> list[str]:
    """What classes, patients and subsets mean for training.

    Args:
        kind: Of the release.
        images: Label, patient and subset of each image.
    """
    rows = list(images)
    labels = Counter(label for label, _, _ in rows)
    notes = [*_on_labels(labels), *_on_patients(rows), *_on_subsets(rows, set(labels))]
    if kind == "MedMNIST":
        notes.append(
            "MedMNIST cut its val at random from the release's train, so one child may stand in both; no split can undo "
            "that without patients. Its test is the release's own."
        )
    if kind == "mixed":
        notes.append("Several ways of naming stand side by side; `pneumonia data audit` finds X-rays that are in both.")
    return notes


def _on_labels(labels: Counter[str]) -> list[str]:
    if not labels[UNKNOWN_KIND]:
        return []
    return [
        f"{_plural(labels[UNKNOWN_KIND], 'image is', 'images are')} pneumonia of a kind that is not said: train with "
        "task=pneumonia; task=subtype has no class for them."
    ]


def _on_patients(rows: list[tuple[str, str, str]]) -> list[str]:
    notes = []
    unknown = sum(patient.startswith(UNKNOWN_PATIENT) for _, patient, _ in rows)
    if unknown:
        whose = (
            "No image names its patient" if unknown == len(rows) else f"{unknown} of {len(rows)} images name no patient"
        )
        notes.append(
            f"{whose}: each counts as a patient of its own, so a split may put one child into two subsets and scores may be "
            "optimistic."
        )
    if any(patient.startswith(PREFIX) for _, patient, _ in rows):
        notes.append("Patients of DICOM files are digests of PatientID; the ID itself is not kept.")
    return notes


def _on_subsets(rows: list[tuple[str, str, str]], labels: set[str]) -> list[str]:
    notes = []
    advice = {
        "val": ", too little to choose by; split=grouped and split=official cut their own val",
        "test": ", too little for a score to mean much",
    }
    for subset in SUBSETS:
        inside = Counter(label for label, _, its_subset in rows if its_subset == subset)
        if not inside:
            continue
        absent = [label for label in (NORMAL, VIRUS, BACTERIA, UNKNOWN_KIND) if label in labels and not inside[label]]
        few = inside.total() < FEW and subset != "train" and len(rows) > 10 * inside.total()
        if absent or few:
            lacks = f" and none of class {', '.join(absent)}" if absent else ""
            notes.append(
                f"{subset} has {_plural(inside.total(), 'image', 'images')}{lacks}{advice[subset] if few else ''}."
            )
    return notes


def _count(items: list[str], one: str, many: str) -> str:
    return _plural(len(items), one, many)


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
