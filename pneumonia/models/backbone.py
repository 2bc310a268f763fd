"""Any network of timm as a classifier, with pretrained weights, freezing and layer-wise learning rates."""

import hashlib
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, Self

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from pneumonia.data.dataset import Batch
from pneumonia.errors import CheckpointError, ConfigError, nearest
from pneumonia.models.base import Classifier
from pneumonia.models.options import DEFAULT_OPTIONS, ClassifierOptions
from pneumonia.system.console import say

NESTED: Final = (
    "state_dict",
    "model",
    "model_state_dict",
)  # where other programs keep a state dict within a checkpoint


WRAPPERS: Final = ("module.", "_orig_mod.", "network.")  # what wrapping a network puts before every name


class Backbone(Classifier):
    """A network of timm with a new head; the keys are those of ``conf/model/backbone.yaml``.

    Weights for colour images are folded to the one grey channel by adding up the first layer's channels, which gives what
    the network would have given for the grey image in all three. The stages are timm's own (``group_matcher``), from the
    first layers to the head. A frozen stage computes as in evaluation: its weights and the statistics of its batch norms stay
    as they are, and its dropout and stochastic depth are off.

    Source: Wightman (2019), PyTorch Image Models; gradual unfreezing: Howard and Ruder (2018), ULMFiT; rates that fall from the
    head down: Clark et al. (2020), ELECTRA.
    """

    def __init__(
        self,
        options: ClassifierOptions = DEFAULT_OPTIONS,
        *,
        name: str = "resnet18",
        pretrained: bool = False,
        weights: str | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        frozen_epochs: int | None = 0,
        unfreeze_every: int = 0,
        layer_decay: float = 1.0,
        head_lr: float = 1.0,
    ) -> None:
        super().__init__(options)
        _check(drop_path, frozen_epochs, unfreeze_every, layer_decay, head_lr)
        if pretrained and weights is not None:
            raise ConfigError(
                f"model.pretrained=true and model.weights={weights} are two places of weights. Leave one out."
            )
        if name not in timm.list_models() and name not in timm.list_pretrained():
            raise ConfigError(
                f"model.name={name} is no network of timm {timm.__version__}.{nearest(name, timm.list_models())} "
                "`timm.list_models('*part*')` lists them."
            )
        self.frozen_epochs, self.unfreeze_every = frozen_epochs, unfreeze_every
        self.layer_decay, self.head_lr = layer_decay, head_lr
        words: dict[str, Any] = {"num_classes": len(self.task.classes), "in_chans": options.channels}
        words |= {"drop_rate": dropout} if dropout else {}
        words |= {"drop_path_rate": drop_path} if drop_path else {}
        if _described(name).fixed_input_size:
            words["img_size"] = options.image_size
        drawn = torch.get_rng_state()
        self.network = _create(name, words, options.image_size)
        self._try(name)
        if weights is not None or pretrained:
            torch.set_rng_state(
                drawn
            )  # layers that the weights do not replace are initialised equally, and so recognised
            state = None if weights is None else _state_dict(Path(weights))
            self._load(name, words, state, f"The weights of {name}" if weights is None else f"model.weights={weights}")
            taken = sum(value.ndim > 0 for value in self.network.state_dict().values())
            self.note = f"Starts from {weights or 'the weights of ' + name}, {taken} tensors; the head is drawn anew"
        self.stages = self._stages(name)
        if frozen_epochs is None:
            self._freeze(
                len(self.stages) - 1
            )  # from now on: several processes share only the gradients of what can learn

    @classmethod
    def as_restored(cls, model: dict[str, Any]) -> dict[str, Any]:
        return {**model, "pretrained": False, "weights": None}  # the checkpoint has them

    @classmethod
    def identity(cls, model: dict[str, Any]) -> dict[str, Any]:
        if model.get("weights") is None:
            return model
        path = _existing(Path(model["weights"]))
        with path.open("rb") as file:
            return {**model, "weights": hashlib.file_digest(file, "sha256").hexdigest()}

    def parameter_groups(self) -> Iterable[Any]:
        """Return one parameter group per stage where learning rates differ, the head last."""
        if self.layer_decay == 1 and self.head_lr == 1:
            return self.network.parameters()
        rate, last = float(self.options.optimizer["lr"]), len(self.stages) - 1
        rates = [rate * self.layer_decay ** (last - depth) for depth in range(last)] + [rate * self.head_lr]
        return [{"params": stage, "lr": lr} for stage, lr in zip(self.stages, rates, strict=True)]

    def learning_stages(self, epoch: int) -> int:
        """Return the number of trained stages in an epoch, counted from the head."""
        if self.frozen_epochs is None:
            return 1
        if epoch < self.frozen_epochs:
            return 1
        if self.unfreeze_every:
            return min(2 + (epoch - self.frozen_epochs) // self.unfreeze_every, len(self.stages))
        return len(self.stages)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0 and self.frozen_epochs != 0:
            self._freeze(len(self.stages) - self.learning_stages(self.current_epoch))
        super().on_train_batch_start(batch, batch_idx)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        if mode:
            _rest(self.network)
        return self

    def _freeze(self, stages: int) -> None:
        """Freeze the first stages and unfreeze the others."""
        for depth, stage in enumerate(self.stages):
            for parameter in stage:
                parameter.requires_grad_(depth >= stages)
        self.train(self.training)  # Lightning restores each module's mode as it was, thawed or not

    def _stages(self, name: str) -> list[list[nn.Parameter]]:
        uneven = self.frozen_epochs != 0 or self.layer_decay != 1 or self.head_lr != 1
        if not hasattr(self.network, "group_matcher"):
            if uneven:
                raise ConfigError(
                    f"timm does not say the stages of {name}, so none can be frozen or have a rate of its own. Say "
                    "model.frozen_epochs=0 model.layer_decay=1 model.head_lr=1."
                )
            return [list(self.network.parameters())]
        network: Any = self.network
        depth = group_parameters(network, network.group_matcher(coarse=True), reverse=True)
        stages: list[list[nn.Parameter]] = [[] for _ in range(max(depth.values()) + 1)]
        for key, parameter in self.network.named_parameters():
            if parameter.requires_grad:  # timm fixes some, such as positions that are sines
                stages[depth[key]].append(parameter)
        return [stage for stage in stages if stage]

    def _try(self, name: str) -> None:
        """Run one image through the network to detect an unsupported image size."""
        side, channels = self.options.image_size, self.options.channels
        own = _described(name).input_size[-1]
        patch = getattr(getattr(self.network, "patch_embed", None), "patch_size", None)
        if patch and side % patch[0]:
            low = side // patch[0] * patch[0]
            raise ConfigError(
                f"image_size={side} is no multiple of the patches of {name}, {patch[0]} pixels a side: a border would never be "
                f"seen. Say image_size={' or '.join(str(size) for size in (low, low + patch[0]) if size)}; its own is {own}."
            )
        self.network.eval()
        try:
            with torch.no_grad():
                self.network(torch.zeros(1, channels, side, side))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(
                f"image_size={side} is too small for {name}, or none that it takes: {error}. Its own is {own}."
            ) from error
        self.network.train()

    def _load(self, name: str, words: dict[str, Any], state: dict[str, Tensor] | None, source: str) -> None:
        logging.getLogger("timm").setLevel(
            logging.ERROR
        )  # it lists every key that it does not use; we say what is missing
        if state is None and name not in _FETCHED:
            _FETCHED.add(name)
            say(f"Fetching the weights of {name}, unless they are here already")
        before = {key: value.clone() for key, value in self.network.state_dict().items()}
        overlay = None if state is None else {"state_dict": state}
        try:
            self.network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **words)
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{source}: these are not the weights of model.name={name} ({str(error).strip()[:200]} ...). Name the network "
                "that they were saved from."
            ) from error
        except OSError as error:
            raise ConfigError(
                f"The weights of {name} could not be fetched ({type(error).__name__}). They need a network once; or save them "
                "elsewhere and say model.weights=FILE."
            ) from error
        head = set(_names(_described(name).classifier))
        if state is not None:
            _check_fit(state, before, head, name, source)
        missing = [
            key
            for key, value in self.network.state_dict().items()
            if value.ndim > 1
            and key.rpartition(".")[0] not in head
            and value.std() > 0
            and torch.equal(value, before[key])
        ]
        if missing:
            raise CheckpointError(
                f"{source}: these are not the weights of model.name={name}, with nothing for {len(missing)} of its layers, for "
                f"example {missing[0]}. Name the network that they were saved from."
            )


