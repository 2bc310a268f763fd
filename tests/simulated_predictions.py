"""Simulated predictions with a known truth: images of patients, models whose mistakes go together."""

import numpy as np

PRIOR = (0.26, 0.26, 0.48)


def simulate(
    patients: int, rng: np.random.Generator, skill: float = 1.3, models: int = 2, one_each: bool = False
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Probabilities ``(N, 3)`` of equally good models, labels, and patients of 1 to 8 images each.

    A patient's images share their label and part of the noise, and all models share part of it too.
    """
    size = np.ones(patients, dtype=int) if one_each else rng.geometric(0.5, patients).clip(1, 8)
    patient = np.repeat(np.arange(patients), size)
    images = len(patient)
    label = rng.choice(3, patients, p=PRIOR)[patient]
    common = rng.normal(0, 1, (patients, 3))[patient] + 0.6 * rng.normal(0, 1, (images, 3))
    predicted = []
    for _ in range(models):
        own = 0.7 * rng.normal(0, 1, (patients, 3))[patient] + rng.normal(0, 1, (images, 3))
        odds = np.exp(2 * skill * np.eye(3)[label] + common + 0.4 * own)
        predicted.append(odds / odds.sum(axis=1, keepdims=True))
    return predicted, label, patient.astype(object)
