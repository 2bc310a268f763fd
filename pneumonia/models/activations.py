"""Activation functions by name."""

from collections.abc import Callable
from typing import Final

from torch import nn

from pneumonia.errors import ConfigError, nearest

ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=True),
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "swish": lambda: nn.SiLU(inplace=True),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "linear": nn.Identity,
}


def activation(name: str) -> nn.Module:
    """A new module of the named activation.

    Raises:
        ConfigError: The name is not known.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(
            f"model.activation={name} is not known; choose one of {', '.join(ACTIVATIONS)}.{nearest(name, ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]()
