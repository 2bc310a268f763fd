"""Convert tables of predictions to arrays."""

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from pneumonia.system.arrays import Floats32, Ints

if TYPE_CHECKING:  # bundles use the types of this module without pandas
    import pandas as pd

PROBABILITY_PREFIX: Final = "prob_"  # of the columns with probabilities, before the class


def prediction_arrays(table: "pd.DataFrame", classes: tuple[str, ...]) -> tuple[Floats32, Ints]:
    """Return probabilities ``(N, K)`` and class indices ``(N,)`` of a table of predictions."""
    probability = np.array(table[[f"{PROBABILITY_PREFIX}{name}" for name in classes]], dtype=np.float32)
    index = {name: number for number, name in enumerate(classes)}
    return probability, np.array(table["label"].map(index), dtype=np.int64)


def predicted_classes(probability: NDArray[np.floating], classes: tuple[str, ...]) -> NDArray[np.str_]:
    """Return the name of the most probable class of each row ``(N, K)``; the first of equals."""
    named: NDArray[np.str_] = np.array(classes)[probability.argmax(axis=1)]
    return named
