"""Write the notes on a release: facts to know before training on it, in sentences."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pneumonia.data.images.dicom import PREFIX
from pneumonia.data.sources.file_names import UNKNOWN_PATIENT
from pneumonia.data.sources.folders import FolderTree
from pneumonia.errors import some
from pneumonia.tasks import SUBSETS, UNKNOWN_KIND, in_class_order

FEW: Final = 100  # images of a subset below which the 95% interval of a metric is ten points wide or more
ADVICE: Final = {
    "train": "",
    "val": ", too few to select models by; split=grouped and split=official make their own val",
    "test": ", too few for a reliable score",
}


def notes_on_tree(tree: FolderTree, root: Path) -> list[str]:
    """Describe where in the folder the release is, and which entries were left out."""
    notes = []
    if tree.top != root and tree.top.is_relative_to(root):
        notes.append(f"The release is in {tree.top.relative_to(root)}.")
    if tree.ignored:
        noun = _plural(len(tree.ignored), "entry", "entries")
        notes.append(f"{noun} outside of all subset and class folders left out: {some(tree.ignored, 3)}.")
    if tree.loops:
        notes.append(f"{_plural(len(tree.loops), 'link', 'links')} to a folder above left out: {some(tree.loops, 3)}.")
    if tree.junk:
        notes.append(f"{_plural(tree.junk, 'hidden or system entry', 'hidden or system entries')} ignored.")
    return notes


def notes_on_images(kind: str, images: Iterable[tuple[str, str, str]], own: bool = False) -> list[str]:
    """Describe what the label, patient and subset of each image mean for training; ``own`` for classes of a user's own task."""
    rows = list(images)
    labels = Counter(label for label, _, _ in rows)
    notes = []
    if labels[UNKNOWN_KIND] and not own:
        images_are = _plural(labels[UNKNOWN_KIND], "image is", "images are")
        notes.append(f"{images_are} pneumonia of an unknown kind: train with task=pneumonia; task=subtype has no class for them.")
    unknown = sum(patient.startswith(UNKNOWN_PATIENT) for _, patient, _ in rows)
    if unknown:
        whose = f"{unknown} of {len(rows)} images name no patient" if unknown < len(rows) else "No image names its patient"
        notes.append(
            f"{whose}: each counts as a patient of its own, so a split may put one child into two subsets and scores may be "
            "optimistic."
        )
    if any(patient.startswith(PREFIX) for _, patient, _ in rows):
        notes.append("Patients of DICOM files are digests of PatientID; the ID itself is not kept.")
    for subset in SUBSETS:
        inside = Counter(label for label, _, its_subset in rows if its_subset == subset)
        absent = [label for label in in_class_order(labels) if not inside[label]]
        few = inside.total() < FEW and subset != "train" and len(rows) > 10 * inside.total()
        if inside and (absent or few):
            lacks = f" and none of class {', '.join(absent)}" if absent else ""
            advice = ADVICE[subset] if few else ""
            notes.append(f"{subset} has {_plural(inside.total(), 'image', 'images')}{lacks}{advice}.")
    if kind == "MedMNIST":
        notes.append(
            "MedMNIST took its val at random from the release's train, so one child may be in both; no split can undo "
            "that without patients. Its test is the release's own."
        )
    if kind == "mixed":
        notes.append("Files follow several naming schemes; `pneumonia data audit` finds X-rays that occur under two names.")
    return notes


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
