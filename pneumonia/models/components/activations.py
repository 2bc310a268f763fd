"""The study's twelve activation functions by name, with formula and source."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from pneumonia.errors import ConfigError, nearest


@dataclass(frozen=True)
class Activation:
    """One activation function.

    Attributes:
        build: Builds a module.
        formula: ``f(x)`` in plain text.
        source: Its reference.
        by_element: Whether each output depends on one input alone; softmax does not.
    """

    build: Callable[[], nn.Module]
    formula: str
    source: str
    by_element: bool = True


class BinaryStep(nn.Module):
    """1 above zero, else 0, with the gradient of ``clamp(x, -1, 1)``, since the true one is zero everywhere.

    Source: Bengio et al. (2013), Estimating or propagating gradients through stochastic neurons (the straight-through
    estimator); Hubara et al. (2016), Binarized neural networks (zero beyond 1).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros and ones in the shape of ``x``."""
        surrogate = x.clamp(-1, 1)
        return (x > 0).to(x.dtype) + (surrogate - surrogate.detach())  # the difference is exactly 0, with a gradient


ACTIVATIONS: Final[dict[str, Activation]] = {
    "binary_step": Activation(
        BinaryStep, "1 if x > 0 else 0", "McCulloch and Pitts (1943); trained straight-through, Bengio et al. (2013)"
    ),
    "linear": Activation(nn.Identity, "x", "Widrow and Hoff (1960)"),
    "sigmoid": Activation(nn.Sigmoid, "1 / (1 + exp(-x))", "Rumelhart, Hinton and Williams (1986)"),
    "tanh": Activation(nn.Tanh, "(exp(x) - exp(-x)) / (exp(x) + exp(-x))", "LeCun et al. (1998), Efficient BackProp"),
    "relu": Activation(lambda: nn.ReLU(inplace=True), "max(0, x)", "Nair and Hinton (2010)"),
    "leaky_relu": Activation(lambda: nn.LeakyReLU(0.01, inplace=True), "x if x > 0 else 0.01 x", "Maas, Hannun and Ng (2013)"),
    "prelu": Activation(nn.PReLU, "x if x > 0 else a x, a learnt from 0.25", "He et al. (2015)"),
    "elu": Activation(nn.ELU, "x if x > 0 else exp(x) - 1", "Clevert, Unterthiner and Hochreiter (2016)"),
    "softmax": Activation(
        lambda: nn.Softmax(dim=1), "exp(x_i) / sum_j exp(x_j), over channels", "Bridle (1990)", by_element=False
    ),
    "swish": Activation(lambda: nn.SiLU(inplace=True), "x / (1 + exp(-x))", "Ramachandran, Zoph and Le (2017)"),
    "gelu": Activation(nn.GELU, "x Phi(x), Phi the normal distribution function", "Hendrycks and Gimpel (2016)"),
    "selu": Activation(nn.SELU, "1.0507 x if x > 0 else 1.0507 * 1.6733 (exp(x) - 1)", "Klambauer et al. (2017)"),
}


def build_activation(name: str) -> nn.Module:
    """Build a module of the named activation.

    Raises:
        ConfigError: The name is not known.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(
            f"model.activation={name} is not known; choose one of {', '.join(ACTIVATIONS)}.{nearest(name, ACTIVATIONS)}"
        )
    return ACTIVATIONS[name].build()
