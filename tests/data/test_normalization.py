import numpy as np
import pytest
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from pneumonia.config.names import NORMALISATIONS
from pneumonia.data.normalization import fit_scaling, histogram
from pneumonia.errors import ConfigError


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).gamma(3, 20, (40, 9, 9)).clip(3, 250).astype(np.uint8)


@pytest.mark.parametrize("method", NORMALISATIONS)
def test_normalisation_matches_numpy_on_training_images_alone(method, pixels):
    rows = np.arange(5, 31)
    scaling = fit_scaling(method, histogram(pixels, rows, block=7))
    values = pixels[rows].astype(np.float64)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    shift, scale = {
        "minus_one_one": (127.5, 127.5),
        "minmax": (values.min(), values.max() - values.min()),
        "zscore": (values.mean(), values.std()),
        "robust": (middle, high - low),
        "imagenet": (255 * np.mean(IMAGENET_DEFAULT_MEAN), 255 * np.mean(IMAGENET_DEFAULT_STD)),
    }[method]
    assert scaling.method == method
    assert scaling.shift == pytest.approx(shift, abs=1e-9)
    assert scaling.scale == pytest.approx(scale, abs=1e-9)


@pytest.mark.parametrize("count", range(1, 9))
def test_quartiles_agree_with_numpy_for_any_number_of_values(count):
    values = np.random.default_rng(count).integers(0, 256, count).astype(np.uint8)
    counts = np.bincount(values, minlength=256)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    if high > low:
        scaling = fit_scaling("robust", counts)
        assert (scaling.shift, scaling.scale) == pytest.approx((middle, high - low))


@pytest.mark.parametrize("method", ["minmax", "zscore", "robust"])
def test_flat_images_can_not_be_normalised_and_say_so(method):
    with pytest.raises(ConfigError, match=f"normalisation={method} can't be fitted.*Use normalisation=minus_one_one"):
        fit_scaling(method, histogram(np.full((3, 4, 4), 7, np.uint8), np.arange(3)))
