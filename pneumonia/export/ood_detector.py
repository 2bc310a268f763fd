"""Detect images that are no chest X-ray, by the distance of a thumbnail from prototypes of the training images.

A network returns one of its classes for any image. The detector knows nothing of the classes, so it can flag a photograph, noise
or a blank image.
"""

import hashlib
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from zipfile import BadZipFile, ZipFile

import cv2
import numpy as np

from pneumonia.errors import BundleError, TamperedBundleError
from pneumonia.export.contract import OodDetectorInfo
from pneumonia.export.reproducible_archive import reproducible_zip
from pneumonia.system.arrays import Floats32, Pixels

SIDE: Final = 24  # pixels of a thumbnail: enough to locate lungs, heart and shoulders, too few for findings
PROTOTYPES: Final = 64
IMAGES_PER_PROTOTYPE: Final = 4  # at least, so that no prototype is a single image
MIN_PATIENTS: Final = 10
MAX_ROUNDS: Final = 50
FLAT: Final = 1.0  # standard deviation in grey levels; a thumbnail below it shows nothing
MAX_SCORE: Final = 2.0
MEMBER: Final = "prototypes.npy"
MAX_BYTES: Final = 2**20
ROUNDING: Final = 1e-3  # of mean and length of a prototype in single precision
QUANTILE: Final = 0.995
MARGIN: Final = 1.02
DEVIATIONS: Final = 3.0
FRACTIONS: Final = (
    0.6,
    0.8,
)  # of the patients: prototypes up to the first, threshold up to the second, false alarms on the rest


