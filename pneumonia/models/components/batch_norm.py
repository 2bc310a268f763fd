"""Which batch norms could not train on a batch of one image."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_batch_norm(network: nn.Module) -> bool:
    """Whether any layer normalises by the statistics of its batch."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


@torch.no_grad()
def single_valued_norms(network: nn.Module, image: Tensor) -> list[str]:
    """Names of the batch norms in training mode that see one value a channel of one image, whose variance is undefined.

    Args:
        network: Left as it was.
        image: ``(1, C, H, W)``, what the network is given.
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
