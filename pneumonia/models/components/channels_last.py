"""Tell whether a network may use the channels-last memory format."""

from torch import nn


def channels_last_is_safe(network: nn.Module) -> bool:
    """Whether every convolution has a multiple of 16 channels.

    With others, torch 2.15 on CPUs writes past its buffers in a channels-last backward pass when the batch size varies, as it
    does at the end of an epoch ("double free or corruption"); seen at 8 and 12 channels.
    """
    return all(layer.out_channels % 16 == 0 for layer in network.modules() if isinstance(layer, nn.Conv2d))
