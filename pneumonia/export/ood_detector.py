"""Is it a chest X-ray at all? The distance of a thumbnail from the nearest of 64 that stand for the training images.

A network must answer with one of its classes, whatever it is shown. The detector knows nothing of the classes, so it can say
that a photograph, noise or a blank is none of them.
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
from numpy.typing import NDArray

from pneumonia.errors import BundleError, TamperedBundleError
from pneumonia.export.reproducible_archive import reproducible_zip

SIDE: Final = 24  # pixels of a thumbnail: enough for where lungs, heart and shoulders are, too few for what they hold
PROTOTYPES: Final = 64
PER_PROTOTYPE: Final = 4  # images at least, so that no prototype is a single image
ROUNDS: Final = 50
FLAT: Final = 1.0  # grey levels of deviation below which a thumbnail shows nothing
FURTHEST: Final = 2.0
MEMBER: Final = "prototypes.npy"
LARGEST_FILE: Final = 2**20
ROUNDING: Final = 1e-3  # of the mean and the length of a prototype in single precision
QUANTILE: Final = 0.995
SLACK: Final = 1.02
DEVIATIONS: Final = 3.0
SHARES: Final = (0.6, 0.8)  # of the patients: up to here prototypes, up to there the threshold, the rest measures
Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class OodDetector:
    """The prototypes ``(P, SIDE * SIDE)``, each of mean 0 and length 1, and the distance from which an image is none of ours."""

    prototypes: Floats
    threshold: float

    def score(self, square: Pixels) -> float:
        """1 - cosine to the nearest prototype, of a grey square ``(H, W)``: 0 the same, 1 unlike, 2 the opposite or blank."""
        thumbnail = thumbnails(square[None])[0]
        if not thumbnail.any():
            return FURTHEST
        return float(1 - (self.prototypes @ thumbnail).max())

    def to_bytes(self) -> bytes:
        """An ``.npz`` file that depends on the prototypes alone."""
        array = io.BytesIO()
        np.lib.format.write_array(array, self.prototypes, allow_pickle=False)
        return reproducible_zip({MEMBER: array.getvalue()})

    @classmethod
    def from_bytes(cls, raw: bytes, threshold: float) -> "OodDetector":
        """The detector of a file.

        Raises:
            TamperedBundleError: The file is damaged.
        """
        try:
            prototypes = _prototypes(raw)
        except (ValueError, KeyError, OSError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
            raise TamperedBundleError(
                f"The out-of-distribution detector of the bundle is damaged ({error}). Export the run again."
            ) from error
        return cls(prototypes, threshold)


def _prototypes(raw: bytes) -> Floats:
    """The array of a file, read only once its header says that it is one, so that nothing large is ever made.

    Raises:
        ValueError: It is none that :meth:`OodDetector.to_bytes` writes.
    """
    with ZipFile(io.BytesIO(raw)) as archive:
        if archive.namelist() != [MEMBER] or archive.getinfo(MEMBER).file_size > LARGEST_FILE:
            raise ValueError(f"it must hold {MEMBER} alone, of at most {LARGEST_FILE:,} bytes")
        array = io.BytesIO(archive.read(MEMBER))
    np.lib.format.read_magic(array)
    shape, by_column, kind = np.lib.format.read_array_header_1_0(array)
    if len(shape) != 2 or not 1 <= shape[0] <= PROTOTYPES or shape[1] != SIDE * SIDE or kind != np.float32 or by_column:
        raise ValueError(
            f"its prototypes are {shape} of {kind}, and they must be (1 to {PROTOTYPES}, {SIDE * SIDE}) of float32"
        )
    values = np.frombuffer(array.read(), np.float32)
    if values.size != shape[0] * shape[1]:
        raise ValueError(f"it holds {values.size} numbers, and its header says {shape}")
    prototypes = values.reshape(shape)
    with np.errstate(over="ignore", invalid="ignore"):
        even = np.abs(prototypes.mean(axis=1)) < ROUNDING
        unit = np.abs(np.linalg.norm(prototypes, axis=1) - 1) < ROUNDING
    if not (even & unit).all():  # NaN and infinity are neither
        raise ValueError("not every prototype has mean 0 and length 1")
    return prototypes


@dataclass(frozen=True)
class Fitted:
    """A detector, how many images it was fitted on, and how many of ``measured_on`` others it flags."""

    ood_detector: OodDetector
    fitted_on: int
    false_alarms: int
    measured_on: int


def thumbnails(pixels: Pixels) -> Floats:
    """Grey squares ``(N, H, W)`` as ``(N, SIDE * SIDE)`` of mean 0 and length 1, whatever brightness and contrast.

    A thumbnail without contrast is all zero.
    """
    found = np.empty((len(pixels), SIDE * SIDE), dtype=np.float32)
    for number, square in enumerate(pixels):
        shrinks = min(square.shape) >= SIDE
        small = cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        found[number] = small.ravel()
    found -= found.mean(axis=1, keepdims=True)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    flat = length < FLAT * SIDE
    scaled: Floats = np.where(flat, 0, found / np.where(flat, 1, length)).astype(np.float32)
    return scaled


def fit_ood_detector(pixels: Pixels, patients: Sequence[str]) -> Fitted:
    """Prototypes from 60% of the patients, the threshold from another 20%, the false alarms on the rest.

    The threshold is the larger of the 99.5% quantile, two hundredths widened, and of three deviations above the mean of the
    scores' logarithms: the one follows the images where there are many, the other holds where there are few.

    Args:
        pixels: ``(N, H, W)`` uint8 of the training and validation splits.
        patients: ``(N,)``; which share a patient falls into depends on the name alone.

    Raises:
        BundleError: There are too few patients.
    """
    names = sorted(set(patients), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    if len(names) < 10:
        raise BundleError(
            f"The run was trained and validated on {len(names)} patients, too few to tell what an X-ray looks like (10 or more "
            "are needed for an out-of-distribution detector). Train on more data."
        )
    rank = {name: number / len(names) for number, name in enumerate(names)}
    place = np.array([rank[name] for name in patients])
    thumbs = thumbnails(pixels)
    shown = thumbs.any(axis=1)
    first, last = place < SHARES[0], place >= SHARES[1]
    if not (first & shown).any() or not (~first & ~last & shown).any():
        raise BundleError(
            "Too many images of the run show nothing but one grey level, so no detector can be fitted. Look at them."
        )
    prototypes = spherical_k_means(thumbs[first & shown])
    score = np.where(shown, 1 - (thumbs @ prototypes.T).max(axis=1), FURTHEST).astype(np.float64)
    middle = score[~first & ~last & shown]
    logs = np.log(np.maximum(middle, 1e-6))
    widest = max(np.quantile(middle, QUANTILE) * SLACK, np.exp(logs.mean() + DEVIATIONS * logs.std()))
    threshold = float(min(widest, np.nextafter(FURTHEST, 0)))  # so that a blank is never one of ours
    return Fitted(
        OodDetector(prototypes, threshold), int((~last).sum()), int((score[last] > threshold).sum()), int(last.sum())
    )


def spherical_k_means(thumbs: Floats, seed: int = 0) -> Floats:
    """Directions ``(P, D)`` of length 1 that stand for ``(N, D)`` others; the same images give the same ones.

    Source: Dhillon and Modha (2001), Concept decompositions for large sparse text data using clustering; started as Arthur and
    Vassilvitskii (2007), k-means++.
    """
    wanted = max(1, min(PROTOTYPES, len(thumbs) // PER_PROTOTYPE))
    rng = np.random.default_rng(seed)
    chosen = [int(rng.integers(len(thumbs)))]
    nearest = 1 - thumbs @ thumbs[chosen[0]]
    while len(chosen) < wanted:
        weight = np.maximum(nearest, 0).astype(np.float64) + 1e-12
        chosen.append(int(rng.choice(len(thumbs), p=weight / weight.sum())))
        nearest = np.minimum(nearest, 1 - thumbs @ thumbs[chosen[-1]])
    centres = thumbs[chosen]
    owner = np.full(len(thumbs), -1)
    for _ in range(ROUNDS):
        now = (thumbs @ centres.T).argmax(axis=1)
        if (now == owner).all():
            break
        owner = now
        for number in np.unique(owner):
            total = thumbs[owner == number].sum(axis=0, dtype=np.float64)
            centres[number] = total / max(float(np.linalg.norm(total)), 1e-12)
    return centres
