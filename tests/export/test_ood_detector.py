"""The out-of-distribution detector lets X-rays of its kind pass and flags what is none."""

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
def test_what_is_no_x_ray_is_flagged(name, bundle):
    answer = bundle.predict(_png(IMPOSTORS[name]))
    assert answer.out_of_distribution
    assert answer.ood_score > answer.ood_threshold


def test_x_rays_that_the_detector_never_saw_pass(bundle, phantoms):
    files = sorted((phantoms / "test").rglob("*.jpeg"))
    flagged = [bundle.predict(path.read_bytes()).out_of_distribution for path in files]
    assert len(files) > 15
    assert sum(flagged) <= 1


def test_an_x_ray_on_its_side_is_flagged_and_a_darker_one_is_not(bundle, phantoms):
    with Image.open(next((phantoms / "test").rglob("*.jpeg"))) as image:
        pixels = np.array(image.convert("L"))
    assert bundle.predict(_png(np.rot90(pixels).copy())).out_of_distribution
    assert not bundle.predict(_png((pixels * 0.5 + 20).astype(np.uint8))).out_of_distribution


def test_false_alarms_are_counted_on_patients_that_neither_prototypes_nor_threshold_know(phantoms):
    files = sorted((phantoms / "train").rglob("*.jpeg"))
    pixels = np.stack([decode(path.read_bytes(), 32) for path in files])
    patients = [read_name(path.stem).patient_id for path in files]
    fitted = fit_ood_detector(pixels, patients)
    assert fitted.fitted_on + fitted.measured_on == len(files)
    assert 0.1 < fitted.measured_on / len(files) < 0.35
    strange = pixels.copy()
    held_out = _held_out(pixels, patients)
    strange[held_out] = np.rot90(strange[held_out], axes=(1, 2))
    spoilt = fit_ood_detector(strange, patients)
    assert spoilt.ood_detector.threshold == fitted.ood_detector.threshold, (
        "the images that measure have no say in the threshold"
    )
    assert spoilt.false_alarms == spoilt.measured_on == len(held_out)


def _held_out(pixels: np.ndarray, patients: list[str]) -> np.ndarray:
    """Images that have no say in the detector: found by turning those of one patient after the other."""
    plain = fit_ood_detector(pixels, patients)
    found = []
    for name in sorted(set(patients)):
        rows = [row for row, patient in enumerate(patients) if patient == name]
        turned = pixels.copy()
        turned[rows] = np.rot90(turned[rows], axes=(1, 2))
        again = fit_ood_detector(turned, patients).ood_detector
        if again.threshold == plain.ood_detector.threshold and np.array_equal(
            again.prototypes, plain.ood_detector.prototypes
        ):
            found += rows
    return np.array(sorted(found))


def test_thumbnails_do_not_know_brightness_and_contrast():
    square = np.random.default_rng(1).integers(40, 120, (48, 48), dtype=np.uint8)
    plain, brighter = thumbnails(np.stack([square, square * 2]))
    assert brighter == pytest.approx(plain, abs=1e-2)
    assert float(plain @ plain) == pytest.approx(1)


def test_prototypes_find_the_directions_that_the_images_have():
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(50, 3)))[0].T
    points = np.repeat(directions, 4, axis=0) + rng.normal(0, 0.01, (12, 50))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    found = spherical_k_means(points)
    assert len(found) == 3
    assert (found @ directions.T).max(axis=1) == pytest.approx([1, 1, 1], abs=1e-3)


def test_the_file_of_a_detector_gives_the_same_detector_and_the_same_bytes(bundle):
    raw = bundle.ood_detector.to_bytes()
    again = OodDetector.from_bytes(raw, bundle.ood_detector.threshold)
    assert np.array_equal(again.prototypes, bundle.ood_detector.prototypes)
    assert again.to_bytes() == raw


def test_a_damaged_file_of_a_detector_is_refused():
    with pytest.raises(TamperedBundleError, match="The out-of-distribution detector of the bundle is damaged"):
        OodDetector.from_bytes(b"PK no zip", 0.5)


def test_too_few_patients_for_a_detector_are_named():
    with pytest.raises(BundleError, match="on 4 patients, too few"):
        fit_ood_detector(np.zeros((8, 32, 32), dtype=np.uint8), list("aabbccdd"))


def test_images_of_one_grey_level_alone_can_not_fit_a_detector():
    with pytest.raises(BundleError, match="nothing but one grey level"):
        fit_ood_detector(np.zeros((20, 32, 32), dtype=np.uint8), [str(number) for number in range(20)])


def test_a_blank_is_never_let_through_however_unlike_the_images_are():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 24, 24), dtype=np.uint8)
    pixels[::2] = pixels[0]
    fitted = fit_ood_detector(pixels, [str(number) for number in range(20)])
    assert 0 < fitted.ood_detector.threshold < 2
    assert fitted.ood_detector.score(np.zeros((24, 24), dtype=np.uint8)) > fitted.ood_detector.threshold


def test_the_score_of_a_training_image_is_near_zero_for_its_own_prototype():
    square = cv2.resize(np.random.default_rng(2).integers(0, 256, (6, 6), dtype=np.uint8), (48, 48))
    assert OodDetector(thumbnails(square[None]), 0.1).score(square) == pytest.approx(0, abs=1e-6)
