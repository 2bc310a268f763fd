"""Rosenblatt's perceptron: one threshold unit, trained on its errors."""

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from pneumonia.data.dataset import Batch
from pneumonia.models.base import Classifier
from pneumonia.models.options import ClassifierOptions
from pneumonia.system.arrays import Floats32, Ints

BINARY_OPTIONS: Final = ClassifierOptions("pneumonia")


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
        """Return ``w . x + b``, ``(B,)``; the output of the unit is 1 above zero."""
        return image.flatten(1) @ self.weight + self.bias

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, 2)`` whose difference is the signed distance from the hyperplane ``w . x + b = 0``.

        The distance does not depend on the scale of the weights, which in a perceptron is that of the learning rate and means
        nothing. The probabilities that follow order the images rightly; they are not calibrated.
        """
        tiny = torch.finfo(self.weight.dtype).tiny
        distance = self.excitation(image) / self.weight.norm().clamp_min(tiny)
        return torch.stack([-distance / 2, distance / 2], dim=1)


class Perceptron(Classifier):
    """The threshold unit as a classifier of two classes; the keys are those of ``conf/model/perceptron.yaml``.

    Each mistake moves the weights: ``w += lr * (target - step(w . x + b)) * x``, with the bias as the weight of an input
    that is 1. ``online``, image after image, in the order of the epoch; the batch size then only says how many images make
    one step of the loop. Else once a batch by the mean over its images, which is the gradient of the perceptron criterion
    ``mean(max(0, -y (w . x + b)))`` with ``y`` in {-1, 1}; with ``batch_size=1`` the two are one.

    Source: Rosenblatt (1958), The perceptron; the criterion: Bishop (2006), Pattern Recognition and Machine Learning, 4.1.7.
    """

    tasks = ("pneumonia",)
    default_monitor = "val/accuracy"  # it has no likelihood, so its loss ranks nothing
    caveat = "A perceptron has no probabilities: these are its distances from a hyperplane, mapped to 0 to 1."
    training_rule = "by Rosenblatt's rule, w += lr * error * x: of the optimiser's settings only lr is used"
    unsupported_options = (
        "mixup",
        "label_smoothing",
        "class_weights",
        "trainer.gradient_clip_val",
        "trainer.accumulate_grad_batches",
    )

    def __init__(self, options: ClassifierOptions = BINARY_OPTIONS, *, online: bool = True) -> None:
        plain = {"_target_": "torch.optim.SGD", "lr": options.optimizer["lr"]}
        super().__init__(replace(options, optimizer=plain))
        self.unit = ThresholdUnit(options.channels * options.image_size**2)
        self.network = self.unit
        self.automatic_optimization = not online

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:  # type: ignore[override]
        image, label = self.prepare(batch["image"]), batch["label"]
        if self.automatic_optimization:
            excitation = self.unit.excitation(image)
            error = (excitation > 0).float() - label
            loss: Tensor | None = (error.detach() * excitation).mean()
        else:
            excitation, loss = self._learn_in_turn(image, label), None
            error = (excitation > 0).float() - label
        criterion = (error * excitation).mean()
        self.keep(criterion, torch.stack([torch.zeros_like(excitation), excitation], dim=1), label)
        return loss

    def weight_images(self) -> dict[str, Tensor]:
        """Return the weights of the pixels, summed over channels, by the class that they are evidence for."""
        side = self.options.image_size
        return {self.task.classes[1]: self.unit.weight.detach().reshape(-1, side, side).sum(dim=0)}

    def weight_offsets(self) -> dict[str, float]:
        """Return the bias."""
        return {self.task.classes[1]: float(self.unit.bias.detach())}

    def _learn_in_turn(self, image: Tensor, label: Tensor) -> Tensor:
        """Do one pass of the online rule; return the excitation ``(B,)`` of each image when it was seen."""
        unit = self.unit
        weight, bias = unit.weight.detach().cpu().numpy(), unit.bias.detach().cpu().numpy()
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        met = learn_online(weight, bias, image.flatten(1).cpu().numpy(), label.cpu().numpy(), rate)
        self.optimizers().step()  # type: ignore[union-attr] # there is no gradient: it only counts the step
        unit.weight.data.copy_(torch.from_numpy(weight))  # on a CPU they share memory already
        unit.bias.data.copy_(torch.from_numpy(bias))
        return torch.from_numpy(met).to(image.device)


def learn_online(weight: Floats32, bias: Floats32, image: Floats32, label: Ints, rate: float) -> Floats32:
    """Apply Rosenblatt's rule to one image after the other, in place.

    Args:
        weight: ``(D,)``.
        bias: ``(1,)``.
        image: ``(B, D)``.
        label: ``(B,)``, 0 or 1.
        rate: The learning rate.

    Returns:
        ``(B,)``: the excitation of each image as it was met, before it could teach anything.
    """
    met = np.empty(len(image), dtype=np.float32)
    for number, (pixels, wanted) in enumerate(zip(image, label.tolist(), strict=True)):
        excitation = pixels @ weight + bias[0]
        met[number] = excitation
        if error := wanted - int(excitation > 0):
            weight += np.float32(rate * error) * pixels
            bias += np.float32(rate * error)
    return met
