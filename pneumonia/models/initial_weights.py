"""Start a training from the weights of another run (``init_from``)."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from pneumonia.errors import CheckpointError, ConfigError, some
from pneumonia.models.base import Classifier
from pneumonia.models.checkpoints import load_classifier
from pneumonia.system.checksums import file_hash
from pneumonia.system.files import is_locked

EXAMPLES: Final = 3  # layers that a message lists
Shapes = dict[str, tuple[int, ...]]


def initial_checkpoint(init_from: str) -> Path:
    """Return the file that ``init_from`` names: a checkpoint, or ``best.ckpt`` of a run folder.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(init_from).expanduser()
    file = path / "checkpoints" / "best.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(
            f"init_from={init_from}: there is no checkpoint {file}. Use the folder of a trained run, or a checkpoint of one."
        )
    return file


def initial_weights_identity(init_from: str) -> str:
    """Return the hash of the file that ``init_from`` names, which stands for it in the identity of a run."""
    return file_hash(initial_checkpoint(init_from), "sha256")


def load_initial_weights(classifier: Classifier, init_from: str, own: Collection[str] = ()) -> str:
    """Copy the evaluated weights of a trained classifier into a new one; its head only if the classes are the same.

    Args:
        classifier: Of the run that starts.
        init_from: See :func:`initial_checkpoint`.
        own: Targets of the user's own config.

    Returns:
        A message for the start of the run.

    Raises:
        CheckpointError: There is no checkpoint, or it is damaged.
        TargetError: It names a family that may not be imported.
        ConfigError: It is of another architecture, or has no effect on the family; with the layers that differ.
    """
    if classifier.full_batch:
        raise ConfigError(
            f"init_from={init_from} has no effect on {type(classifier).__name__}: its optimum does not depend on the first "
            "weights. Leave init_from out, or use another model."
        )
    file = initial_checkpoint(init_from)
    if is_locked(file.parent.parent / "lock"):
        raise CheckpointError(
            f"init_from={init_from} is being trained by another process, so its weights may be replaced at any moment. Wait for "
            "it, or copy the run folder."
        )
    try:
        source = load_classifier(file, own=own)
    except CheckpointError as error:
        raise CheckpointError(f"init_from={init_from}: {error}") from error
    classes, others = classifier.task.classes, source.task.classes
    weights, network = source.evaluated_network().state_dict(), classifier.network
    same = classes == others
    head, other_head = (set(), set()) if same else (head_keys(network, len(classes)), head_keys(source.network, len(others)))
    taken = {key: value for key, value in weights.items() if key not in other_head}
    ours, theirs = _shapes(network.state_dict(), head), _shapes(weights, other_head)
    if differing := [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]:
        sizes = source.options.image_size, classifier.options.image_size
        size = "" if len({*sizes}) == 1 else f" (image_size={sizes[0]} there, {sizes[1]} here)"
        lines = [f"{key} {_text(theirs, key)} there and {_text(ours, key)} here" for key in differing[:EXAMPLES]]
        raise ConfigError(
            f"init_from={init_from} holds a {type(source).__name__} of another architecture{size}: {len(differing)} layers "
            f"differ, for example {'; '.join(lines)}. Use the model of that run, or leave init_from out."
        )
    if not taken:
        raise ConfigError(
            f"init_from={init_from} was trained on the classes {some(others)}, and this run on {some(classes)}: the whole "
            f"{type(classifier).__name__} depends on the classes, so no weight can be taken. Leave init_from out."
        )
    for one in (network, *([] if classifier.averaged is None else [classifier.averaged.module])):
        one.load_state_dict(one.state_dict() | taken)
    kept = f"; the head is initialised for {some(classes)}" if head else ""
    return f"Starts from the weights of {init_from} ({len(taken)} tensors){kept}"


def head_keys(network: nn.Module, classes: int) -> set[str]:
    """Return the state-dict keys of the last layer with one output a class (one for two classes, as a perceptron has)."""
    outputs = {classes, 1} if classes == 2 else {classes}
    found = ""
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1 and len(weight) in outputs:
            found = f"{name}." if name else ""
    return {key for key in network.state_dict() if key.startswith(found)}


def _shapes(state: Mapping[str, Tensor], without: Collection[str]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items() if key not in without}


def _text(shapes: Shapes, key: str) -> str:
    return str(shapes[key]) if key in shapes else "missing"
