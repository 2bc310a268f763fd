"""Read the weights of a timm network from a file, and refuse those of another network."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from torch import Tensor

from pneumonia.errors import CheckpointError

NESTED: Final = ("state_dict", "model", "model_state_dict")  # keys of a state dict in checkpoints of other programs
WRAPPERS: Final = ("module.", "_orig_mod.", "network.")  # prefixes that wrapping a network adds to every name
POSITION_BUFFERS: Final = ("relative_position_index", "attn_mask")
RENAME: Final = "Name the network that they were saved from."


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights in a ``.safetensors`` file or a state dict of torch; nothing in it is executed.

    Raises:
        CheckpointError: Missing, damaged, or something else.
    """
    check_weights_file(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused below
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"model.weights={path} holds more than tensors, or is not a file of torch; its content is not executed, so it can't "
            "be read. Save `model.state_dict()` alone, or as .safetensors (with that ending)."
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"model.weights={path} can't be read: it is damaged, truncated, or neither a .safetensors file nor a state dict "
            f"({type(error).__name__}). Save it again."
        ) from error
    for key in NESTED:
        found = found.get(key, found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"model.weights={path} holds no tensors by name, as a state dict does. Save `model.state_dict()`.")
    names = {str(key): value for key, value in found.items()}
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in names):
            names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def check_weights_file(path: Path) -> Path:
    """Return the path of a file that exists.

    Raises:
        CheckpointError: It does not.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file model.weights={path}.")
    return path


def check_weights(state: Mapping[str, Tensor], own: Mapping[str, Tensor], head: set[str], name: str, source: str) -> None:
    """Refuse weights of a similar network, which fit where the two are equal, and tensors without information.

    Args:
        state: Weights from elsewhere.
        own: Weights of the network.
        head: Layers whose weights are not taken.
        name: The network, for the message.
        source: The place of the weights, for the message.

    Raises:
        CheckpointError: Layers are unknown or missing, or hold NaN or a constant.
    """

    def layers(keys: Iterable[str]) -> set[str]:
        return {key for key in keys if key.rpartition(".")[0] not in head and not key.endswith("num_batches_tracked")}

    ours, theirs = layers(own), layers(state)
    if ours & theirs:  # otherwise the file has other names throughout, which timm translates
        unknown = {key for key in theirs - ours if key.rpartition(".")[2] not in POSITION_BUFFERS}
        for wrong, what in ((unknown, "unknown to it"), (ours - theirs, "missing")):
            if wrong:
                raise CheckpointError(
                    f"{source}: these are not the weights of model.name={name}: {len(wrong)} tensors are {what}, for example "
                    f"{min(wrong)}. {RENAME}"
                )
    floats = {key: value for key, value in state.items() if value.is_floating_point()}
    broken = [key for key, value in floats.items() if not bool(value.isfinite().all())]
    if broken:
        raise CheckpointError(f"{source}: {len(broken)} tensors hold NaN or infinity, for example {broken[0]}. Save them again.")
    if all(bool((value == value.flatten()[0]).all()) for value in floats.values() if value.ndim > 1 and value.numel()):
        raise CheckpointError(f"{source}: every tensor is constant, so nothing was learned. Save them again.")


def check_loaded(before: Mapping[str, Tensor], after: Mapping[str, Tensor], head: set[str], name: str, source: str) -> None:
    """Refuse weights that left a layer as it was initialised.

    Args:
        before: Weights of the network before loading.
        after: Its weights after loading.
        head: Layers whose weights are not taken.
        name: The network, for the message.
        source: The place of the weights, for the message.

    Raises:
        CheckpointError: With the number of layers and an example.
    """
    missing = [
        key
        for key, value in after.items()
        if value.ndim > 1 and key.rpartition(".")[0] not in head and value.std() > 0 and torch.equal(value, before[key])
    ]
    if missing:
        raise CheckpointError(
            f"{source}: these are not the weights of model.name={name}: they have nothing for {len(missing)} of its layers, for "
            f"example {missing[0]}. {RENAME}"
        )