@dataclass(frozen=True)
class OodDetector:
    """Prototypes ``(P, SIDE * SIDE)`` of mean 0 and length 1, and the score above which an image is out of distribution."""

    prototypes: Floats32
    threshold: float

    def score(self, square: Pixels) -> float:
        """Return the OOD score of a grey square ``(H, W)``: 1 minus the cosine to the nearest prototype, from 0 to 2.

        A square without contrast gets 2.
        """
        thumbnail = thumbnails(square[None])[0]
        return float(1 - (self.prototypes @ thumbnail).max()) if thumbnail.any() else MAX_SCORE

    def to_bytes(self) -> bytes:
        """Return a reproducible ``.npz`` file."""
        array = io.BytesIO()
        np.lib.format.write_array(array, self.prototypes, allow_pickle=False)
        return reproducible_zip({MEMBER: array.getvalue()})

    @classmethod
    def from_bytes(cls, raw: bytes, threshold: float) -> "OodDetector":
        """Read a file of :meth:`to_bytes`.

        Raises:
            TamperedBundleError: The file is damaged.
        """
        try:
            return cls(_read_prototypes(raw), threshold)
        except (ValueError, KeyError, OSError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
            raise TamperedBundleError(
                f"The out-of-distribution detector of the bundle is damaged ({error}). Export the run again."
            ) from error


def _read_prototypes(raw: bytes) -> Floats32:
    """Check the header before the array is read, so that a crafted file can't allocate much memory."""
    with ZipFile(io.BytesIO(raw)) as archive:
        if archive.namelist() != [MEMBER] or archive.getinfo(MEMBER).file_size > MAX_BYTES:
            raise ValueError(f"it must hold {MEMBER} alone, of at most {MAX_BYTES:,} bytes")
        array = io.BytesIO(archive.read(MEMBER))
    np.lib.format.read_magic(array)
    shape, by_column, kind = np.lib.format.read_array_header_1_0(array)
    if len(shape) != 2 or not 1 <= shape[0] <= PROTOTYPES or shape[1] != SIDE * SIDE or kind != np.float32 or by_column:
        raise ValueError(f"its prototypes are {shape} of {kind} instead of (1 to {PROTOTYPES}, {SIDE * SIDE}) of float32")
    values = np.frombuffer(array.read(), np.float32)
    if values.size != shape[0] * shape[1]:
        raise ValueError(f"it holds {values.size} numbers, and its header says {shape}")
    prototypes = values.reshape(shape)
    with np.errstate(over="ignore", invalid="ignore"):
        centred = np.abs(prototypes.mean(axis=1)) < ROUNDING
        unit = np.abs(np.linalg.norm(prototypes, axis=1) - 1) < ROUNDING
    if not (centred & unit).all():  # NaN and infinity are neither
        raise ValueError("not every prototype has mean 0 and length 1")
    return prototypes


def thumbnails(pixels: Pixels) -> Floats32:
    """Return grey squares ``(N, H, W)`` as ``(N, SIDE * SIDE)`` of mean 0 and length 1; all zero without contrast."""
    found = np.empty((len(pixels), SIDE * SIDE), dtype=np.float32)
    for number, square in enumerate(pixels):
        shrinks = min(square.shape) >= SIDE
        small = cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        found[number] = small.ravel()
    found -= found.mean(axis=1, keepdims=True)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    flat = length < FLAT * SIDE
    scaled: Floats32 = np.where(flat, 0, found / np.where(flat, 1, length)).astype(np.float32)
    return scaled


def fit_ood_detector(pixels: Pixels, patients: Sequence[str]) -> tuple[OodDetector, OodDetectorInfo]:
    """Fit prototypes on 60% of the patients and the threshold on another 20%; count false alarms on the rest.

    The threshold is the larger of the 99.5% quantile plus 2%, which follows many images, and of three standard deviations above
    the mean of the scores' logarithms, which holds for few.

    Args:
        pixels: ``(N, H, W)`` uint8 of the training and validation images.
        patients: ``(N,)``; the group of a patient depends on the name alone.

    Raises:
        BundleError: There are too few patients, or too many images without contrast.
    """
    names = sorted(set(patients), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    if len(names) < MIN_PATIENTS:
        raise BundleError(
            f"The run has training and validation images of {len(names)} patients, too few for an out-of-distribution detector "
            f"({MIN_PATIENTS} or more). Train on more data."
        )
    rank = {name: number / len(names) for number, name in enumerate(names)}
    position = np.array([rank[name] for name in patients])
    thumbs = thumbnails(pixels)
    visible = thumbs.any(axis=1)
    first, last = position < FRACTIONS[0], position >= FRACTIONS[1]
    middle = ~first & ~last & visible
    if not (first & visible).any() or not middle.any():
        raise BundleError(
            "Too many images of the run show one grey level alone, so no out-of-distribution detector can be fitted. Check them."
        )
    prototypes = spherical_k_means(thumbs[first & visible])
    score = np.where(visible, 1 - (thumbs @ prototypes.T).max(axis=1), MAX_SCORE).astype(np.float64)
    logs = np.log(np.maximum(score[middle], 1e-6))
    widest = max(np.quantile(score[middle], QUANTILE) * MARGIN, np.exp(logs.mean() + DEVIATIONS * logs.std()))
    threshold = float(min(widest, np.nextafter(MAX_SCORE, 0)))  # so that a blank image is always flagged
    return OodDetector(prototypes, threshold), OodDetectorInfo(
        threshold=threshold,
        prototypes=len(prototypes),
        side=SIDE,
        fitted_on=int((~last).sum()),
        false_alarms=int((score[last] > threshold).sum()),
        measured_on=int(last.sum()),
    )


def spherical_k_means(thumbs: Floats32, seed: int = 0) -> Floats32:
    """Return cluster centres ``(P, D)`` of length 1 of vectors ``(N, D)``; deterministic.

    Source: Dhillon and Modha (2001), Concept decompositions for large sparse text data using clustering; started as Arthur and
    Vassilvitskii (2007), k-means++.
    """
    wanted = max(1, min(PROTOTYPES, len(thumbs) // IMAGES_PER_PROTOTYPE))
    rng = np.random.default_rng(seed)
    chosen = [int(rng.integers(len(thumbs)))]
    nearest = 1 - thumbs @ thumbs[chosen[0]]
    while len(chosen) < wanted:
        weight = np.maximum(nearest, 0).astype(np.float64) + 1e-12
        chosen.append(int(rng.choice(len(thumbs), p=weight / weight.sum())))
        nearest = np.minimum(nearest, 1 - thumbs @ thumbs[chosen[-1]])
    centres = thumbs[chosen]
    owner = np.full(len(thumbs), -1)
    for _ in range(MAX_ROUNDS):
        now = (thumbs @ centres.T).argmax(axis=1)
        if (now == owner).all():
            break
        owner = now
        for number in np.unique(owner):
            total = thumbs[owner == number].sum(axis=0, dtype=np.float64)
            centres[number] = total / max(float(np.linalg.norm(total)), 1e-12)
    return centres
