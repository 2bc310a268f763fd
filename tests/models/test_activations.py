"""The twelve activations against their formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.errors import ConfigError
from pneumonia.models.components.activations import ACTIVATIONS, build_activation

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. (2017)
FORMULAS = {
    "binary_step": lambda x: 1.0 if x > 0 else 0.0,
    "linear": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": lambda x: (math.exp(x) - math.exp(-x)) / (math.exp(x) + math.exp(-x)),
    "relu": lambda x: max(0.0, x),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "prelu": lambda x: x if x > 0 else 0.25 * x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "swish": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "selu": lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * (math.exp(x) - 1)),
}


def test_there_are_the_studys_twelve():
    assert set(ACTIVATIONS) == {*FORMULAS, "softmax"}
    assert all(item.formula and item.source for item in ACTIVATIONS.values())


@pytest.mark.parametrize("name", FORMULAS)
@given(x=st.floats(-20, 20))
def test_an_activation_has_the_values_of_its_formula(name, x):
    value = float(build_activation(name).double()(torch.tensor([x], dtype=torch.float64)).detach())
    assert value == pytest.approx(FORMULAS[name](x), rel=1e-5, abs=1e-9)  # torch holds PReLU's 0.25 and SELU's numbers in float


def test_softmax_sums_to_one_over_channels():
    x = torch.randn(2, 5, 3, 3)
    share = build_activation("softmax")(x)
    assert share.sum(dim=1).flatten().tolist() == pytest.approx([1.0] * 18)
    assert torch.allclose(share, x.exp() / x.exp().sum(dim=1, keepdim=True))


def test_the_binary_step_has_a_straight_through_gradient():
    x = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0], requires_grad=True)
    step = build_activation("binary_step")(x)
    step.sum().backward()
    assert step.tolist() == [0, 0, 0, 1, 1]
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_an_unknown_activation_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"model.activation=leakyrelu is not known.*Did you mean 'leaky_relu'"):
        build_activation("leakyrelu")
