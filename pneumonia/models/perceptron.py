"""Rosenblatt's perceptron: one threshold unit that learns from its errors."""

import numpy as np
import torch
from torch import Tensor, nn

from pneumonia.data.dataset import Batch
from pneumonia.models.base import Classifier
from pneumonia.models.options import Options, Plain
from pneumonia.system.arrays import Floats32, Ints


class ThresholdUnit(nn.Module):
    """``step(w . x + b)`` of the flattened input, with weights that start at zero.

    Args:
        inputs: Length D of ``x``; the bias is the weight of one more input that is always 1.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs))
        self.bias = nn.Parameter(torch.zeros(1))

    def excitation(self, image: Tensor) -> Tensor:
        """Return ``w . x + b``, ``(B,)``; the unit outputs 1 where it is above zero."""
        return image.flatten(1) @ self.weight + self.bias

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, 2)`` whose difference is the signed distance from the hyperplane ``w . x + b = 0``.

        The distance does not depend on the scale of the weights, which in a perceptron is that of the learning rate. The
        probabilities that follow rank the images correctly; they are not calibrated.
        """
        tiny = torch.finfo(self.weight.dtype).tiny
        distance = self.excitation(image) / self.weight.norm().clamp_min(tiny)
        return torch.stack([-distance / 2, distance / 2], dim=1)


class Perceptron(Classifier):
    """The threshold unit as a classifier of two classes; the keys are those of ``conf/model/perceptron.yaml``.

    Each error moves the weights: ``w += lr * (target - step(w . x + b)) * x``, with the bias as the weight of an input that is
    1. ``online`` learns image after image, in the order of the epoch, whatever the batch size. Otherwise it learns once a batch
    from the mean over its images, the gradient of the perceptron criterion ``mean(max(0, -y (w . x + b)))`` with ``y`` in
    {-1, 1}; with ``batch_size=1`` the two are the same.

    Source: Rosenblatt (1958), The perceptron; the criterion: Bishop (2006), Pattern Recognition and Machine Learning, 4.1.7.
    """

    most_classes = 2
    default_monitor = "val/accuracy"  # it has no likelihood, so its loss ranks nothing
    caveat = "A perceptron has no probabilities: these are its distances from a hyperplane, scaled to between 0 and 1."
    training_rule = "by Rosenblatt's rule, w += lr * error * x: of the optimizer's options only lr is used"
    unsupported_options = (
        "mixup",
        "label_smoothing",
        "class_weights",
        "trainer.gradient_clip_val",
        "trainer.accumulate_grad_batches",
    )

    def __init__(self, options: Options = None, *, online: bool = True) -> None:
        super().__init__(options)
        self.unit = ThresholdUnit(self.options.inputs)
        self.network = self.unit
        self.automatic_optimization = not online

    def optimizer_config(self) -> Plain:
        """Return gradient descent with the learning rate of the options."""
        return {"_target_": "torch.optim.SGD", "lr": self.options.optimizer["lr"]}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:  # type: ignore[override]
        image, label = self.prepare(batch["image"]), batch["label"]
        if self.automatic_optimization:
            excitation = self.unit.excitation(image)
            error = (excitation > 0).float() - label
            loss: Tensor | None = (error.detach() * excitation).mean()
        else:
            excitation, loss = self._learn_online(image, label), None
            error = (excitation > 0).float() - label
        criterion = (error * excitation).mean()
        self.record(criterion, torch.stack([torch.zeros_like(excitation), excitation], dim=1), label)
        return loss

    def weight_images(self) -> dict[str, Tensor]:
        """Return the weights of the pixels, summed over channels, for the class that they support."""
        side = self.options.image_size
        return {self.task.classes[1]: self.unit.weight.detach().reshape(-1, side, side).sum(dim=0)}

    def weight_offsets(self) -> dict[str, float]:
        """Return the bias."""
        return {self.task.classes[1]: float(self.unit.bias.detach())}

    def _learn_online(self, image: Tensor, label: Tensor) -> Tensor:
        """Apply the online rule once, and return the excitation ``(B,)`` of each image before its update."""
        unit = self.unit
        weight, bias = unit.weight.detach().cpu().numpy(), unit.bias.detach().cpu().numpy()
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        excitations = learn_online(weight, bias, image.flatten(1).cpu().numpy(), label.cpu().numpy(), rate)
        self.optimizers().step()  # type: ignore[union-attr] # without a gradient, it only counts the step
        unit.weight.data.copy_(torch.from_numpy(weight))  # on a CPU they share memory already
        unit.bias.data.copy_(torch.from_numpy(bias))
        return torch.from_numpy(excitations).to(image.device)


def learn_online(weight: Floats32, bias: Floats32, image: Floats32, label: Ints, rate: float) -> Floats32:
    """Apply Rosenblatt's rule, image after image, in place.

    Args:
        weight: ``(D,)``.
        bias: ``(1,)``.
        image: ``(B, D)``.
        label: ``(B,)``, 0 or 1.
        rate: The learning rate.

    Returns:
        ``(B,)``: the excitation of each image before its update.
    """
    excitations = np.empty(len(image), dtype=np.float32)
    for number, (pixels, target) in enumerate(zip(image, label.tolist(), strict=True)):
        excitation = pixels @ weight + bias[0]
        excitations[number] = excitation
        if error := target - int(excitation > 0):
            weight += np.float32(rate * error) * pixels
            bias += np.float32(rate * error)
    return excitations
