"""Whether 95% intervals hold the truth in 95% of worlds, and equal models are called different in one of twenty at most."""

import numpy as np
import pytest
from simulated_predictions import simulate

from pneumonia.metrics.bootstrap import bootstrap_intervals, differing_patients, paired_difference, resampled_metrics
from pneumonia.metrics.classification import metrics_of, weighted_metrics
from pneumonia.metrics.significance import holm
from pneumonia.tasks import TASKS

TASK = TASKS["subtype"]
SIMULATIONS = 1000
METRICS = ("accuracy", "f1_macro", "recall_macro", "auroc", "loss", "recall_virus")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("one_each", [True, False], ids=["independent", "clustered"])
def test_intervals_cover_the_truth_at_their_level(one_each):
    (all_told, *_), label, _ = simulate(120_000, np.random.default_rng(99), models=1, one_each=one_each)
    whole = weighted_metrics(all_told, label, np.ones((1, len(label))), TASK)
    rng = np.random.default_rng(1)
    held = dict.fromkeys(METRICS, 0)
    for seed in range(SIMULATIONS):
        (predicted,), label, patient = simulate(350, rng, models=1, one_each=one_each)
        found = bootstrap_intervals(predicted, label, patient, TASK, seed)
        for name in METRICS:
            held[name] += found[name][0] <= whole[name][0] <= found[name][1]
    assert {name: count for name, count in held.items() if not 0.93 <= count / SIMULATIONS <= 0.97} == {}


def test_equal_models_are_rarely_called_different():
    rng = np.random.default_rng(2)
    false_claims = dict.fromkeys(("f1_macro", "accuracy", "auroc"), 0)
    for seed in range(SIMULATIONS):
        predicted, label, patient = simulate(300, rng, models=3)
        found = [resampled_metrics([one], label, patient, TASK, seed) for one in predicted]
        duels = ((0, 1), (0, 2), (1, 2))
        apart = [differing_patients([predicted[i]], [predicted[j]], patient) for i, j in duels]
        for metric in false_claims:
            p = [
                paired_difference(
                    found[i][metric], found[j][metric], metric, known if metrics_of(TASK)[metric].compute else None
                ).p
                for (i, j), known in zip(duels, apart, strict=True)
            ]
            false_claims[metric] += min(holm(p)) < 0.05
    assert {metric: count for metric, count in false_claims.items() if count / SIMULATIONS > 0.05} == {}
