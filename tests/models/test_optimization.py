"""Optimizers by class."""

import pytest
import torch

from pneumonia.errors import ConfigError
from pneumonia.models.optimization import build_optimizer


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_target_": "torch.optim.Adamm", "lr": 1}, "Did you mean 'Adam'"),
        ({"_target_": "torch.nn.Linear", "lr": 1}, "is not an optimizer"),
        ({"_target_": "torch.optim.Adagrad", "lr": 1, "momentum": 0.9}, "does not take the arguments"),
        ({"_target_": "torch.optim.SGD", "lr": 1, "nesterov": True}, "does not take the arguments"),
    ],
)
def test_wrong_optimizer_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer([torch.nn.Parameter(torch.zeros(1))], config, own=["torch.nn.Linear"])
