"""Multi-layer perceptron on the flattened image."""

from collections.abc import Sequence

from torch import Tensor, nn

from pneumonia.errors import ConfigError
from pneumonia.models.base import Classifier
from pneumonia.models.components.activations import activation as activation_of
from pneumonia.models.options import DEFAULT_OPTIONS, ClassifierOptions

SHOWN = 16  # hidden neurons whose weights are drawn


class MLP(Classifier):
    """Dense layers with an activation between them; the keys are those of ``conf/model/mlp.yaml``.

    With ``hidden=[]`` it is softmax regression, trained by gradient steps.

    Source: Rumelhart, Hinton and Williams (1986), Learning representations by back-propagating errors.
    """

    def __init__(
        self,
        options: ClassifierOptions = DEFAULT_OPTIONS,
        *,
        hidden: Sequence[int] = (8,),
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__(options)
        for width in hidden:
            if not (isinstance(width, int) and 1 <= width <= 65536):
                raise ConfigError(
                    f"model.hidden={list(hidden)} holds {width}: each hidden layer has from 1 to 65536 neurons."
                )
        inputs = options.channels * options.image_size**2
        layers: list[nn.Module] = [nn.Flatten()]
        for width in hidden:
            layers += [nn.Linear(inputs, width), activation_of(activation), nn.Dropout(dropout)]
            inputs = width
        self.network: nn.Sequential = nn.Sequential(*layers, nn.Linear(inputs, len(self.task.classes)))

    def weight_images(self) -> dict[str, Tensor]:
        """Return the weights of up to sixteen neurons of the first layer, summed over channels."""
        first = next(layer for layer in self.network.modules() if isinstance(layer, nn.Linear))
        side = self.options.image_size
        weights = first.weight.detach().reshape(-1, self.options.channels, side, side).sum(dim=1)
        return dict(zip(self._units(), weights, strict=False))

    def weight_offsets(self) -> dict[str, float]:
        """Return the bias of each of these neurons."""
        first = next(layer for layer in self.network.modules() if isinstance(layer, nn.Linear))
        return dict(zip(self._units(), first.bias.detach().tolist(), strict=False))

    def _units(self) -> list[str]:
        """Return the names of the first neurons, or the classes without a hidden layer."""
        first = next(layer for layer in self.network.modules() if isinstance(layer, nn.Linear))
        if first is self.network[-1]:
            return list(self.task.classes)
        return [f"neuron {number + 1}" for number in range(min(SHOWN, first.out_features))]
