"""Compare batch augmentation with albumentations: image by image for equal draws, and on average for its own draws."""

import cv2
import numpy as np
import pytest
import torch
from albumentations.augmentations.geometric import functional as geometric
from albumentations.augmentations.pixel import functional as pixel

from pneumonia.config.schema import AugmentationConfig, DataConfig, PhantomConfig, SplitConfig
from pneumonia.data.augmentation.augmenter import Augmenter, augmenter
from pneumonia.data.augmentation.torch_pipeline import (
    ANGLE,
    BLUR,
    BRIGHTNESS,
    COLUMNS,
    CONTRAST,
    FLIP,
    GAMMA,
    NOISE,
    ORDER,
    SCALE_X,
    SCALE_Y,
    SHIFT_X,
    SHIFT_Y,
    SIGMA,
    apply_draws,
    augment_batch,
    image_keys,
    uniforms,
)
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.decoded_images import load_images
from pneumonia.data.sources.phantom import draw
from pneumonia.data.splits.assign import make_split
from pneumonia.tasks import BACTERIA, NORMAL, VIRUS

STUDY = AugmentationConfig(flip=0.5, rotate_deg=10, brightness=0.1, contrast=0.1)
HIGH = AugmentationConfig(flip=0.5, rotate_deg=100, brightness=0.5, contrast=0.5)
CLINICAL = AugmentationConfig(rotate_deg=5, shift=0.04, zoom=0.06, contrast=0.1, gamma=0.15, noise=0.02, blur=0.2)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Return phantoms that are higher than wide, so that swapped axes are noticed."""
    drawn = [draw(label, seed, 0) for seed in range(8) for label in (NORMAL, VIRUS, BACTERIA)]
    return np.stack([cv2.resize(image, (40, 52), interpolation=cv2.INTER_AREA) for image in drawn])


@pytest.fixture(scope="module")
def draws(images) -> torch.Tensor:
    return uniforms(image_keys(3, 1, np.arange(len(images))), 0, COLUMNS)


def _within(draw: torch.Tensor, width: float) -> float:
    return (2 * float(draw) - 1) * width


def _affine(image, u, strengths):
    height, width = image.shape
    shift = {
        "x": int(_within(u[SHIFT_X], strengths.shift) * width),
        "y": int(_within(u[SHIFT_Y], strengths.shift) * height),
    }
    scale = {"x": 1 + _within(u[SCALE_X], strengths.zoom), "y": 1 + _within(u[SCALE_Y], strengths.zoom)}
    angle = _within(u[ANGLE], strengths.rotate_deg)
    centre = geometric.center((height, width))
    matrix = geometric.create_affine_transformation_matrix(shift, {"x": 0, "y": 0}, scale, angle, centre)
    return geometric.warp_affine(image[..., None], matrix, cv2.INTER_LINEAR, 0, cv2.BORDER_CONSTANT, image.shape)[..., 0]


def _jitter(image, u, strengths):
    steps = [
        lambda x: pixel.adjust_brightness_torchvision(x, 1 + _within(u[BRIGHTNESS], strengths.brightness)),
        lambda x: pixel.adjust_contrast_torchvision(x, 1 + _within(u[CONTRAST], strengths.contrast)),
    ]
    out = image[..., None]
    for step in steps if u[ORDER] < 0.5 else steps[::-1]:
        out = step(out)
    return out[..., 0]


def _blur(image, u, strengths):
    return cv2.GaussianBlur(image, (3, 3), 0.5 + 2.5 * float(u[SIGMA])) if u[BLUR] < strengths.blur else image


@pytest.mark.parametrize(
    ("strengths", "reference"),
    [
        (AugmentationConfig(flip=0.5), lambda x, u, s: x[:, ::-1] if u[FLIP] < s.flip else x),
        (AugmentationConfig(rotate_deg=100), _affine),
        (AugmentationConfig(shift=0.2), _affine),
        (AugmentationConfig(rotate_deg=20, shift=0.1, zoom=0.3), _affine),
        (AugmentationConfig(brightness=0.5, contrast=0.5), _jitter),
        (AugmentationConfig(contrast=1.0), _jitter),
        (AugmentationConfig(gamma=0.5), lambda x, u, s: pixel.gamma_transform(x, 1 + _within(u[GAMMA], s.gamma))),
        (AugmentationConfig(blur=0.5), _blur),
    ],
)
def test_same_draws_give_the_images_of_albumentations(strengths, reference, images, draws):
    ours = apply_draws(torch.from_numpy(images), draws, strengths, lambda: pytest.fail("no noise is wanted")).numpy()
    theirs = np.stack([reference(image, u, strengths) for image, u in zip(images, draws, strict=True)])
    apart = np.abs(ours.astype(int) - theirs)
    assert apart.max() <= 1
    assert apart.mean() < 0.02
    assert not np.array_equal(ours, images)


@pytest.mark.parametrize("strengths", [STUDY, HIGH, CLINICAL])
def test_draws_are_spread_as_those_of_albumentations(strengths, images):
    one = np.repeat(images[:1], 600, axis=0)
    ours, theirs = (Augmenter(strengths, kind)(one, 0, 0, np.arange(600)).astype(float) for kind in ("batch", "albumentations"))
    chance = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / 600) + 0.1
    apart = (ours.mean(axis=0) - theirs.mean(axis=0)) / chance
    assert np.abs(apart).max() < 6
    assert np.abs(ours.std(axis=0) - theirs.std(axis=0)).mean() < 0.05 * theirs.std(axis=0).mean() + 0.2
    for figure in (lambda x: x.mean(axis=(1, 2)), lambda x: x.std(axis=(1, 2))):
        mine, other = np.sort(figure(ours)), np.sort(figure(theirs))
        # The two-sample Kolmogorov-Smirnov distance, whose 0.1% point for 600 and 600 is 0.113.
        places = np.concatenate((mine, other))
        distance = np.abs(np.searchsorted(mine, places, "right") - np.searchsorted(other, places, "right")).max() / 600
        assert distance < 0.113


@pytest.mark.parametrize("kind", ["batch", "albumentations"])
def test_steps_draw_independently_of_each_other(kind):
    """A flip is independent of brightness and shift."""
    image = np.full((1, 24, 24), 100, dtype=np.uint8)
    image[0, 10:14, 2:6] = 140
    strengths = AugmentationConfig(flip=0.5, shift=0.15, brightness=0.3)
    out = Augmenter(strengths, kind)(np.repeat(image, 2000, axis=0), 0, 0, np.arange(2000)).astype(float)
    level = np.median(out[:, 8:16, 8:16], axis=(1, 2))
    bright = out > 1.2 * level[:, None, None]
    x, y = (np.average(np.indices((24, 24))[axis][None] + np.zeros_like(out), axis=(1, 2), weights=bright) for axis in (1, 0))
    flipped = x > 11.5
    shift = x - np.where(flipped, 19.5, 3.5)
    table = np.corrcoef(np.stack((flipped, level, shift, y))) - np.eye(4)
    assert np.abs(table).max() < 5 / 2000**0.5


def test_noise_is_normal_and_as_wide_as_it_was_drawn():
    grey = torch.full((300, 40, 40), 128, dtype=torch.uint8)
    keys = image_keys(0, 0, np.arange(300))
    out = augment_batch(grey, keys, AugmentationConfig(noise=0.1)).double() - 128
    wanted = uniforms(keys, 0, COLUMNS)[:, NOISE].double() * 0.1 * 255
    spread = out.std(dim=(1, 2))
    assert torch.allclose(spread, (wanted**2 + 1 / 12).sqrt(), rtol=0.08, atol=0.3)
    wide = out[wanted > 15]
    standard = (wide / wide.std(dim=(1, 2), keepdim=True)).flatten()
    assert float((standard**3).mean()) == pytest.approx(0, abs=0.03)
    assert float((standard**4).mean()) == pytest.approx(3, abs=0.06)


def test_generator_is_splitmix64():
    """Compare with the published first outputs for the seed 1234567 (Vigna's reference implementation)."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    found = uniforms(torch.tensor([1234567]), 0, 5)[0]
    assert found.tolist() == [np.float32((value >> 40) * 2.0**-24) for value in known]


def test_draws_are_uniform_and_independent():
    tables = [uniforms(image_keys(seed, epoch, np.arange(20_000)), 0, COLUMNS) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    numbers = torch.cat(tables, dim=1).double()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert torch.allclose(numbers.mean(dim=0), torch.tensor(0.5).double(), atol=5 * 0.2887 / 20_000**0.5)
    assert torch.allclose(numbers.std(dim=0), torch.tensor(1 / 12).double().sqrt(), atol=0.006)
    correlation = torch.corrcoef(numbers.T) - torch.eye(numbers.shape[1]).double()
    assert float(correlation.abs().max()) < 5 / 20_000**0.5
    shifted = torch.corrcoef(torch.stack((numbers[1:, 0], numbers[:-1, 0])))[0, 1]
    assert abs(float(shifted)) < 5 / 20_000**0.5


def test_images_draw_is_its_own_whatever_the_batch(images):
    rows = np.arange(len(images))
    whole = Augmenter(CLINICAL)(images, 7, 2, rows)
    halves = [Augmenter(CLINICAL)(images[part], 7, 2, rows[part]) for part in (slice(0, 5), slice(5, None))]
    assert np.array_equal(whole, np.concatenate(halves))
    assert not np.array_equal(whole, Augmenter(CLINICAL)(images, 7, 3, rows))
    assert not np.array_equal(whole, Augmenter(CLINICAL)(images, 8, 2, rows))


def test_nothing_switched_on_is_no_augmenter():
    assert augmenter(AugmentationConfig()) is None


@pytest.mark.parametrize("kind", ["batch", "albumentations"])
def test_changes_on_the_device_are_those_of_the_loader(kind, cache_dir, phantoms):
    found = load_images(DataConfig(phantom=PhantomConfig(60, 0)), 32, cache_dir)
    split = make_split(found.manifest, SplitConfig())
    data = XRayDataModule.from_images(found, split, batch_size=16, augmentation=CLINICAL, seed=5, augmenter=kind)
    at_once = list(data.loader("train", 5))
    data.on_device = kind == "batch"  # as where there is a GPU
    later = [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]
    assert all(torch.equal(a["image"], b["image"]) and a.keys() == b.keys() for a, b in zip(at_once, later, strict=True))
