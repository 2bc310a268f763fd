"""Holds data against what makes results on them false: leaks, copies, and shortcuts that are no lungs."""

import io
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pneumonia.console import track
from pneumonia.data.baselines import (
    Features,
    Score,
    cross_validated,
    forest,
    linear,
    metadata_features,
    thumbnail_features,
)
from pneumonia.data.duplicates import Groups, groups, near_pairs
from pneumonia.data.leaks import UNUSED
from pneumonia.data.manifest import manifest_sha256
from pneumonia.labels import TASKS
from pneumonia.parallel import in_threads

PARTS: Final = ("train", "val", "test")
QUANTITIES: Final = {
    "width": "width, pixels",
    "height": "height, pixels",
    "aspect": "width / height",
    "bytes": "file size, bytes",
    "quantisation": "JPEG luma quantisation, mean step",
    "brightness": "brightness, mean grey level",
    "contrast": "contrast, deviation of grey levels",
}
FEWEST: Final = 20  # groups that a part must have before anything is said of its shift
EXAMPLES: Final = 5


def audit(
    manifest: pd.DataFrame, pixels: NDArray[np.uint8], parts: pd.Series | None = None, name: str = "folders"
) -> dict[str, Any]:
    """All findings, as plain values for JSON; what can't be said is ``None`` or has a ``reason``.

    Args:
        manifest: Readable images, one row each, with ``phash``.
        pixels: ``(N, S, S)`` uint8, the same images.
        parts: ``(N,)`` part of each image; ``None`` takes the release's own folders.
        name: What the parts come from, for the report.

    Returns:
        ``leaks`` is empty where no group stands in two parts; the other keys are described where they are made.
    """
    manifest = manifest.reset_index(drop=True)
    part = (manifest["source_split"] if parts is None else parts).to_numpy(dtype=object)
    group = groups(manifest)
    pairs = copies(manifest, part)
    values = measured(manifest, pixels)
    return {
        "manifest_sha256": manifest_sha256(manifest),
        "images": len(manifest),
        "patients": int(manifest["patient_id"].nunique()),
        "patients_by_class": {str(k): int(v) for k, v in manifest.groupby("label")["patient_id"].nunique().items()},
        "patients_known": not manifest["patient_id"].str.startswith("unknown-").all(),
        "groups": len(np.unique(group)),
        "parts_from": name,
        "parts": _parts(manifest, part),
        "leaks": _leaks(manifest, part, group, pairs),
        "duplicates": _duplicates(manifest, pairs),
        "pairs": pairs.to_dict("records"),
        "quantities": _by_class(manifest, values),
        "modes": _modes(manifest),
        **_shortcuts(manifest, pixels, part, group),
    }


def copies(manifest: pd.DataFrame, part: NDArray[np.object_]) -> pd.DataFrame:
    """Pairs of images that are one X-ray: byte-identical ones, and near ones within 24 of 256 bits.

    Returns:
        One row a pair, nearest first: ``first``, ``second`` (image ids), ``kind`` (``exact``, ``near``), ``bits``, and the
        ``patients``, ``labels`` and ``parts`` of both.
    """
    found = near_pairs(manifest["phash"])
    first, second = found["first"].to_numpy(), found["second"].to_numpy()
    column = {key: manifest[key].to_numpy(dtype=object) for key in ("image_id", "sha256", "patient_id", "label")}
    same = column["sha256"][first] == column["sha256"][second]
    rows = [
        {
            "first": str(column["image_id"][a]),
            "second": str(column["image_id"][b]),
            "kind": "exact" if exact else "near",
            "bits": int(bits),
            "patients": [str(column["patient_id"][a]), str(column["patient_id"][b])],
            "labels": [str(column["label"][a]), str(column["label"][b])],
            "parts": [str(part[a]), str(part[b])],
        }
        for a, b, bits, exact in zip(first, second, found["bits"], same, strict=True)
    ]
    return pd.DataFrame(rows, columns=["first", "second", "kind", "bits", "patients", "labels", "parts"])


def measured(manifest: pd.DataFrame, pixels: NDArray[np.uint8]) -> pd.DataFrame:
    """The quantities of ``QUANTITIES`` for each image; NaN where a file has none (a PNG has no quantisation)."""
    steps = track(in_threads(_quantisation, manifest["path"].tolist()), len(manifest), "Reading JPEG tables")
    table = manifest[["width", "height", "bytes"]].astype(float)
    table["aspect"] = table["width"] / table["height"]
    table["quantisation"] = list(steps)
    table["brightness"] = pixels.reshape(len(pixels), -1).mean(axis=1)
    table["contrast"] = pixels.reshape(len(pixels), -1).std(axis=1)
    return table[list(QUANTITIES)]


def _quantisation(path: str) -> float:
    try:
        with Image.open(io.BytesIO(Path(path).read_bytes())) as image:
            tables = getattr(image, "quantization", None)
    except (OSError, ValueError, SyntaxError):
        return float("nan")  # DICOM, or another format that PIL does not read
    return float(np.mean(tables[0])) if tables else float("nan")