def _rest(module: nn.Module) -> None:
    """Put every part whose parameters are all frozen in evaluation mode."""
    learning = [parameter.requires_grad for parameter in module.parameters()]
    if learning and not any(learning):
        module.eval()
        return
    for child in module.children():
        _rest(child)


_FETCHED: Final[set[str]] = set()  # networks of which it was said that their weights are being fetched


def _check_fit(state: dict[str, Tensor], own: dict[str, Tensor], head: set[str], name: str, source: str) -> None:
    """Refuse weights of another architecture, and weights with NaN.

    Raises:
        CheckpointError: Layers are left over or missing, or hold NaN or a constant.
    """
    counters = ("num_batches_tracked",)

    def layers(keys: Iterable[str]) -> set[str]:
        return {key for key in keys if key.rpartition(".")[0] not in head and not key.endswith(counters)}

    ours, theirs = layers(own), layers(state)
    if ours & theirs:  # else the file has other names throughout, which timm translates
        buffers = {key for key in theirs - ours if key.rpartition(".")[2] in {"relative_position_index", "attn_mask"}}
        for wrong, what in ((theirs - ours - buffers, "unknown to it"), (ours - theirs, "missing")):
            if wrong:
                raise CheckpointError(
                    f"{source}: these are not the weights of model.name={name}: {len(wrong)} tensors are {what}, for example "
                    f"{min(wrong)}. Name the network that they were saved from."
                )
    numbers = {key: value for key, value in state.items() if value.is_floating_point()}
    broken = [key for key, value in numbers.items() if not bool(value.isfinite().all())]
    if broken:
        raise CheckpointError(
            f"{source}: {len(broken)} tensors hold NaN or infinity, for example {broken[0]}. Save them anew."
        )
    if all(bool((value == value.flatten()[0]).all()) for value in numbers.values() if value.ndim > 1 and value.numel()):
        raise CheckpointError(
            f"{source}: every tensor holds one number throughout, so nothing was learnt. Save them anew."
        )


