"""Draw synthetic chest X-rays (phantoms), so that everything runs and is tested without a download.

They are JPEG files with names of the Kaggle release, and are read like real files. Their scores have no medical meaning.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from pneumonia.data.build_once import build_once
from pneumonia.data.sources.phantom_detection import INSIDE, MARK, RECORD, folder_name
from pneumonia.system.arrays import Floats, Floats32, Pixels
from pneumonia.system.console import track
from pneumonia.system.files import digest
from pneumonia.system.parallel import in_threads
from pneumonia.tasks import BACTERIA, LABELS, NORMAL, VIRUS

VERSION: Final = "3"  # raise it when a drawn pixel changes
SIDE: Final = 256  # pixels of the square on which the anatomy is drawn before it is stretched


@dataclass(frozen=True)
class Anatomy:
    """Constants of all images of one patient; lengths in pixels of the ``SIDE`` square."""

    centre: float
    lung_width: float
    lung_height: float
    apex: float
    gap: float
    heart: float
    ribs: int
    rib_slope: float
    aspect: float
    exposure: float
    grain: float


def load_phantoms(patients: int, seed: int, cache_dir: Path) -> Path:
    """Return a folder of phantoms in the Kaggle layout, drawn on first use.

    Patients are evenly divided between the classes; each has one to four images.

    Raises:
        StorageError: ``cache_dir`` can not be written.
    """
    key = digest([VERSION, patients, seed])
    root = cache_dir / folder_name(key) / INSIDE

    def build() -> list[Path]:
        images = list(_images(patients, seed))
        drawn = in_threads(lambda image: write_image(root / image[0], *image[1:]), images)
        for _ in track(drawn, len(images), "Drawing phantom X-rays"):
            pass
        (root / MARK).write_text("Drawn phantoms, no X-rays of people.\n", encoding="utf-8")
        return [root / name for name, *_ in images]

    lock, what, remedy = root.parent / "lock", "drawing the phantoms", "The phantoms are drawn again."
    build_once(root.parent / RECORD, key, build, lock=lock, what=what, remedy=remedy, built=[root])
    return root


def write_image(path: Path, label: str, patient_seed: int, take: int) -> None:
    """Draw one image into a JPEG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(".jpeg", draw(label, patient_seed, take), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    path.write_bytes(encoded.tobytes())


def draw(label: str, patient_seed: int, take: int) -> Pixels:
    """Draw one image, ``(256, W)`` uint8.

    NORMAL has clear lungs; BACTERIA one dense lobar consolidation; VIRUS diffuse patchy and reticular opacities on both
    sides. Exposure, position and noise vary by take, anatomy by patient; neither depends on the class.
    """
    body = np.random.default_rng([patient_seed, 0])
    rng = np.random.default_rng([patient_seed, 1, take])
    anatomy = _anatomy(body)
    film, lungs = _chest(anatomy, body)
    disease = np.random.default_rng([patient_seed, 2])  # the same illness in every take
    if label == BACTERIA:
        film += _consolidation(lungs, anatomy, disease)
    elif label == VIRUS:
        film += _diffuse(lungs, disease)
    elif label != NORMAL:
        raise ValueError(f"label {label!r} can't be drawn; choose one of {LABELS}")
    return _expose(film, anatomy, rng)


def _images(patients: int, seed: int) -> Iterator[tuple[str, str, int, int]]:
    """Yield name, label, patient seed and take of every image; a tenth of the patients is in ``test``, as in the release."""
    rng = np.random.default_rng(seed)
    serial = 0
    for number in range(patients):
        label = LABELS[number % 3]
        subset = "test" if number % 30 >= 27 else "train"
        for take in range(int(rng.integers(1, 5))):
            serial += 1
            if label == NORMAL:
                name = f"{subset}/NORMAL/IM-{number:04d}-{take + 1:04d}.jpeg"
            else:
                name = f"{subset}/PNEUMONIA/person{number}_{label.lower()}_{serial}.jpeg"
            yield name, label, seed * 1_000_003 + number, take


def _anatomy(rng: np.random.Generator) -> Anatomy:
    return Anatomy(
        centre=SIDE / 2 + rng.normal(0, 5),
        lung_width=rng.uniform(0.19, 0.25) * SIDE,
        lung_height=rng.uniform(0.54, 0.70) * SIDE,
        apex=rng.uniform(0.10, 0.18) * SIDE,
        gap=rng.uniform(0.07, 0.10) * SIDE,
        heart=rng.uniform(0.15, 0.20) * SIDE,
        ribs=int(rng.integers(7, 10)),
        rib_slope=rng.uniform(0.10, 0.30),
        aspect=rng.uniform(1.15, 1.5),
        exposure=rng.uniform(0.85, 1.15),
        grain=rng.uniform(2.0, 5.0),
    )


def _chest(anatomy: Anatomy, rng: np.random.Generator) -> tuple[Floats32, Floats32]:
    """Return the grey levels (0 black, 255 white) of a healthy chest, and a soft mask of the lungs from 0 to 1."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    across = x - anatomy.centre
    neck = np.maximum(0, (0.2 * SIDE - y) / (0.2 * SIDE))
    torso = _inside(1 - np.abs(across / (0.48 * SIDE)) ** 4 - 1.3 * neck**2 * (np.abs(across) > 0.17 * SIDE))
    lungs = np.zeros_like(x)
    for side in (-1, 1):
        outward = side * across  # distance from the spine on this side
        top, height = anatomy.apex, anatomy.lung_height * (1.0 if side < 0 else 1.05)
        down = np.clip((y - top) / height, 0, 1)
        inner = anatomy.gap * (1.3 - 0.4 * down)
        outer = anatomy.gap + 1.6 * anatomy.lung_width * (1 - (1 - down) ** 2.4) ** 0.55  # narrow at the apex
        dome = height * (1 - 0.20 * ((outward - 0.45 * (inner + outer)) / anatomy.lung_width) ** 2)
        edges = _inside((outward - inner) / 9) * _inside((outer - outward) / 7)
        lungs = np.maximum(lungs, edges * _inside((y - top) / 8) * _inside((top + dome - y) / 6))
    film = 20 + 150 * torso - 105 * lungs * torso
    film += 30 * np.exp(-((across / (0.05 * SIDE)) ** 2)) * (1 + 0.12 * np.sin(y / 5.5))  # spine and its discs
    heart_y, heart_x = anatomy.apex + 0.72 * anatomy.lung_height, 0.30 * anatomy.heart
    tilted = across - heart_x - 0.35 * (y - heart_y)
    heart = _inside(1 - (tilted / anatomy.heart) ** 2 - ((y - heart_y) / (1.25 * anatomy.heart)) ** 2, 0.3)
    film += 82 * heart * lungs + 10 * heart
    for number in range(anatomy.ribs):
        arch = anatomy.apex + (number + 0.6) * anatomy.lung_height / anatomy.ribs
        line = arch + anatomy.rib_slope * np.abs(across) + 0.0028 * across**2 - 10
        film += 23 * np.exp(-(((y - line) / 3.6) ** 2)) * _inside((np.abs(across) - 8) / 8) * torso
    hilum = np.exp(-(((np.abs(across) - anatomy.gap - 8) / 13) ** 2) - ((y - heart_y + 34) / 24) ** 2)
    film += 26 * hilum * (0.6 + 0.4 * _clouds(rng, 14))
    film += 6 * lungs * _clouds(rng, 9) + 8 * torso * _clouds(rng, 40)  # vessels; soft tissue
    return film.astype(np.float32), (lungs * (1 - 0.8 * heart)).astype(np.float32)


def _consolidation(lungs: Floats32, anatomy: Anatomy, rng: np.random.Generator) -> Floats32:
    """Draw one dense area in one lobe, with a soft upper and a sharper lower edge."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    side = rng.choice([-1, 1])
    cx = anatomy.centre + side * (anatomy.gap + anatomy.lung_width * rng.uniform(0.4, 1.0))
    cy = anatomy.apex + anatomy.lung_height * rng.uniform(0.2, 0.85)
    rx, ry = anatomy.lung_width * rng.uniform(0.45, 0.70), anatomy.lung_height * rng.uniform(0.14, 0.22)
    blob = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + 0.45 * _clouds(rng, 16)
    density = rng.uniform(60, 95) * lungs * _inside(1.1 - blob, 0.8) * (1 + 0.06 * _clouds(rng, 7))
    return np.asarray(density, dtype=np.float32)


def _diffuse(lungs: Floats32, rng: np.random.Generator) -> Floats32:
    """Draw patches and a fine net on both sides, without a single dense area."""
    patches = np.maximum(0, _clouds(rng, 13) - 0.25)
    net = np.exp(-((_clouds(rng, 5) / 0.28) ** 2))  # zero crossings of a random field form a net of lines
    strength = rng.uniform(1.1, 1.9)
    return np.asarray(strength * lungs * (17 * patches + 19 * net - 4), dtype=np.float32)


def _expose(film: Floats32, anatomy: Anatomy, rng: np.random.Generator) -> Pixels:
    """Apply position, exposure, grain and a burnt-in letter, then stretch to the aspect ratio."""
    turn: Floats = np.asarray(
        cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), rng.normal(0, 2.5), rng.uniform(0.94, 1.08)), dtype=np.float64
    )
    turn[:, 2:] += rng.normal(0, 6, (2, 1))
    moved = np.asarray(cv2.warpAffine(film, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE), dtype=np.float64)
    exposed = 255 * np.clip(moved / 255, 0, 1) ** (anatomy.exposure * rng.uniform(0.85, 1.18))
    exposed = (exposed - 128) * rng.uniform(0.8, 1.15) + 128 + rng.normal(0, 12)
    exposed += rng.normal(0, anatomy.grain, exposed.shape)
    width = round(SIDE * anatomy.aspect)
    out = np.clip(cv2.resize(exposed.astype(np.float32), (width, SIDE)), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        place = (int(rng.uniform(0.03, 0.10) * width), int(rng.uniform(0.10, 0.2) * SIDE))
        cv2.putText(out, "R", place, cv2.FONT_HERSHEY_SIMPLEX, 0.8, 235, 2, cv2.LINE_AA)
    return np.ascontiguousarray(out)


def _inside(distance: Floats32, softness: float = 0.25) -> Floats32:
    """Return 0 outside (negative distance) and 1 inside (positive), with a soft edge."""
    return np.asarray(1 / (1 + np.exp(-np.clip(distance / (softness * 0.5), -30, 30))), dtype=np.float32)


def _clouds(rng: np.random.Generator, scale: float) -> Floats32:
    """Return a smooth random field of mean 0 and deviation 1 whose blobs are about ``scale`` pixels wide."""
    coarse = rng.standard_normal((int(SIDE / scale) + 3, int(SIDE / scale) + 3)).astype(np.float32)
    field = np.asarray(cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)