def _parts(manifest: pd.DataFrame, part: NDArray[np.object_]) -> dict[str, Any]:
    """Images by class, and patients, of each part."""
    found = {}
    for name in _in_order(part):
        inside = manifest[part == name]
        counts = {str(label): int(count) for label, count in inside["label"].value_counts().sort_index().items()}
        found[name] = {"images": len(inside), "patients": int(inside["patient_id"].nunique()), "classes": counts}
    return found


def _in_order(part: NDArray[np.object_]) -> list[str]:
    present = set(map(str, part))
    return [name for name in (*PARTS, UNUSED, "") if name in present] + sorted(present - {*PARTS, UNUSED, ""})


def _leaks(
    manifest: pd.DataFrame, part: NDArray[np.object_], group: Groups, pairs: pd.DataFrame
) -> list[dict[str, Any]]:
    """For each two parts that share something: how many groups and images, by patient and by copy, with examples."""
    patient = manifest["patient_id"].to_numpy(dtype=object)
    found = []
    for one, other in combinations([name for name in _in_order(part) if name not in {UNUSED, ""}], 2):
        shared = np.intersect1d(group[part == one], group[part == other])
        if not len(shared):
            continue
        inside = np.isin(group, shared) & np.isin(part, [one, other])
        children = sorted(set(patient[part == one]) & set(patient[part == other]))
        crossing = sum(set(row) == {one, other} for row in pairs["parts"])
        found.append(
            {
                "parts": [one, other],
                "groups": len(shared),
                "images": {name: int((inside & (part == name)).sum()) for name in (one, other)},
                "patients": len(children),
                "copies": int(crossing),
                "examples": list(map(str, children[:EXAMPLES] or sorted(set(patient[inside]))[:EXAMPLES])),
            }
        )
    return found


def _duplicates(manifest: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, int]:
    """Counts over all pairs; an exact group is a set of byte-identical files."""
    times = manifest["sha256"].value_counts()
    return {
        "exact_groups": int((times > 1).sum()),
        "exact_images": int(times[times > 1].sum()),
        "exact_pairs": int((pairs["kind"] == "exact").sum()),
        "near_pairs": int((pairs["kind"] == "near").sum()),
        "across_patients": int(sum(one != other for one, other in pairs["patients"])),
        "across_parts": int(sum(one != other for one, other in pairs["parts"])),
        "label_conflicts": int(sum(one != other for one, other in pairs["labels"])),
    }


def _by_class(manifest: pd.DataFrame, values: pd.DataFrame) -> dict[str, Any]:
    """Quartiles and the 5% and 95% points of each quantity by class; ``None`` where no image has it."""
    found: dict[str, Any] = {}
    for quantity in QUANTITIES:
        found[quantity] = {}
        for label in sorted(manifest["label"].unique()):
            column = values[quantity][manifest["label"] == label].dropna()
            points = None if column.empty else [float(v) for v in np.quantile(column, [0.05, 0.25, 0.5, 0.75, 0.95])]
            found[quantity][str(label)] = points
    return found


def _modes(manifest: pd.DataFrame) -> dict[str, dict[str, int]]:
    table = pd.crosstab(manifest["label"], manifest["mode"])
    return {str(label): {str(mode): int(count) for mode, count in row.items()} for label, row in table.iterrows()}


def _shortcuts(
    manifest: pd.DataFrame, pixels: NDArray[np.uint8], part: NDArray[np.object_], group: Groups
) -> dict[str, Any]:
    """``baselines`` by kind and task, and ``shift`` by pair of parts."""
    label = manifest["label"].to_numpy(dtype=object)
    kinds: dict[str, tuple[Features, Callable[[], Any]]] = {
        "metadata": (metadata_features(manifest), forest),
        "thumbnail": (thumbnail_features(pixels), linear),
    }
    named = [name for name in _in_order(part) if name not in {UNUSED, ""}]
    duels = list(combinations(named, 2))
    baselines: dict[str, dict[str, Score]] = {kind: {} for kind in kinds}
    shift: list[dict[str, Any]] = [{"parts": list(duel)} for duel in duels]

    def steps() -> Iterator[None]:
        for kind, (features, model) in kinds.items():
            for task in TASKS.values():
                if set(label) <= set(task.groups):
                    classes = np.array([task.groups[name] for name in label])
                    baselines[kind][task.name] = cross_validated(features, classes, group, model)
                yield
            for number, duel in enumerate(duels):
                rows = np.isin(part, duel)
                sizes = [len(np.unique(group[part == name])) for name in duel]
                if min(sizes) < FEWEST:
                    shift[number][kind] = {"reason": f"needs {FEWEST} patients in each part; there are {min(sizes)}"}
                else:
                    shift[number][kind] = cross_validated(features[rows], part[rows].astype(str), group[rows], model)
                yield

    count = len(kinds) * (len(TASKS) + len(duels))
    for _ in track(steps(), count, "Fitting baselines"):
        pass
    return {"baselines": baselines, "shift": shift}
