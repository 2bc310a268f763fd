"""Find batch norms that can't train on a batch of one image."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pneumonia.errors import ConfigError


def has_batch_norm(network: nn.Module) -> bool:
    """Whether any layer normalises by the statistics of its batch."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def check_single_images(network: nn.Module, image: Tensor, family: str) -> None:
    """Refuse training batches of one image where batch normalisation can't take them.

    Args:
        network: In training mode.
        image: ``(1, C, H, W)``, an input of the network.
        family: For the message.

    Raises:
        ConfigError: With the layer and what to do.
    """
    norms = single_valued_norms(network, image) if has_batch_norm(network) else []
    if norms:
        raise ConfigError(
            f"A training batch has one image, and {family} at image_size={image.shape[-1]} can't train on it: its batch norm "
            f"{norms[0]} would see one value a channel, whose variance is undefined. Use batch_size=2 or more (with two or more "
            "training images), a larger image_size, or a model without batch normalisation such as model=simple_cnn."
        )


@torch.no_grad()
def single_valued_norms(network: nn.Module, image: Tensor) -> list[str]:
    """Return the names of the batch norms in training mode that see one value a channel of an image ``(1, C, H, W)``.

    The network is left unchanged.
    """
    modes = {module: module.training for module in network.modules()}
    names: dict[nn.Module, str] = {module: name for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
    found: list[str] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if modes[module] and inputs[0].numel() == inputs[0].shape[1]:
            found.append(names[module])

    handles = [norm.register_forward_pre_hook(note) for norm in names]
    try:
        network.eval()(image)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return found
