"""Find batch norms that can not train on a batch of one image."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pneumonia.errors import ConfigError


def has_batch_norm(network: nn.Module) -> bool:
    """Return whether any layer is a batch norm."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


@torch.no_grad()
def single_valued_norms(network: nn.Module, image: Tensor) -> list[str]:
    """Return the names of batch norms in training mode that see one value per channel of one image.

    Args:
        network: Not changed.
        image: ``(1, C, H, W)``, an input of the network.
    """
    modes = {module: module.training for module in network.modules()}
    names: dict[nn.Module, str] = {
        module: name for name, module in network.named_modules() if isinstance(module, _BatchNorm)
    }
    found: list[str] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if modes[module] and inputs[0].numel() == inputs[0].shape[1]:
            found.append(names[module])

    handles = [norm.register_forward_pre_hook(look) for norm in names]
    try:
        network.eval()(image)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return found


def check_single_images(network: nn.Module, image: Tensor, name: str) -> None:
    """Refuse training batches of one image where batch normalization can not train on them.

    Args:
        network: The network; not changed.
        image: ``(1, C, H, W)``, an input of it.
        name: What a message calls the network.

    Raises:
        ConfigError: A batch norm would see one value per channel.
    """
    if has_batch_norm(network) and (norms := single_valued_norms(network, image)):
        raise ConfigError(
            f"A training batch has one image, and {name} can't train on it: its batch norm {norms[0]} would see one value per "
            "channel, whose variance is undefined. Use batch_size=2 or more (with two or more training images), a larger "
            "image_size, or a model without batch normalization such as model=simple_cnn."
        )