def _described(name: str) -> Any:
    """Return timm's description of a network: input size, first layer, head."""
    return timm.get_pretrained_cfg(name)


def _create(name: str, words: dict[str, Any], image_size: int) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(name, **words)
    except TypeError as error:
        wrong = next((key for word, key in WORDS.items() if word in words and word in str(error)), None)
        said = f"model.{wrong} is nothing that {name} knows" if wrong else f"model.name={name} can't be built"
        raise ConfigError(f"{said} ({error}). Leave it at its default.") from error
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"model.name={name} can't be built for image_size={image_size}: {error}") from error
    return network


WORDS: Final = {"drop_path_rate": "drop_path", "drop_rate": "dropout", "img_size": "image_size"}


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights in a file without executing anything.

    Raises:
        CheckpointError: Missing, damaged, or something else.
    """
    _existing(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are refused below
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"model.weights={path} holds more than tensors, or is no file of torch's; what is in it is not executed, so it "
            "can't be read. Save `model.state_dict()` alone, or as .safetensors (with that ending)."
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"model.weights={path} can't be read: it is damaged, cut short, or neither a .safetensors file nor a state dict "
            f"({type(error).__name__}). Save it anew."
        ) from error
    for key in NESTED:
        found = found.get(key, found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(
            f"model.weights={path} holds no tensors by name, as a state dict does. Save `model.state_dict()`."
        )
    names = {str(key): value for key, value in found.items()}
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in names):
            names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f"There is no file model.weights={path}.")
    return path


def _names(value: str | Iterable[str] | None) -> Iterable[str]:
    return () if value is None else (value,) if isinstance(value, str) else value


def _check(drop_path: float, frozen: int | None, every: int, decay: float, head: float) -> None:
    for name, value, good, wanted in (
        ("drop_path", drop_path, 0 <= drop_path < 1, "a fraction from 0 to less than 1"),
        ("frozen_epochs", frozen, frozen is None or frozen >= 0, "a number of epochs, or null for always"),
        ("unfreeze_every", every, every >= 0, "a number of epochs, 0 for all stages at once"),
        ("layer_decay", decay, 0 < decay <= 1, "a factor above 0, at most 1"),
        ("head_lr", head, head > 0, "a factor above 0"),
    ):
        if not good:
            raise ConfigError(f"model.{name}={value} is out of range: it must be {wanted}.")
    if every and not frozen:
        raise ConfigError(
            f"model.unfreeze_every={every} unfreezes what model.frozen_epochs={frozen} never froze, or for ever. Say "
            "model.frozen_epochs=1 or more."
        )
