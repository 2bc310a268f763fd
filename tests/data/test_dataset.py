import numpy as np
import pytest
import torch

from pneumonia.config.schema import AugmentationConfig, DataConfig, PhantomConfig, SplitConfig
from pneumonia.data.augmentation.albumentations_pipeline import augment_images, build_pipeline, image_seeds
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.dataset import BatchSampler
from pneumonia.data.decoded_images import load_images
from pneumonia.data.splits.assign import make_split

CLINICAL = AugmentationConfig(rotate_deg=5, shift=0.04, zoom=0.06, contrast=0.1, gamma=0.15, noise=0.02, blur=0.2)


@pytest.fixture(scope="module")
def module(cache_dir, phantoms):
    images = load_images(DataConfig(phantom=PhantomConfig(60, 0)), 32, cache_dir)
    split = make_split(images.manifest, SplitConfig())

    def make(workers: int = 0, augmentation: AugmentationConfig = CLINICAL, seed: int = 5) -> XRayDataModule:
        return XRayDataModule.from_images(images, split, batch_size=16, augmentation=augmentation, seed=seed, num_workers=workers)

    return make


def _epoch(loader, epoch: int) -> list[dict[str, torch.Tensor]]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def _pixels(batches) -> torch.Tensor:
    return torch.cat([batch["image"] for batch in batches])


def test_epoch_has_every_training_image_once(module):
    data = module(augmentation=AugmentationConfig())
    batches = _epoch(data.loader("train", 5), 0)
    positions = torch.cat([batch["position"] for batch in batches])
    assert sorted(positions.tolist()) == list(range(len(data.positions("train"))))
    assert {len(batch["label"]) for batch in batches[:-1]} == {16}
    assert batches[0]["image"].shape[1:] == (1, 32, 32)
    rows = data.positions("train")[positions.numpy()]
    assert torch.equal(torch.cat([batch["label"] for batch in batches]), torch.from_numpy(data.labels[rows]))
    assert np.array_equal(_pixels(batches)[:, 0].numpy(), data.images.pixels[data.images.rows[rows]])


@pytest.mark.parametrize(("images", "batch_size"), [(n, size) for size in (1, 2, 3, 5, 8) for n in range(1, 18)])
def test_last_batch_of_one_is_merged(images, batch_size):
    batches = list(BatchSampler(images, batch_size, seed=3))
    sizes = [len(key.positions) for key in batches]
    assert sorted(np.concatenate([key.positions for key in batches])) == list(range(images))
    assert len(BatchSampler(images, batch_size, seed=3)) == len(sizes)
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    if batch_size > 1 and images > 1:
        assert 1 < sizes[-1] <= batch_size + 1
        assert (sizes[-1] == batch_size + 1) == (images % batch_size == 1)
    in_order = [len(key.positions) for key in BatchSampler(images, batch_size, seed=None)]
    assert in_order == [min(batch_size, images - start) for start in range(0, images, batch_size)]


def test_augmentation_differs_by_epoch_and_repeats_by_seed(module):
    alone, helped = module(0).loader("train", 5), module(2).loader("train", 5)
    first, second = _pixels(_epoch(alone, 0)), _pixels(_epoch(alone, 1))
    assert torch.equal(first, _pixels(_epoch(helped, 0)))
    assert torch.equal(second, _pixels(_epoch(helped, 1)))
    assert torch.equal(first, _pixels(_epoch(alone, 0)))
    assert not torch.equal(first, second)
    assert not torch.equal(first, _pixels(_epoch(module(0, seed=6).loader("train", 5), 0)))


def test_every_image_of_an_epoch_gets_its_own_draw():
    pipeline = build_pipeline(AugmentationConfig(rotate_deg=30, noise=0.1))
    same = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 32, 32)).astype(np.uint8), 64, axis=0)
    out = augment_images(pipeline, same, image_seeds(0, 0, np.arange(64)))
    assert len({image.tobytes() for image in out}) == 64


def test_validation_is_never_augmented(module):
    data = module()
    shown = _pixels(_epoch(data.loader("val"), 0))[:, 0].numpy()
    assert np.array_equal(shown, data.images.pixels[data.images.rows[data.positions("val")]])


def test_each_strength_does_what_its_name_says():
    grey = np.full((200, 32, 32), 100, dtype=np.uint8)
    seeds = image_seeds(0, 0, np.arange(200))
    means = augment_images(build_pipeline(AugmentationConfig(brightness=0.1)), grey, seeds).mean(axis=(1, 2))
    assert 89 <= means.min() < 93
    assert 107 < means.max() <= 111
    left = np.zeros((400, 8, 8), dtype=np.uint8)
    left[:, :, 0] = 255
    flipped = augment_images(build_pipeline(AugmentationConfig(flip=0.5)), left, image_seeds(0, 0, np.arange(400)))[:, 0, -1] > 0
    assert 0.4 < flipped.mean() < 0.6
    noise = augment_images(build_pipeline(AugmentationConfig(noise=0.02)), grey, seeds).std(axis=(1, 2))
    assert noise.max() <= 0.02 * 255 * 1.2
    assert noise.max() > 3
    assert build_pipeline(AugmentationConfig()) is None
