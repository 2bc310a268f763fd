"""Any timm network as a classifier: pretrained weights, freezing, learning rates by layer."""

import hashlib
import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from pneumonia.data.dataset import Batch
from pneumonia.errors import CheckpointError, ConfigError, nearest
from pneumonia.models.base import Classifier
from pneumonia.models.components.pretrained_weights import check_loaded, check_weights, check_weights_file, read_weights
from pneumonia.models.options import Options, Plain
from pneumonia.system.console import say

KEYS: Final = {"drop_path_rate": "drop_path", "drop_rate": "dropout", "img_size": "image_size"}  # of timm's arguments
Create: TypeAlias = partial[nn.Module]  # of timm's network, with the arguments of ours
_announced: set[str] = set()  # networks whose download was announced


class Backbone(Classifier):
    """A timm network with a new head; the keys are those of ``conf/model/backbone.yaml``.

    Weights for colour images are folded to the one grey channel by adding up the first layer's channels, which gives the output
    of the network for the grey image in all three. The stages are timm's own (``group_matcher``), from the first layers to the
    head. A frozen stage computes as in evaluation: its weights and the statistics of its batch norms are constant, and its
    dropout and stochastic depth are off.

    Source: Wightman (2019), PyTorch Image Models; gradual unfreezing: Howard and Ruder (2018), ULMFiT; rates that fall from the
    head down: Clark et al. (2020), ELECTRA.
    """

    def __init__(
        self,
        options: Options = None,
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
            raise ConfigError(f"model.pretrained=true and model.weights={weights} are two sources of weights. Leave one out.")
        if name not in timm.list_models() and name not in timm.list_pretrained():
            raise ConfigError(
                f"model.name={name} is not a network of timm {timm.__version__}.{nearest(name, timm.list_models())} "
                "`timm.list_models('*part*')` lists them."
            )
        self.hparams.update(pretrained=False, weights=None)  # a checkpoint has the weights
        self.frozen_epochs, self.unfreeze_every = frozen_epochs, unfreeze_every
        self.layer_decay, self.head_lr = layer_decay, head_lr
        create = partial(timm.create_model, name, num_classes=len(self.task.classes), in_chans=self.options.channels)
        if dropout:
            create = partial(create, drop_rate=dropout)
        if drop_path:
            create = partial(create, drop_path_rate=drop_path)
        if _config(name).fixed_input_size:
            create = partial(create, img_size=self.options.image_size)
        rng = torch.get_rng_state()
        self.network = _create(name, create, self.options.image_size)
        self._check_image_size(name)
        if weights is not None or pretrained:
            torch.set_rng_state(rng)  # layers without weights are then initialised again to the same values
            state = None if weights is None else read_weights(Path(weights))
            source = f"The weights of {name}" if weights is None else f"model.weights={weights}"
            self._load(name, create, state, source)
            taken = sum(value.ndim > 0 for value in self.network.state_dict().values())
            self.note = f"Starts from {weights or 'the weights of ' + name}, {taken} tensors; the head is initialised"
        self.stages = self._stages(name)
        if frozen_epochs is None:  # from now on: several processes share only the gradients of trainable parameters
            self._freeze(len(self.stages) - 1)

    @classmethod
    def identity(cls, model: Plain) -> Plain:
        if model.get("weights") is None:
            return model
        with check_weights_file(Path(str(model["weights"]))).open("rb") as file:
            return {**model, "weights": hashlib.file_digest(file, "sha256").hexdigest()}

    def parameter_groups(self) -> Any:
        """Return one group a stage where their rates differ, the head last."""
        if self.layer_decay == 1 and self.head_lr == 1:
            return self.network.parameters()
        rate, last = float(self.options.optimizer["lr"]), len(self.stages) - 1  # type: ignore[arg-type]
        rates = [rate * self.layer_decay ** (last - depth) for depth in range(last)] + [rate * self.head_lr]
        return [{"params": stage, "lr": lr} for stage, lr in zip(self.stages, rates, strict=True)]

    def learning_stages(self, epoch: int) -> int:
        """Return how many stages learn in an epoch, counted from the head; the others are frozen."""
        if self.frozen_epochs is None or epoch < self.frozen_epochs:
            return 1
        if self.unfreeze_every:
            return min(2 + (epoch - self.frozen_epochs) // self.unfreeze_every, len(self.stages))
        return len(self.stages)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0 and self.frozen_epochs != 0:
            self._freeze(len(self.stages) - self.learning_stages(self.current_epoch))
        super().on_train_batch_start(batch, batch_idx)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        if mode:
            _eval_frozen(self.network)
        return self

    def _freeze(self, stages: int) -> None:
        """Freeze the first stages; the others learn."""
        for depth, stage in enumerate(self.stages):
            for parameter in stage:
                parameter.requires_grad_(depth >= stages)
        self.train(self.training)  # Lightning restores each module's mode as it was, frozen or not

    def _stages(self, name: str) -> list[list[nn.Parameter]]:
        if not hasattr(self.network, "group_matcher"):
            if self.frozen_epochs != 0 or self.layer_decay != 1 or self.head_lr != 1:
                raise ConfigError(
                    f"timm does not define the stages of {name}, so none can be frozen or have its own rate. Use "
                    "model.frozen_epochs=0 model.layer_decay=1 model.head_lr=1."
                )
            return [list(self.network.parameters())]
        network: Any = self.network
        depth = group_parameters(network, network.group_matcher(coarse=True), reverse=True)
        stages: list[list[nn.Parameter]] = [[] for _ in range(max(depth.values()) + 1)]
        for key, parameter in self.network.named_parameters():
            if parameter.requires_grad:  # timm fixes some, such as sinusoidal positions
                stages[depth[key]].append(parameter)
        return [stage for stage in stages if stage]

    def _check_image_size(self, name: str) -> None:
        """Run the network on one image, so that a size that it can't take is found before any training."""
        side, own = self.options.image_size, _config(name).input_size[-1]
        patch = getattr(getattr(self.network, "patch_embed", None), "patch_size", None)
        if patch and side % patch[0]:
            low = side // patch[0] * patch[0]
            raise ConfigError(
                f"image_size={side} is no multiple of the patches of {name}, {patch[0]} pixels a side: a border would be "
                f"ignored. Use image_size={' or '.join(str(size) for size in (low, low + patch[0]) if size)}; its own is {own}."
            )
        self.network.eval()
        try:
            with torch.no_grad():
                self.network(torch.zeros(1, self.options.channels, side, side))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(
                f"image_size={side} is too small for {name}, or not supported: {error}. Its own is {own}."
            ) from error
        self.network.train()

    def _load(self, name: str, create: Create, state: dict[str, Tensor] | None, source: str) -> None:
        logging.getLogger("timm").setLevel(logging.ERROR)  # it lists every unused key; check_loaded finds missing ones
        if state is None and name not in _announced:
            _announced.add(name)
            say(f"Loading the weights of {name}; they are downloaded on first use")
        before = {key: value.clone() for key, value in self.network.state_dict().items()}
        overlay = None if state is None else {"state_dict": state}
        try:
            self.network = create(pretrained=True, pretrained_cfg_overlay=overlay)
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{source}: these are not the weights of model.name={name} ({str(error).strip()[:200]} ...). Name the network "
                "that they were saved from."
            ) from error
        except OSError as error:
            raise ConfigError(
                f"The weights of {name} could not be downloaded ({type(error).__name__}). They need a network connection once; "
                "or save them elsewhere and use model.weights=FILE."
            ) from error
        classifier: str | Iterable[str] | None = _config(name).classifier
        head = {classifier} if isinstance(classifier, str) else set(classifier or ())
        if state is not None:
            check_weights(state, before, head, name, source)
        check_loaded(before, self.network.state_dict(), head, name, source)


def _eval_frozen(module: nn.Module) -> None:
    """Put every module whose parameters are all frozen in evaluation mode."""
    learning = [parameter.requires_grad for parameter in module.parameters()]
    if learning and not any(learning):
        module.eval()
        return
    for child in module.children():
        _eval_frozen(child)


def _config(name: str) -> Any:
    """Return timm's facts about a network: its input size, its first layer, its head."""
    return timm.get_pretrained_cfg(name)


def _create(name: str, create: Create, image_size: int) -> nn.Module:
    try:
        network = create()
    except TypeError as error:
        key = next((key for argument, key in KEYS.items() if argument in create.keywords and argument in str(error)), None)
        why = f"{name} has no option model.{key}" if key else f"model.name={name} can't be built"
        raise ConfigError(f"{why} ({error}). Leave it at its default.") from error
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"model.name={name} can't be built for image_size={image_size}: {error}") from error
    return network


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
            f"model.unfreeze_every={every} unfreezes nothing with model.frozen_epochs={frozen}. Use model.frozen_epochs=1 or "
            "more."
        )
