"""Holds data against what makes results on them false: leaks, copies, and shortcuts that are no lungs."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.data.audit.baselines import shortcuts
from pneumonia.data.duplicates import groups, near_pairs
from pneumonia.data.images.decode import jpeg_quantisation
from pneumonia.data.manifest import manifest_sha256
from pneumonia.data.sources.file_names import UNKNOWN_PATIENT
from pneumonia.data.splits.leaks import UNUSED
from pneumonia.system.arrays import Ints
from pneumonia.system.console import track
from pneumonia.system.parallel import in_threads
from pneumonia.tasks import SUBSETS, in_class_order

QUANTITIES: Final = {
    "width": "width, pixels",
    "height": "height, pixels",
    "aspect": "width / height",
    "bytes": "file size, bytes",
    "quantisation": "JPEG luma quantisation, mean step",
    "brightness": "brightness, mean grey level",
    "contrast": "contrast, deviation of grey levels",
}
PAIR: Final = (
    *("first", "second", "kind", "bits"),
    *("first_patient", "second_patient", "first_label", "second_label", "first_subset", "second_subset"),
)
POINTS: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
EXAMPLES: Final = 5
MOST_PAIRS: Final = 10_000  # a thousand blank images alone are half a million pairs
BLOCK: Final = 1024  # images measured at once


def audit(
    manifest: pd.DataFrame,
    pixels: NDArray[np.uint8],
    subsets: pd.Series | None = None,
    name: str = "folders",
    folds: pd.Series | None = None,
) -> dict[str, Any]:
    """All findings, as plain values for JSON; what can't be said is ``None``, with a ``reason``.

    Args:
        manifest: Readable images, one row each, with ``phash``.
        pixels: ``(N, S, S)`` uint8, the same images.
        subsets: ``(N,)`` subset of each image; ``None`` takes the release's own folders.
        name: What the subsets come from, for the report.
        folds: ``(N,)`` fold of each image, -1 for none; the folds must not share anything either.

    Returns:
        ``leaks`` is empty where no group stands in two subsets; ``pairs`` holds the gravest ``MOST_PAIRS`` pairs of copies; the
        other keys are described where they are made.
    """
    manifest = manifest.reset_index(drop=True)
    subset = (manifest["source_split"] if subsets is None else subsets).to_numpy(dtype=object)
    fold = np.full(len(manifest), -1) if folds is None else folds.to_numpy()
    group = groups(manifest)
    pairs = copies(manifest, subset)
    unknown = manifest["patient_id"].str.startswith(UNKNOWN_PATIENT)
    named = [name for name in in_order(subset) if name not in {UNUSED, ""}]
    return {
        "manifest_sha256": manifest_sha256(manifest),
        "images": len(manifest),
        "patients": int(manifest["patient_id"].nunique()),
        "patients_by_class": {
            name: int(manifest["patient_id"][manifest["label"] == name].nunique())
            for name in in_class_order(manifest["label"])
        },
        "patients_known": not bool(unknown.all()),
        "images_without_patient": int(unknown.sum()),
        "groups": len(np.unique(group)),
        "subsets_from": name,
        "subsets": _subsets(manifest, subset),
        "leaks": leaks(manifest, subset, fold, group, pairs),
        "duplicates": _duplicates(manifest, pairs),
        "pairs": pairs.head(MOST_PAIRS).to_dict("records"),
        "quantities": _by_class(manifest, measured(manifest, pixels)),
        "modes": _modes(manifest),
        **shortcuts(manifest, pixels, subset, group, named, validate=subsets is not None),
    }


def copies(manifest: pd.DataFrame, subset: NDArray[np.object_]) -> pd.DataFrame:
    """Pairs of images that are one X-ray: byte-identical ones, and near ones within 24 of 256 bits.

    Returns:
        One row a pair: ``first``, ``second`` (image ids), ``kind`` (``exact``, ``near``), ``bits``, and under ``first_`` and
        ``second_`` the ``patient``, ``label`` and ``subset`` of both. The gravest are first: two labels, two subsets, two
        patients, then the nearest.
    """
    found = near_pairs(manifest["phash"])
    first, second = found["first"].to_numpy(), found["second"].to_numpy()
    image, sha256 = manifest["image_id"].to_numpy(dtype=object), manifest["sha256"].to_numpy(dtype=object)
    exact = sha256[first] == sha256[second]
    kind = np.where(exact, "exact", "near").astype(object)
    pairs = pd.DataFrame({"first": image[first], "second": image[second], "kind": kind, "bits": found["bits"]})
    grave = {}
    for key, column in (("label", manifest["label"]), ("subset", subset), ("patient", manifest["patient_id"])):
        values = np.asarray(column, dtype=object)
        pairs[f"first_{key}"], pairs[f"second_{key}"] = values[first], values[second]
        grave[key] = values[first] == values[second]
    order = np.lexsort([found["bits"], *(grave[key] for key in ("patient", "subset", "label"))])
    return pairs.iloc[order].reset_index(drop=True)[list(PAIR)]


def measured(manifest: pd.DataFrame, pixels: NDArray[np.uint8]) -> pd.DataFrame:
    """The quantities of ``QUANTITIES`` for each image; NaN where a file has none (a PNG has no quantisation)."""
    tables = list(track(in_threads(_quantisation, manifest["path"].tolist()), len(manifest), "Reading JPEG tables"))
    values = manifest[["width", "height", "bytes"]].astype(float)
    values["aspect"] = values["width"] / values["height"]
    values["quantisation"] = tables
    blocks = [pixels[start : start + BLOCK].reshape(-1, pixels[0].size) for start in range(0, len(pixels), BLOCK)]
    values["brightness"] = np.concatenate([block.mean(axis=1) for block in blocks])
    values["contrast"] = np.concatenate([block.std(axis=1) for block in blocks])
    return values[list(QUANTITIES)]


def _quantisation(path: str) -> float:
    """The JPEG quantisation of a file; NaN where it has none, or is gone since it was decoded."""
    try:
        step = jpeg_quantisation(path)
    except OSError:
        step = None
    return float("nan") if step is None else step


def in_order(subset: NDArray[np.object_]) -> list[str]:
    """The subsets that occur: train, val, test, then what is in no subset, then names of others."""
    present = set(map(str, subset))
    return [name for name in (*SUBSETS, UNUSED, "") if name in present] + sorted(present - {*SUBSETS, UNUSED, ""})


def _subsets(manifest: pd.DataFrame, subset: NDArray[np.object_]) -> dict[str, Any]:
    """Images by class, and patients, of each subset."""
    found = {}
    for name in in_order(subset):
        inside = manifest[subset == name]
        counts = {label: int((inside["label"] == label).sum()) for label in in_class_order(inside["label"])}
        found[name] = {"images": len(inside), "patients": int(inside["patient_id"].nunique()), "classes": counts}
    return found


def leaks(
    manifest: pd.DataFrame,
    subset: NDArray[np.object_],
    fold: NDArray[np.int64],
    group: Ints,
    pairs: pd.DataFrame,
) -> list[dict[str, Any]]:
    """For each two subsets (or folds) that share a group: how much, by patient and by copy, with examples.

    ``images`` and ``share`` (of the subset) count by subset what stands in shared groups; ``patients`` are those in both;
    ``copies`` are pairs that cross.
    """
    where = dict(zip(manifest["image_id"], fold, strict=True))
    folds = pd.DataFrame({key: pairs[key].map(where).astype("int64") for key in ("first", "second")})
    found = list(_shared(manifest, subset, group, pairs["first_subset"], pairs["second_subset"], {UNUSED, ""}, ""))
    return found + list(_shared(manifest, fold, group, folds["first"], folds["second"], {"-1"}, "fold "))


def _shared(
    manifest: pd.DataFrame,
    place: NDArray[Any],
    group: Ints,
    first: "pd.Series[Any]",
    second: "pd.Series[Any]",
    nowhere: set[str],
    prefix: str,
) -> Iterator[dict[str, Any]]:
    place, ends = place.astype(str), (first.astype(str).to_numpy(), second.astype(str).to_numpy())
    patient = manifest["patient_id"].to_numpy(dtype=object)
    for one, other in combinations([name for name in in_order(place) if name not in nowhere], 2):
        shared = np.intersect1d(group[place == one], group[place == other])
        if not len(shared):
            continue
        inside = np.isin(group, shared) & np.isin(place, [one, other])
        counts = {f"{prefix}{name}": int((inside & (place == name)).sum()) for name in (one, other)}
        children = sorted(set(patient[place == one]) & set(patient[place == other]))
        crossing = ((ends[0] == one) & (ends[1] == other)) | ((ends[0] == other) & (ends[1] == one))
        yield {
            "subsets": list(counts),
            "groups": len(shared),
            "images": counts,
            "share": {
                f"{prefix}{name}": counts[f"{prefix}{name}"] / int((place == name).sum()) for name in (one, other)
            },
            "patients": len(children),
            "copies": int(crossing.sum()),
            "examples": list(map(str, (children or sorted(set(patient[inside])))[:EXAMPLES])),
        }


def _duplicates(manifest: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, int]:
    """Counts over all pairs; an exact group is a set of byte-identical files."""
    times = manifest["sha256"].value_counts()
    used = ~(pairs["first_subset"].isin([UNUSED, ""]) | pairs["second_subset"].isin([UNUSED, ""]))
    return {
        "exact_groups": int((times > 1).sum()),
        "exact_images": int(times[times > 1].sum()),
        "exact_pairs": int((pairs["kind"] == "exact").sum()),
        "near_pairs": int((pairs["kind"] == "near").sum()),
        "across_patients": int((pairs["first_patient"] != pairs["second_patient"]).sum()),
        "across_subsets": int((used & (pairs["first_subset"] != pairs["second_subset"])).sum()),
        "label_conflicts": int((pairs["first_label"] != pairs["second_label"]).sum()),
    }


def _by_class(manifest: pd.DataFrame, values: pd.DataFrame) -> dict[str, Any]:
    """The 5, 25, 50, 75 and 95% points of each quantity by class; ``None`` where no image has it."""
    found: dict[str, Any] = {}
    for quantity in QUANTITIES:
        found[quantity] = {}
        for label in in_class_order(manifest["label"]):
            column = values[quantity][manifest["label"] == label].dropna()
            found[quantity][label] = None if column.empty else np.quantile(column, POINTS).tolist()
    return found


def _modes(manifest: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Files of each colour mode by class."""
    table = pd.crosstab(manifest["label"], manifest["mode"]).loc[in_class_order(manifest["label"])]
    return {str(label): {str(mode): int(count) for mode, count in row.items()} for label, row in table.iterrows()}
