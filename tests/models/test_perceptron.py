"""Rosenblatt's perceptron against a textbook loop, and against what no perceptron can do."""

import numpy as np
import pytest
import torch
from builders import few_images, quick_fit

from pneumonia.data.dataset import BatchSampler
from pneumonia.data.normalization import Scaling
from pneumonia.errors import ConfigError
from pneumonia.models.config_checks import check_family
from pneumonia.models.factory import build_classifier
from pneumonia.models.options import ClassifierOptions

DYADIC = Scaling("minmax", 0.0, 256.0)  # every sum of such inputs is exact in float32
NODE = {"_target_": "pneumonia.models.perceptron.Perceptron"}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.25}


def _textbook(images, labels, order, rate):
    """w += lr * (target - step(w . x + b)) * x, one image after the other, as it is printed in textbooks."""
    weight, bias = np.zeros(images[0].size), 0.0
    for epoch in order:
        for number in epoch:
            x = images[number].ravel() / 256
            answer = 1 if weight @ x + bias > 0 else 0
            error = labels[number] - answer
            weight = weight + rate * error * x
            bias = bias + rate * error * 1
    return weight, bias


def _draw(count=40, side=4, seed=0):
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 2
    pixels = rng.integers(0, 256, (count, side, side)).astype(np.uint8)
    pixels[:, 0, 0] = np.where(label, 200, 60) + rng.integers(-60, 56, count)
    return pixels, label, ["VIRUS" if one else "NORMAL" for one in label]


@pytest.mark.parametrize(("online", "batch_size"), [(True, 40), (True, 7), (True, 1), (False, 1)])
def test_it_equals_the_textbook_loop_exactly(online, batch_size):
    pixels, label, names = _draw()
    setup = ClassifierOptions("pneumonia", image_size=4, scaling=DYADIC, optimizer=SGD)
    classifier = build_classifier({**NODE, "online": online}, setup)
    quick_fit(classifier, few_images(pixels, names, batch_size=batch_size, seed=3), 5)
    order = [np.random.default_rng([3, epoch]).permutation(len(pixels)) for epoch in range(5)]
    weight, bias = _textbook(pixels, label, order, 0.25)
    assert np.abs(weight).max() > 0
    assert classifier.unit.weight.detach().numpy().tolist() == weight.tolist()
    assert classifier.unit.bias.detach().tolist() == [bias]


def test_in_batches_it_follows_the_gradient_of_the_perceptron_criterion():
    pixels, label, names = _draw()
    setup = ClassifierOptions("pneumonia", image_size=4, scaling=DYADIC, optimizer=SGD)
    classifier = build_classifier({**NODE, "online": False}, setup)
    quick_fit(classifier, few_images(pixels, names, batch_size=16, seed=3), 4)
    weight, bias = torch.zeros(16), torch.zeros(1)
    batches = BatchSampler(len(pixels), 16, 3)
    for epoch in range(4):
        batches.set_epoch(epoch)
        for _, positions, _ in batches:
            w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
            x = torch.from_numpy(pixels[positions].reshape(-1, 16) / 256).float()
            sign = torch.from_numpy(2.0 * label[positions] - 1).float()
            excitation = x @ w + b
            # The criterion has a kink at zero excitation, where step(0) = 0 makes a mistake of positives alone.
            wrong = torch.where(excitation == 0, sign > 0, sign * excitation < 0)
            (-(sign * excitation)[wrong].sum() / len(positions)).backward()
            weight, bias = weight - 0.25 * w.grad, bias - 0.25 * b.grad
    assert classifier.unit.weight.detach().numpy() == pytest.approx(weight.numpy(), abs=1e-6)


def _logic(truth):
    """The four cases of a function of two inputs, as images of 2 x 2 pixels of which two vary."""
    cases = [(0, 0), (0, 1), (1, 0), (1, 1)]
    pixels = np.zeros((4, 2, 2), dtype=np.uint8)
    pixels[:, 0] = 255 * np.array(cases, dtype=np.uint8)
    return pixels, ["VIRUS" if truth(*case) else "NORMAL" for case in cases]


def _learnt(node, truth, epochs, **setup):
    pixels, names = _logic(truth)
    minmax = Scaling("minmax", 0.0, 255.0)
    classifier = build_classifier(node, ClassifierOptions("pneumonia", image_size=2, scaling=minmax, **setup))
    data = few_images(pixels, names)
    quick_fit(classifier, data, epochs)
    batch = next(iter(data.loader("train")))
    return int((classifier.eval()(batch["image"]).argmax(dim=1) == batch["label"]).sum())


@pytest.mark.parametrize(("truth", "right"), [(lambda a, b: a & b, 4), (lambda a, b: a | b, 4)])
def test_it_learns_and_and_or(truth, right):
    assert _learnt(NODE, truth, 50, optimizer=SGD) == right


def test_it_can_not_learn_xor():
    assert _learnt(NODE, lambda a, b: a ^ b, 300, optimizer=SGD) < 4


def test_an_mlp_learns_xor():
    node = {"_target_": "pneumonia.models.mlp.MLP", "hidden": [4], "activation": "tanh"}
    assert _learnt(node, lambda a, b: a ^ b, 300, optimizer={"_target_": "torch.optim.Adam", "lr": 3e-2}) == 4


def test_its_probabilities_do_not_depend_on_the_scale_of_the_weights():
    classifier = build_classifier(NODE, ClassifierOptions("pneumonia", image_size=2)).eval()
    image = torch.randint(0, 256, (5, 1, 2, 2), dtype=torch.uint8)
    torch.nn.init.normal_(classifier.unit.weight)
    before = classifier(image)
    for parameter in classifier.unit.parameters():
        parameter.data *= 1000
    assert torch.allclose(classifier(image), before, atol=1e-5)
    answers = classifier.unit.excitation(classifier.prepare(image)) > 0
    assert (classifier(image).argmax(dim=1) == answers).all()


def test_three_classes_are_refused():
    with pytest.raises(ConfigError, match=r"task=subtype has 3 classes, and Perceptron separates 2 at most. Use task=pneu"):
        build_classifier(NODE, ClassifierOptions("subtype"))


@pytest.mark.parametrize("word", ["mixup=0.2", "trainer.gradient_clip_val=1", "label_smoothing=0.1", "class_weights=balanced"])
def test_options_without_effect_are_refused(word, compose):
    config = compose("model=perceptron", "task=pneumonia", word)
    key = word.partition("=")[0]
    with pytest.raises(ConfigError, match=f"{key}=.* has no effect on Perceptron: it learns by Rosenblatt"):
        check_family(config)
