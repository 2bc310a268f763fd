"""Is the bundle the trained model? Every validation image, from the bytes of its file to its probabilities, both ways."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pneumonia.errors import ParityError
from pneumonia.export.contract import ParityFacts
from pneumonia.export.runtime import Bundle
from pneumonia.system.console import track

TOLERANCE: Final = 1e-4  # of a probability; seen are 1e-6
COARSE: Final = 0.05  # more than half precision moves a probability, less than another checkpoint does
Floats = NDArray[np.float64]


def measure_parity(
    bundle: Bundle, files: Sequence[Path], trained: Floats, recorded: Floats, exact: bool = True
) -> ParityFacts:
    """How far a bundle's answers lie from others.

    Args:
        bundle: That answers from the bytes of the files.
        files: ``(N,)`` of the validation split.
        trained: ``(N, K)`` raw probabilities of the trained model in torch, from the decoded images that it was validated on.
        recorded: ``(N, K)`` that the run wrote when it was trained.
        exact: Whether that was on a CPU in 32 bits or more; a GPU, or half precision, rounds otherwise, and what it recorded is
            held to ``COARSE`` alone.
    """
    answers = [
        bundle.predict(path.read_bytes()) for path in track(files, len(files), "Comparing with the trained model")
    ]
    raw = np.array([list(answer.raw.values()) for answer in answers])
    shown = np.array([list(answer.probabilities.values()) for answer in answers])
    expected = bundle.calibrate(trained)
    largest = [_largest(one, other) for one, other in ((raw, trained), (shown, expected), (raw, recorded))]
    changed = [_changed(one, other) for one, other in ((raw, trained), (shown, expected), (raw, recorded))]
    alike = [gap <= TOLERANCE and not others for gap, others in zip(largest, changed, strict=True)]
    if not exact:
        alike[2] = largest[2] <= COARSE
    return ParityFacts(
        passed=all(alike),
        images=len(files),
        tolerance=TOLERANCE,
        largest=largest[0],
        largest_calibrated=largest[1],
        largest_recorded=largest[2],
        changed=changed[0],
        changed_calibrated=changed[1],
        changed_recorded=changed[2],
    )


def check_parity(parity: ParityFacts) -> None:
    """Refuses a bundle that is not the trained model.

    Raises:
        ParityError: With the figures.
    """
    if parity.passed:
        return
    changed = max(parity.changed, parity.changed_calibrated, parity.changed_recorded)
    recorded = max(parity.largest_recorded, float(parity.changed_recorded)) > max(parity.largest, float(parity.changed))
    cause = (
        "the checkpoint no longer gives what the run recorded: train it again with force=true"
        if recorded and max(parity.largest, parity.largest_calibrated) <= TOLERANCE
        else "the exported graph computes something else: export a run with another model, and report this one"
    )
    largest = max(parity.largest, parity.largest_calibrated, parity.largest_recorded)
    raise ParityError(
        f"Over {parity.images} validation images the bundle differs from the trained model by up to {largest:.2g} in a "
        f"probability (tolerance {TOLERANCE:g}) and tells {changed} of them otherwise, so no bundle was written; {cause}."
    )


def _largest(one: Floats, other: Floats) -> float:
    gaps = np.abs(one - other)
    return float(np.where(np.isnan(gaps), np.inf, gaps).max())


def _changed(one: Floats, other: Floats) -> int:
    return int((one.argmax(axis=1) != other.argmax(axis=1)).sum())
