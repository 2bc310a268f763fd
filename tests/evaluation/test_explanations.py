"""Explanations of predictions: weights times image, and Grad-CAM."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pneumonia.cli import run
from pneumonia.data.images.decode import decode
from pneumonia.errors import ConfigError
from pneumonia.evaluation.explanations import contributions
from pneumonia.export.predict import predict_files
from pneumonia.models.checkpoints import load_classifier
from pneumonia.models.factory import build_classifier
from pneumonia.models.options import ClassifierOptions
from pneumonia.models.weight_images import HIGH, LOW, diverging, weights_picture
from pneumonia.training.train import train


@pytest.fixture(scope="module")
def perceptron_run(compose, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    overrides = ["model=perceptron", "task=pneumonia", "max_epochs=3", "normalisation=minmax"]
    result = train(compose(*overrides, runs_dir=runs))
    return runs / result.name / result.run_id


@pytest.fixture(scope="module")
def images(phantoms):
    return sorted(phantoms.rglob("*.jpeg"))[:3]


def test_colours_range_from_blue_over_white_to_red():
    colours = diverging(np.array([[-2.0, 0.0, 2.0, 1.0]], dtype=np.float32), 2.0)[0]
    assert colours[0].tolist() == LOW.tolist()
    assert colours[1].tolist() == [255, 255, 255]
    assert colours[2].tolist() == HIGH.tolist()
    assert colours[3].tolist() == np.rint((255 + HIGH) / 2).tolist()
    assert (diverging(np.zeros((2, 2), dtype=np.float32), 0.0) == 255).all()


def test_run_keeps_a_picture_of_its_weights_per_epoch(perceptron_run):
    pages = sorted((perceptron_run / "pictures" / "weights").iterdir())
    assert [page.name for page in pages] == ["epoch-001.png", "epoch-002.png", "epoch-003.png"]
    weight = load_classifier(perceptron_run / "checkpoints" / "last.ckpt").weight_images()["PNEUMONIA"]
    picture = np.asarray(Image.open(pages[-1])).astype(int)
    drawn = diverging(weight.numpy(), float(weight.abs().max())).astype(int)
    reddish = [((colours[..., 0] - colours[..., 2]) > 60).sum() for colours in (picture, drawn)]
    assert reddish[0] == reddish[1] * 36 > 0  # every weight is a square of six pixels a side


def test_family_without_weight_images_keeps_no_pictures(finished):
    assert not (finished / "pictures").exists()


def test_contributions_and_bias_sum_to_the_excitation(perceptron_run, images):
    classifier = load_classifier(perceptron_run / "checkpoints" / "best.ckpt")
    pixels = decode(images[0].read_bytes(), 32, "stretch")
    added = contributions(classifier, pixels)["PNEUMONIA"]
    excitation = classifier.unit.excitation(classifier.prepare(torch.from_numpy(pixels)[None, None]))
    assert added.sum() + classifier.unit.bias.item() == pytest.approx(excitation.item(), rel=1e-4, abs=1e-4)


def test_contributions_sum_to_logits_of_logistic_regression():
    node = {"_target_": "pneumonia.models.logistic_regression.LogisticRegression"}
    classifier = build_classifier(node, ClassifierOptions("subtype", image_size=8)).eval()
    torch.nn.init.normal_(classifier.linear.weight)
    torch.nn.init.normal_(classifier.linear.centre)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    added = [part.sum() for part in contributions(classifier, pixels).values()]
    logits = classifier(torch.from_numpy(pixels)[None, None])[0]
    assert (torch.tensor(added) + classifier.linear.intercept()).tolist() == pytest.approx(logits.tolist(), abs=1e-3)
    with_bias = [total + bias for total, bias in zip(added, classifier.weight_offsets().values(), strict=True)]
    assert with_bias == pytest.approx(logits.tolist(), abs=1e-3)


def test_contributions_sum_to_logits_of_a_linear_mlp():
    node = {"_target_": "pneumonia.models.mlp.MLP", "hidden": []}
    classifier = build_classifier(node, ClassifierOptions("pneumonia", image_size=8)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    added = {name: part.sum() for name, part in contributions(classifier, pixels).items()}
    logits = classifier(torch.from_numpy(pixels)[None, None])[0].tolist()
    offsets = classifier.weight_offsets()
    assert [added[name] + offsets[name] for name in ("NORMAL", "PNEUMONIA")] == pytest.approx(logits, abs=1e-3)


def test_page_of_weights_wraps_many_neurons():
    page = weights_picture({f"neuron {n}": torch.randn(20, 20) for n in range(11)}, "MLP, epoch 1 of 60")
    assert page.width < 2000
    assert page.height > 2 * 192  # two lines


def test_predict_draws_an_explanation_of_each_image(perceptron_run, images, tmp_path, capsys):
    assert run(["predict", str(perceptron_run), *map(str, images), "--json", "--explain", str(tmp_path / "why")]) == 0
    assert '"explanation"' in capsys.readouterr().out
    assert sorted(path.stem for path in (tmp_path / "why").iterdir()) == sorted(path.stem for path in images)


def test_explanations_of_equal_names_are_numbered(perceptron_run, images, tmp_path):
    again = tmp_path / images[0].name
    again.write_bytes(images[0].read_bytes())
    predicted = predict_files(perceptron_run, [images[0], again], tmp_path / "why")
    names = [Path(one.explanation).name for one in predicted]
    assert names == [f"{images[0].stem}.png", f"{images[0].stem}-2.png"]


def test_convolutional_family_is_explained_by_grad_cam(finished, images, tmp_path):
    (predicted,) = predict_files(finished, images[:1], tmp_path / "why")
    with Image.open(predicted.explanation) as drawn:
        assert drawn.width > 4 * 192, "the image, and beside it a heat map for each class"


def test_family_without_explanation_is_refused(compose, images, tmp_path):
    overrides = ("model=backbone", "model.name=vit_tiny_patch16_224", "image_size=32", "max_epochs=1")
    result = train(compose(*overrides, runs_dir=tmp_path / "runs"))
    with pytest.raises(ConfigError, match=r"Backbone has no feature map at 32 x 32.*Leave --explain"):
        list(predict_files(tmp_path / "runs" / "train" / result.run_id, images, tmp_path / "why"))
    assert not (tmp_path / "why").exists()
