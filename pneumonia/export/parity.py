"""Compare a bundle with the trained model: every validation image, from the bytes of its file to its probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pneumonia.errors import ParityError
from pneumonia.export.contract import Parity
from pneumonia.export.runtime import Bundle
from pneumonia.system.arrays import Floats
from pneumonia.system.console import track

TOLERANCE: Final = 1e-4  # of a probability; usual differences are 1e-6
COARSE: Final = 0.05  # above the rounding of half precision, below the difference of another checkpoint


def unmeasured(images: int) -> Parity:
    """Return the parity of a contract before the comparison, with which no bundle can be loaded."""
    differences = {f"max_difference{suffix}": 1.0 for suffix in ("", "_calibrated", "_recorded")}
    changes = {f"changed_labels{suffix}": images for suffix in ("", "_calibrated", "_recorded")}
    return Parity.model_validate({"passed": False, "images": images, "tolerance": TOLERANCE, **differences, **changes})


def measure_parity(bundle: Bundle, files: Sequence[Path], trained: Floats, recorded: Floats, exact: bool = True) -> Parity:
    """Measure the differences of a bundle's predictions from others.

    Args:
        bundle: Predicts from the bytes of the files.
        files: ``(N,)`` validation images.
        trained: ``(N, K)`` uncalibrated probabilities of the trained model in torch, from the decoded images.
        recorded: ``(N, K)`` uncalibrated probabilities that the run recorded during training.
        exact: Whether the run was trained on a CPU in 32 bits or more. A GPU or half precision rounds differently, and its
            recorded probabilities have to agree within ``COARSE`` only.
    """
    predictions = [bundle.predict(path.read_bytes()) for path in track(files, len(files), "Comparing with the trained model")]
    raw = np.array([list(one.raw.values()) for one in predictions])
    calibrated = np.array([list(one.probabilities.values()) for one in predictions])
    pairs = ((raw, trained), (calibrated, bundle.calibrate(trained)), (raw, recorded))
    difference = [_max_difference(one, other) for one, other in pairs]
    changed = [int((one.argmax(axis=1) != other.argmax(axis=1)).sum()) for one, other in pairs]
    equal = [largest <= TOLERANCE and not labels for largest, labels in zip(difference, changed, strict=True)]
    if not exact:
        equal[2] = difference[2] <= COARSE
    return Parity(
        passed=all(equal),
        images=len(files),
        tolerance=TOLERANCE,
        max_difference=difference[0],
        max_difference_calibrated=difference[1],
        max_difference_recorded=difference[2],
        changed_labels=changed[0],
        changed_labels_calibrated=changed[1],
        changed_labels_recorded=changed[2],
    )


def check_parity(parity: Parity) -> None:
    """Refuse a bundle that differs from the trained model.

    Raises:
        ParityError: With the largest difference and the number of changed labels.
    """
    if parity.passed:
        return
    changed = max(parity.changed_labels, parity.changed_labels_calibrated, parity.changed_labels_recorded)
    exported = max(parity.max_difference, parity.max_difference_calibrated)
    from_record = max(parity.max_difference_recorded, float(parity.changed_labels_recorded))
    cause = (
        "the checkpoint does not reproduce the recorded predictions: train the run again with force=true"
        if from_record > max(parity.max_difference, float(parity.changed_labels)) and exported <= TOLERANCE
        else "the exported graph computes something else: export a run with another model, and report this one"
    )
    raise ParityError(
        f"Over {parity.images} validation images the bundle differs from the trained model by up to "
        f"{max(exported, parity.max_difference_recorded):.2g} in a probability (tolerance {TOLERANCE:g}) and changes the label "
        f"of {changed} images, so no bundle was written; {cause}."
    )


def _max_difference(one: Floats, other: Floats) -> float:
    """Return the largest absolute difference; 1 where one is undefined."""
    return float(np.nan_to_num(np.abs(one - other), nan=1).max().clip(max=1))
