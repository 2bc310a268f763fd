"""Audit a data set for leaks between subsets, copies of images, and shortcuts that give the class away."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import combinations
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.data.audit.baselines import shortcuts
from pneumonia.data.audit.records import Audit, Duplicates, Pair, SharedGroups, SubsetCounts
from pneumonia.data.duplicates import groups, near_pairs
from pneumonia.data.images.decode import jpeg_quantisation
from pneumonia.data.manifest import manifest_sha256
from pneumonia.data.sources.file_names import UNKNOWN_PATIENT
from pneumonia.data.splits.leaks import UNUSED, in_subset_order
from pneumonia.system.arrays import Ints, Objects, Pixels
from pneumonia.system.console import track
from pneumonia.system.parallel import in_threads
from pneumonia.tasks import TASKS, Task, in_class_order

QUANTITIES: Final = {
    "width": "width, pixels",
    "height": "height, pixels",
    "aspect": "width / height",
    "bytes": "file size, bytes",
    "quantisation": "JPEG luma quantisation, mean step",
    "brightness": "brightness, mean grey level",
    "contrast": "contrast, deviation of grey levels",
}
PAIR: Final = tuple(field.name for field in fields(Pair))
POINTS: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
EXAMPLES: Final = 5
MOST_PAIRS: Final = 10_000  # a thousand blank images alone are half a million pairs
BLOCK: Final = 1024  # images measured at once


def audit(
    manifest: pd.DataFrame,
    pixels: Pixels,
    subsets: pd.Series | None = None,
    name: str = "folders",
    folds: pd.Series | None = None,
    tasks: Sequence[Task] = tuple(TASKS.values()),
) -> Audit:
    """Return all findings; ``pairs`` are the ``MOST_PAIRS`` most serious ones.

    Args:
        manifest: Readable images, one row each, with ``phash``.
        pixels: ``(N, S, S)``, the same images.
        subsets: ``(N,)`` subset of each image; ``None`` uses the release's own folders.
        name: Origin of the subsets, for the report.
        folds: ``(N,)`` fold of each image, -1 for none; folds must not share anything either.
        tasks: Whose classes are predicted from file metadata and thumbnails.
    """
    manifest = manifest.reset_index(drop=True)
    subset = (manifest["source_split"] if subsets is None else subsets).to_numpy(dtype=object)
    fold = np.full(len(manifest), -1) if folds is None else folds.to_numpy()
    label, patient, group = manifest["label"], manifest["patient_id"], groups(manifest)
    pairs = copies(manifest, subset)
    unknown = patient.str.startswith(UNKNOWN_PATIENT)
    quantities = _quantiles(manifest, measured(manifest, pixels))
    compared = [place for place in in_subset_order(subset) if place not in {UNUSED, ""}]
    baselines, shift = shortcuts(manifest, pixels, subset, group, compared, tasks, validate=subsets is not None)
    return Audit(
        manifest_sha256=manifest_sha256(manifest),
        images=len(manifest),
        patients=int(patient.nunique()),
        patients_by_class={name: int(patient[label == name].nunique()) for name in in_class_order(label)},
        patients_known=not bool(unknown.all()),
        images_without_patient=int(unknown.sum()),
        groups=len(np.unique(group)),
        subsets_from=name,
        subsets={place: _counts(manifest[subset == place]) for place in in_subset_order(subset)},
        leaks=leaks(manifest, subset, fold, group, pairs),
        duplicates=_duplicates(manifest, pairs),
        pairs=[Pair(*row) for row in pairs.head(MOST_PAIRS).itertuples(index=False)],
        quantities=quantities,
        modes=_modes(manifest),
        tasks={task.name: task.title for task in tasks},
        baselines=baselines,
        shift=shift,
    )


def copies(manifest: pd.DataFrame, subset: Objects) -> pd.DataFrame:
    """Find pairs of images that are one X-ray: byte-identical ones, and near ones within 24 of 256 bits.

    Returns:
        One row a pair with the columns ``PAIR``. The most serious are first: two labels, two subsets, two patients, then the
        nearest.
    """
    found = near_pairs(manifest["phash"])
    first, second = found["first"].to_numpy(), found["second"].to_numpy()
    image, sha256 = manifest["image_id"].to_numpy(dtype=object), manifest["sha256"].to_numpy(dtype=object)
    kind = np.where(sha256[first] == sha256[second], "exact", "near").astype(object)
    pairs = pd.DataFrame({"first": image[first], "second": image[second], "kind": kind, "bits": found["bits"]})
    same = {}
    for key, column in (("label", manifest["label"]), ("subset", subset), ("patient", manifest["patient_id"])):
        values = np.asarray(column, dtype=object)
        pairs[f"first_{key}"], pairs[f"second_{key}"] = values[first], values[second]
        same[key] = values[first] == values[second]
    order = np.lexsort([found["bits"], *(same[key] for key in ("patient", "subset", "label"))])
    return pairs.iloc[order].reset_index(drop=True)[list(PAIR)]


def measured(manifest: pd.DataFrame, pixels: Pixels) -> pd.DataFrame:
    """Measure the ``QUANTITIES`` of each image; NaN for a missing one (a PNG has no quantisation)."""
    tables = list(track(in_threads(_quantisation, manifest["path"].tolist()), len(manifest), "Reading JPEG tables"))
    values = manifest[["width", "height", "bytes"]].astype(float)
    values["aspect"] = values["width"] / values["height"]
    values["quantisation"] = tables
    blocks = [pixels[start : start + BLOCK].reshape(-1, pixels[0].size) for start in range(0, len(pixels), BLOCK)]
    values["brightness"] = np.concatenate([block.mean(axis=1) for block in blocks])
    values["contrast"] = np.concatenate([block.std(axis=1) for block in blocks])
    return values[list(QUANTITIES)]


def _quantisation(path: str) -> float:
    """Return the JPEG quantisation of a file; NaN if it has none, or was removed since it was decoded."""
    try:
        step = jpeg_quantisation(path)
    except OSError:
        step = None
    return float("nan") if step is None else step


def _counts(images: pd.DataFrame) -> SubsetCounts:
    classes = {label: int((images["label"] == label).sum()) for label in in_class_order(images["label"])}
    return SubsetCounts(len(images), int(images["patient_id"].nunique()), classes)


def leaks(manifest: pd.DataFrame, subset: Objects, fold: Ints, group: Ints, pairs: pd.DataFrame) -> list[SharedGroups]:
    """Describe each two subsets (or folds) that share a group."""
    fold_of = dict(zip(manifest["image_id"], fold, strict=True))
    folds = pd.DataFrame({key: pairs[key].map(fold_of).astype("int64") for key in ("first", "second")})
    found = list(_shared(manifest, subset, group, pairs["first_subset"], pairs["second_subset"], {UNUSED, ""}, ""))
    return found + list(_shared(manifest, fold, group, folds["first"], folds["second"], {"-1"}, "fold "))


def _shared(
    manifest: pd.DataFrame,
    place: NDArray[Any],
    group: Ints,
    first: "pd.Series[Any]",
    second: "pd.Series[Any]",
    left_out: set[str],
    prefix: str,
) -> Iterator[SharedGroups]:
    place, ends = place.astype(str), (first.astype(str).to_numpy(), second.astype(str).to_numpy())
    patient = manifest["patient_id"].to_numpy(dtype=object)
    for pair in combinations([name for name in in_subset_order(place) if name not in left_out], 2):
        one, other = pair
        shared = np.intersect1d(group[place == one], group[place == other])
        if not len(shared):
            continue
        inside = np.isin(group, shared) & np.isin(place, pair)
        counts = {f"{prefix}{name}": int((inside & (place == name)).sum()) for name in pair}
        patients = sorted(set(patient[place == one]) & set(patient[place == other]))
        between = ((ends[0] == one) & (ends[1] == other)) | ((ends[0] == other) & (ends[1] == one))
        yield SharedGroups(
            subsets=(f"{prefix}{one}", f"{prefix}{other}"),
            groups=len(shared),
            images=counts,
            share={f"{prefix}{name}": counts[f"{prefix}{name}"] / int((place == name).sum()) for name in pair},
            patients=len(patients),
            copies=int(between.sum()),
            examples=list(map(str, (patients or sorted(set(patient[inside])))[:EXAMPLES])),
        )


def _duplicates(manifest: pd.DataFrame, pairs: pd.DataFrame) -> Duplicates:
    times = manifest["sha256"].value_counts()
    used = ~(pairs["first_subset"].isin([UNUSED, ""]) | pairs["second_subset"].isin([UNUSED, ""]))
    return Duplicates(
        exact_groups=int((times > 1).sum()),
        exact_images=int(times[times > 1].sum()),
        exact_pairs=int((pairs["kind"] == "exact").sum()),
        near_pairs=int((pairs["kind"] == "near").sum()),
        across_patients=int((pairs["first_patient"] != pairs["second_patient"]).sum()),
        across_subsets=int((used & (pairs["first_subset"] != pairs["second_subset"])).sum()),
        label_conflicts=int((pairs["first_label"] != pairs["second_label"]).sum()),
    )


def _quantiles(manifest: pd.DataFrame, values: pd.DataFrame) -> dict[str, dict[str, list[float] | None]]:
    def points(column: "pd.Series[float]") -> list[float] | None:
        return None if column.empty else [float(point) for point in np.quantile(column, POINTS)]

    labels = in_class_order(manifest["label"])
    return {
        quantity: {label: points(values[quantity][manifest["label"] == label].dropna()) for label in labels}
        for quantity in QUANTITIES
    }


def _modes(manifest: pd.DataFrame) -> dict[str, dict[str, int]]:
    table = pd.crosstab(manifest["label"], manifest["mode"]).loc[in_class_order(manifest["label"])]
    return {str(label): {str(mode): int(count) for mode, count in row.items()} for label, row in table.iterrows()}
