"""Evaluate baselines that see only file metadata or thumbnails, on the images of an evaluation."""

import numpy as np
import pandas as pd

from pneumonia.data.audit.baselines import baseline_probabilities
from pneumonia.errors import some
from pneumonia.evaluation.evaluate_predictions import improvement, metrics_with_intervals
from pneumonia.evaluation.result import BASELINES, Baseline, Baselines
from pneumonia.evaluation.run_predictions import EvaluationCache, RunPredictions
from pneumonia.metrics.predictions import PROBABILITY_PREFIX
from pneumonia.system.files import digest


def evaluate_baselines(predictions: RunPredictions, table: pd.DataFrame, subset: str, cache: EvaluationCache) -> Baselines:
    """Fit baselines on the run's own training images, and compare a model, with its predictions in ``table``, with them."""
    own, data, task = predictions.own_data, predictions.data, predictions.run.task
    if own is None:
        return Baselines(predictions.why_no_own_data)
    train, evaluated = own.positions("train"), data.positions(subset)
    missing = [name for number, name in enumerate(task.classes) if not (own.labels[train] == number).any()]
    if missing:
        return Baselines(f"no training image shows {some(missing)}")
    found = {}
    for kind in BASELINES:
        hashes = (predictions.run.result.data.split_sha256, predictions.manifest_sha256)
        key = digest([kind, task.name, *hashes, subset, data.images.pixels.shape[1]])
        if key not in cache.baselines:
            manifests = [own.images.manifest.iloc[train], data.images.manifest.iloc[evaluated]]
            pixels = [own.images.pixels[own.rows("train")], data.images.pixels[data.rows(subset)]]
            probability = baseline_probabilities(
                kind,
                pd.concat(manifests, ignore_index=True),
                np.concatenate(pixels),
                own.labels[train],
                len(task.classes),
            )
            columns = {f"{PROBABILITY_PREFIX}{name}": probability[:, k] for k, name in enumerate(task.classes)}
            cache.baselines[key] = table[["image_id", "patient_id", "label"]].assign(**columns)
        baseline = cache.baselines[key]
        found[kind] = Baseline(metrics_with_intervals(baseline, task), improvement(table, baseline, task))
    return Baselines(None, **found)
