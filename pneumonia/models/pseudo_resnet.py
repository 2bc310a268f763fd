"""The study's pseudo-ResNet: a small residual network for small grey images."""

from torch import Tensor, nn

from pneumonia.models.base import Classifier
from pneumonia.models.components.activations import build_activation
from pneumonia.models.options import Options

DOUBLINGS = 3


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, ``(B, I, H, W)`` to ``(B, O, H/stride, W/stride)``.

    Source: He et al. (2016), Deep Residual Learning for Image Recognition.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, name: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            build_activation(name),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.activation = build_activation(name)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.activation(self.body(image) + self.shortcut(image))
        return out


class ResidualNetwork(nn.Module):
    """A residual network that halves the image and doubles the channels at each of three stages after the first.

    Args:
        channels: Of the image.
        classes: Number of logits.
        width: Channels of the first stage.
        depth: Residual blocks a stage.
        dropout: Fraction of the pooled features that is dropped in training.
        name: Activation; see :mod:`pneumonia.models.components.activations`.
    """

    def __init__(self, channels: int, classes: int, width: int, depth: int, dropout: float, name: str) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            build_activation(name),
        ]
        inputs = width
        for stage in range(1 + DOUBLINGS):
            outputs = width * 2**stage
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock(inputs, outputs, stride, name))
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(inputs, classes))

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        logits: Tensor = self.head(self.features(image))
        return logits


class PseudoResNet(Classifier):
    """The residual network as a classifier; the keys are those of ``conf/model/pseudo_resnet.yaml``."""

    def __init__(
        self,
        options: Options = None,
        *,
        width: int = 32,
        depth: int = 1,
        dropout: float = 0.2,
        activation: str = "relu",
    ) -> None:
        super().__init__(options)
        classes = len(self.task.classes)
        self.network = ResidualNetwork(self.options.channels, classes, width, depth, dropout, activation)
