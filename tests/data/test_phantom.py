import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from pneumonia.config.schema import DataConfig, PhantomConfig, SplitConfig
from pneumonia.data.decoded_images import load_images
from pneumonia.data.sources.phantom import draw
from pneumonia.data.sources.releases import find
from pneumonia.data.splits.assign import make_split
from pneumonia.tasks import LABELS


def test_phantoms_look_like_a_release(phantoms):
    found = find(phantoms)
    table = pd.DataFrame([(item.label, item.patient_id, item.source_split) for item in found], columns=["l", "p", "s"])
    assert set(table["l"]) == set(LABELS)
    assert table["p"].nunique() == 60
    assert table.groupby("p").size().max() > 1
    assert set(table["s"]) == {"train", "test"}
    assert table.groupby("p")["s"].nunique().max() == 1


@pytest.mark.parametrize("label", LABELS)
def test_phantom_repeats_by_seed_and_differs_by_take_and_patient(label):
    film = draw(label, 7, 0)
    assert film.dtype == np.uint8
    assert film.shape[0] == 256
    assert np.array_equal(film, draw(label, 7, 0))
    assert not np.array_equal(film, draw(label, 7, 1))
    assert film.std() > 20


def test_no_class_is_betrayed_by_brightness_or_size(cache_dir):
    rows = [
        (label, *(f(draw(label, 3 * n + k, 0)) for f in (np.mean, np.std, np.size)))
        for n in range(40)
        for k, label in enumerate(LABELS)
    ]
    table = pd.DataFrame(rows, columns=["label", "mean", "std", "size"])
    features = table[["mean", "std", "size"]].apply(lambda column: (column - column.mean()) / column.std())
    model = LogisticRegression().fit(features[::2], table["label"][::2])
    assert model.score(features[1::2], table["label"][1::2]) < 0.6


@pytest.mark.slow
def test_linear_model_stays_clearly_below_the_convolutional_one(compose, cache_dir, tmp_path):
    from pneumonia.training.train import train

    config = compose(small=False, runs_dir=tmp_path)
    images = load_images(DataConfig(phantom=PhantomConfig()), 75, cache_dir)
    subset = make_split(images.manifest, SplitConfig())["subset"].to_numpy()
    pixels = np.asarray(images.pixels).reshape(len(images.pixels), -1) / 255
    linear = LogisticRegression(C=0.01, max_iter=500).fit(pixels[subset == "train"], images.manifest["label"][subset == "train"])
    score = linear.score(pixels[subset == "val"], images.manifest["label"][subset == "val"])
    assert train(config).metrics["val"]["accuracy"] > score + 0.1
