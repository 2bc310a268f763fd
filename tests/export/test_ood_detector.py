"""The out-of-distribution detector passes X-rays of its kind and flags other images."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from pneumonia.data.images.decode import decode
from pneumonia.data.sources.file_names import read_name
from pneumonia.errors import BundleError, TamperedBundleError
from pneumonia.export.ood_detector import OodDetector, fit_ood_detector, spherical_k_means, thumbnails


def _png(pixels: np.ndarray) -> bytes:
    raw = io.BytesIO()
    Image.fromarray(pixels).save(raw, "PNG")
    return raw.getvalue()


def _page() -> np.ndarray:
    page = Image.new("L", (600, 800), 255)
    draw = ImageDraw.Draw(page)
    for line in range(40):
        draw.text((40, 20 + 19 * line), "The quick brown fox jumps over the lazy dog. " * 2, fill=0)
    return np.array(page)


IMPOSTORS = {
    "noise": np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8),
    "black": np.zeros((200, 200), dtype=np.uint8),
    "white": np.full((200, 300), 255, dtype=np.uint8),
    "almost blank": np.full((200, 200), 128, dtype=np.uint8) + np.eye(200, dtype=np.uint8),
    "gradient": np.tile(np.linspace(0, 255, 256).astype(np.uint8), (256, 1)),
    "page": _page(),
    "temple": load_sample_images().images[0],
    "flower": load_sample_images().images[1],
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_other_images_are_flagged(name, bundle):
    prediction = bundle.predict(_png(IMPOSTORS[name]))
    assert prediction.out_of_distribution
    assert prediction.ood_score > prediction.ood_threshold


def test_unseen_x_rays_pass(bundle, phantoms):
    files = sorted((phantoms / "test").rglob("*.jpeg"))
    flagged = [bundle.predict(path.read_bytes()).out_of_distribution for path in files]
    assert len(files) > 15
    assert sum(flagged) <= 1


def test_rotated_x_ray_is_flagged_and_darker_one_is_not(bundle, phantoms):
    with Image.open(next((phantoms / "test").rglob("*.jpeg"))) as image:
        pixels = np.array(image.convert("L"))
    assert bundle.predict(_png(np.rot90(pixels).copy())).out_of_distribution
    assert not bundle.predict(_png((pixels * 0.5 + 20).astype(np.uint8))).out_of_distribution


def test_false_alarms_are_counted_on_held_out_patients(phantoms):
    files = sorted((phantoms / "train").rglob("*.jpeg"))
    pixels = np.stack([decode(path.read_bytes(), 32) for path in files])
    patients = [read_name(path.stem).patient_id for path in files]
    _, info = fit_ood_detector(pixels, patients)
    assert info.fitted_on + info.measured_on == len(files)
    assert 0.1 < info.measured_on / len(files) < 0.35
    held_out = _held_out(pixels, patients)
    rotated = pixels.copy()
    rotated[held_out] = np.rot90(rotated[held_out], axes=(1, 2))
    _, changed = fit_ood_detector(rotated, patients)
    assert changed.threshold == info.threshold, "held-out images do not change the threshold"
    assert changed.false_alarms == changed.measured_on == len(held_out)


def _held_out(pixels: np.ndarray, patients: list[str]) -> np.ndarray:
    """Images that do not change the detector, found by rotating those of one patient at a time."""
    plain, _ = fit_ood_detector(pixels, patients)
    found = []
    for name in sorted(set(patients)):
        rows = [row for row, patient in enumerate(patients) if patient == name]
        rotated = pixels.copy()
        rotated[rows] = np.rot90(rotated[rows], axes=(1, 2))
        again, _ = fit_ood_detector(rotated, patients)
        if again.threshold == plain.threshold and np.array_equal(again.prototypes, plain.prototypes):
            found += rows
    return np.array(sorted(found))


def test_thumbnails_ignore_brightness_and_contrast():
    square = np.random.default_rng(1).integers(40, 120, (48, 48), dtype=np.uint8)
    plain, brighter = thumbnails(np.stack([square, square * 2]))
    assert brighter == pytest.approx(plain, abs=1e-2)
    assert float(plain @ plain) == pytest.approx(1)


def test_prototypes_are_the_directions_of_the_images():
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(50, 3)))[0].T
    points = np.repeat(directions, 4, axis=0) + rng.normal(0, 0.01, (12, 50))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    found = spherical_k_means(points)
    assert len(found) == 3
    assert (found @ directions.T).max(axis=1) == pytest.approx([1, 1, 1], abs=1e-3)


def test_detector_file_round_trip(bundle):
    raw = bundle.ood_detector.to_bytes()
    again = OodDetector.from_bytes(raw, bundle.ood_detector.threshold)
    assert np.array_equal(again.prototypes, bundle.ood_detector.prototypes)
    assert again.to_bytes() == raw


def test_damaged_detector_file_is_refused():
    with pytest.raises(TamperedBundleError, match="The out-of-distribution detector of the bundle is damaged"):
        OodDetector.from_bytes(b"PK no zip", 0.5)


def test_too_few_patients_are_refused():
    with pytest.raises(BundleError, match="of 4 patients, too few"):
        fit_ood_detector(np.zeros((8, 32, 32), dtype=np.uint8), list("aabbccdd"))


def test_images_without_contrast_are_refused():
    with pytest.raises(BundleError, match="one grey level alone"):
        fit_ood_detector(np.zeros((20, 32, 32), dtype=np.uint8), [str(number) for number in range(20)])


def test_blank_image_is_always_flagged():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 24, 24), dtype=np.uint8)
    pixels[::2] = pixels[0]
    detector, _ = fit_ood_detector(pixels, [str(number) for number in range(20)])
    assert 0 < detector.threshold < 2
    assert detector.score(np.zeros((24, 24), dtype=np.uint8)) > detector.threshold


def test_image_of_a_prototype_scores_zero():
    square = cv2.resize(np.random.default_rng(2).integers(0, 256, (6, 6), dtype=np.uint8), (48, 48))
    assert OodDetector(thumbnails(square[None]), 0.1).score(square) == pytest.approx(0, abs=1e-6)
