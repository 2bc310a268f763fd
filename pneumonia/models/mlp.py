"""Multi-layer perceptron on the flattened image."""

from collections.abc import Sequence

from torch import Tensor, nn

from pneumonia.errors import ConfigError
from pneumonia.models.base import Classifier
from pneumonia.models.components.activations import build_activation
from pneumonia.models.options import Options

LARGEST_LAYER = 65536
MOST_PICTURES = 16  # hidden neurons whose weights are drawn


class MLP(Classifier):
    """Dense layers with an activation between them; the keys are those of ``conf/model/mlp.yaml``.

    With ``hidden=[]`` it is softmax regression, trained by gradient steps.

    Source: Rumelhart, Hinton and Williams (1986), Learning representations by back-propagating errors.
    """

    def __init__(
        self,
        options: Options = None,
        *,
        hidden: Sequence[int] = (8,),
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__(options)
        inputs = self.options.inputs
        layers: list[nn.Module] = [nn.Flatten()]
        for width in hidden:
            if not (isinstance(width, int) and 1 <= width <= LARGEST_LAYER):
                raise ConfigError(
                    f"model.hidden={list(hidden)} holds {width}: each hidden layer has from 1 to {LARGEST_LAYER} neurons."
                )
            layers += [nn.Linear(inputs, width), build_activation(activation), nn.Dropout(dropout)]
            inputs = width
        self.network: nn.Sequential = nn.Sequential(*layers, nn.Linear(inputs, len(self.task.classes)))

    def weight_images(self) -> dict[str, Tensor]:
        """Return the weights of up to sixteen neurons of the first layer, summed over channels."""
        side = self.options.image_size
        weights = self._first.weight.detach().reshape(-1, self.options.channels, side, side).sum(dim=1)
        return dict(zip(self._units(), weights, strict=False))

    def weight_offsets(self) -> dict[str, float]:
        """Return the bias of each of these neurons."""
        return dict(zip(self._units(), self._first.bias.detach().tolist(), strict=False))

    @property
    def _first(self) -> nn.Linear:
        return next(layer for layer in self.network.modules() if isinstance(layer, nn.Linear))

    def _units(self) -> list[str]:
        """Name the outputs of the first layer: neurons, or classes where there is no hidden layer."""
        if self._first is self.network[-1]:
            return list(self.task.classes)
        return [f"neuron {number + 1}" for number in range(min(MOST_PICTURES, self._first.out_features))]
