"""The study's simple convolutional network."""

from torch import nn

from pneumonia.errors import ConfigError
from pneumonia.models.base import Classifier
from pneumonia.models.components.activations import build_activation
from pneumonia.models.options import Options


class SimpleCNN(Classifier):
    """Convolution, activation, max-pooling, twice; flatten; dense; the keys are those of ``conf/model/simple_cnn.yaml``.

    Source: LeCun et al. (1998), Gradient-based learning applied to document recognition.
    """

    def __init__(
        self,
        options: Options = None,
        *,
        width: int = 32,
        dense: int = 64,
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__(options)
        side = self.options.image_size // 2 // 2
        if side < 1:
            raise ConfigError(f"image_size={self.options.image_size} is too small for two poolings: SimpleCNN needs 4 or more.")
        if not 1 <= dense <= 65536:
            raise ConfigError(f"model.dense={dense} is out of range: it must be a number of neurons from 1 to 65536.")
        self.network = nn.Sequential(
            nn.Conv2d(self.options.channels, width, 3, padding=1),
            build_activation(activation),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            build_activation(activation),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * side**2, dense),
            build_activation(activation),
            nn.Dropout(dropout),
            nn.Linear(dense, len(self.task.classes)),
        )
