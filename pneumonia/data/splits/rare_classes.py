"""Describe the classes that have too few patients for a split."""

import pandas as pd

from pneumonia.data.splits.deal import FEWEST
from pneumonia.data.splits.leaks import UNUSED
from pneumonia.errors import some
from pneumonia.tasks import SUBSETS, in_class_order


def rare_classes(manifest: pd.DataFrame, split: pd.DataFrame) -> list[str]:
    """Return a sentence or two for each class that a subset or fold lacks, or that has few patients."""
    columns = {"label": manifest["label"], "patient": manifest["patient_id"]}
    table = split[["subset", "fold"]].assign(**columns)[(split["subset"] != UNUSED).to_numpy()]
    subsets = [subset for subset in SUBSETS if (table["subset"] == subset).any()]
    folds = int(split["fold"].max()) + 1
    found = []
    for name in in_class_order(table["label"].unique()):
        own = table[table["label"] == name]
        patients = own["patient"].nunique()
        by_subset = own.groupby("subset")["patient"].nunique().reindex(subsets, fill_value=0)
        absent = [subset for subset in subsets if not by_subset[subset]]
        absent_folds = folds - own.loc[own["fold"] >= 0, "fold"].nunique()
        if patients >= FEWEST and not absent and not absent_folds:
            continue
        counts = ", ".join(f"{subset} {by_subset[subset]}" for subset in subsets)
        text = f"{name} has {patients} patients ({counts}), with {len(own)} images."
        if patients < FEWEST:
            text += " They are too few for the shares of the split, so metrics of this class are uncertain."
        if absent_folds:
            text += f" {absent_folds} of {folds} folds have no image of it."
        if absent:
            text += f" Metrics that need all classes are undefined on {some(absent)}."
        found.append(text)
    return found
