"""Multinomial logistic regression, solved to its optimum over the whole training split."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from pneumonia.data.dataset import Batch
from pneumonia.errors import ConfigError, nearest
from pneumonia.metrics.epoch_metrics import MIN_LOG_PROBABILITY
from pneumonia.models.base import Classifier
from pneumonia.models.components.proximal import ProximalGradient
from pneumonia.models.options import DEFAULT_OPTIONS, ClassifierOptions
from pneumonia.system.console import warn

PENALTIES: Final = ("l2", "l1", "elasticnet", "none")
SOLVERS: Final[dict[str, tuple[str, ...]]] = {"auto": PENALTIES, "lbfgs": ("l2", "none"), "proximal": PENALTIES}
NUMBERS_AT_ONCE: Final = 2**21  # of the images that are worked on together: 8 MiB, which caches still hold
POWER_ITERATIONS: Final = 20
MARGIN: Final = 1.1  # power iteration comes from below


class CentredLinear(nn.Module):
    """``weight (x - centre) + bias`` of the flattened input; the centre is the mean training image.

    The optimum has the same weights as without centring, since the bias is not penalised, and is found in a quarter of the
    steps: the mean image, which is much larger than what differs between images, no longer ties the weights to the bias.
    """

    centre: Tensor

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, inputs))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("centre", torch.zeros(inputs))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, K)`` of ``(B, ...)``."""
        logits: Tensor = (image.flatten(1) - self.centre) @ self.weight.T + self.bias
        return logits

    def intercept(self) -> Tensor:
        """Return the bias ``(K,)`` for images that are not centred, as scikit-learn reports it."""
        return self.bias - self.weight @ self.centre


class LogisticRegression(Classifier):
    """Softmax regression on the flattened image; the keys are those of ``conf/model/logistic_regression.yaml``.

    Minimises, for n images with weights s that sum to S (all 1 unless ``class_weights=balanced``),

        sum_i s_i loss_i / S + (1 - r) / (2 C S) |w|^2 + r / (C S) |w|_1

    over weights w and an unpenalised bias, where r is 0 for ``l2``, 1 for ``l1`` and ``l1_ratio`` for ``elasticnet``: the
    objective of scikit-learn's ``LogisticRegression`` for three classes, whose C, ``tol`` and optimum are the same. (For two it
    has one vector of weights where this has two, so that its C is twice this one.) One epoch is a share of
    ``max_iter`` steps of the solver on the whole training split, so that a long fit reports, and goes on after a kill; it ends
    early when the largest absolute entry of the gradient (for l1 of the proximal gradient mapping) is at most ``tolerance``.

    Source: Hastie, Tibshirani and Friedman (2009), The Elements of Statistical Learning, 4.4; Liu and Nocedal (1989) for L-BFGS.
    """

    training_rule = "by solving one fixed problem to its optimum: of the optimiser and the scheduler nothing is used"
    unsupported_options = (
        "mixup",
        "label_smoothing",
        "ema",
        "swa",
        "augmentation",
        "trainer.gradient_clip_val",
        "trainer.accumulate_grad_batches",
        "trainer.limit_train_batches",
    )
    full_batch = True
    default_monitor = "train/objective"  # the optimum is the model; epochs before it are not

    def __init__(
        self,
        options: ClassifierOptions = DEFAULT_OPTIONS,
        *,
        C: float = 1.0,  # the name that scikit-learn made standard
        penalty: str = "l2",
        l1_ratio: float = 0.5,
        solver: str = "auto",
        max_iter: int = 1000,
        tolerance: float = 1e-4,
    ) -> None:
        super().__init__(options)
        _check(C, penalty, l1_ratio, solver, max_iter, tolerance)
        ratio = {"l1": 1.0, "elasticnet": l1_ratio}.get(penalty, 0.0)
        strength = 0.0 if penalty == "none" else 1 / C
        self.l1, self.l2 = ratio * strength, (1 - ratio) * strength  # both to be divided by S
        self.smooth = solver == "lbfgs" or (solver == "auto" and self.l1 == 0)
        self.max_iter, self.tolerance = max_iter, tolerance
        self.automatic_optimization = False
        self.linear = CentredLinear(options.channels * options.image_size**2, len(self.task.classes))
        self.network = self.linear

    def configure_optimizers(self) -> Any:
        steps = -(-self.max_iter // (self.trainer.max_epochs or 1))
        if not self.smooth:
            return ProximalGradient(
                self.linear.weight, self.linear.bias, lr=1.0, l1=0.0, max_iter=steps, tolerance=self.tolerance
            )
        return torch.optim.LBFGS(
            self.linear.parameters(),
            max_iter=steps,
            max_eval=2 * steps + 10,
            tolerance_grad=0.0,  # the problem itself ends the search, by scikit-learn's criterion
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.trainer.optimizers[0]
        problem = _Problem(self, batch["image"], batch["label"])
        if self.current_epoch == 0:
            self.linear.centre.copy_(problem.mean_image())
            if not self.smooth:
                optimizer.param_groups[0].update(lr=1 / problem.curvature(), l1=self.l1 / problem.total)
        with contextlib.suppress(_Solved):
            optimizer.step(problem)
        problem.evaluate()  # where the solver ended: L-BFGS may have looked further
        gradient = problem.gradient if self.smooth else optimizer.slope
        self.keep(torch.tensor(problem.loss), problem.logits, batch["label"])
        self.log_dict({"train/objective": problem.objective, "train/gradient": gradient})
        if gradient <= self.tolerance:
            self.converged = self.trainer.should_stop = True
        elif self.current_epoch + 1 == self.trainer.max_epochs:
            warn(
                f"The solver has not converged in model.max_iter={self.max_iter} steps: the largest entry of its gradient is "
                f"{gradient:.2g}, and model.tolerance={self.tolerance:g}. Allow more steps, a larger tolerance or a smaller C."
            )

    def weight_images(self) -> dict[str, Tensor]:
        """Return the weights of each class, summed over channels."""
        side = self.options.image_size
        weights = self.linear.weight.detach().reshape(-1, self.options.channels, side, side).sum(dim=1)
        return dict(zip(self.task.classes, weights, strict=True))

    def weight_offsets(self) -> dict[str, float]:
        """Return the bias of each class for images that are not centred."""
        return dict(zip(self.task.classes, self.linear.intercept().detach().tolist(), strict=True))


class _Solved(Exception):
    """Signals that the gradient is within the tolerance."""


class _Problem:
    """The smooth part of the objective over the training split, as a closure that sets the gradients.

    Attributes:
        loss: Mean cross-entropy, unweighted, as it is reported.
        objective: What is minimised, with all penalties.
        gradient: Largest absolute entry of the gradient in the coordinates of images that are not centred.
        logits: ``(N, K)``.
        total: Sum of the images' weights.
    """

    def __init__(self, model: LogisticRegression, image: Tensor, label: Tensor) -> None:
        self.model, self.linear = model, model.linear
        self.image = image
        # The network's input is affine in the grey levels: asked once, it costs one pass over the pixels instead of three.
        zero, one = (model.prepare(torch.full_like(image[:1], level)).flatten(1) for level in (0, 1))
        self.offset, self.gain = zero, float((one - zero)[0, 0])
        self.rows = max(1, NUMBERS_AT_ONCE // self.linear.weight.shape[1])
        self.label = label
        self.truth = nn.functional.one_hot(label, len(model.task.classes)).to(model.dtype)
        by_class = model.options.class_weights
        weights = torch.ones(len(label)) if by_class is None else torch.tensor(by_class)[label.cpu()]
        self.total = float(weights.sum())
        self.share = (weights / self.total).to(self.linear.weight)
        self.logits = torch.zeros_like(self.truth)
        self.loss = self.objective = self.gradient = math.inf
        self.passes = 0

    def __call__(self) -> float:
        """Return the smooth objective and set the gradients, for solvers.

        Raises:
            _Solved: The gradient is within the tolerance here.
        """
        smooth = self.evaluate()
        self.passes += 1
        self.model.report(f"pass {self.passes}, objective {self.objective:.4f}, gradient {self.gradient:.1e}")
        if self.model.smooth and self.gradient <= self.model.tolerance:
            raise _Solved
        return smooth

    @torch.no_grad()
    def evaluate(self) -> float:
        """Compute objective, gradients and attributes in one pass over the images."""
        weight, bias = self.linear.weight, self.linear.bias
        slope, bias_slope = torch.zeros_like(weight), torch.zeros_like(bias)
        for part, pixels in self._blocks():
            self.logits[part] = pixels @ weight.T + bias
            error = (self.logits[part].softmax(dim=1) - self.truth[part]) * self.share[part, None]
            slope += error.T @ pixels
            bias_slope += error.sum(dim=0)
        each = nn.functional.cross_entropy(self.logits.double(), self.label, reduction="none")
        ridge = self.model.l2 / self.total
        squares = float(weight.double().square().sum())
        smooth = float(each @ self.share.double()) + ridge / 2 * squares
        weight.grad, bias.grad = slope.add_(weight, alpha=ridge), bias_slope
        uncentred = weight.grad + bias_slope[:, None] * self.linear.centre
        self.gradient = max(float(uncentred.abs().max()), float(bias_slope.abs().max()))
        self.loss = float(each.clamp_max(-MIN_LOG_PROBABILITY).mean())
        self.objective = smooth + self.model.l1 / self.total * float(weight.abs().sum())
        return smooth

    def mean_image(self) -> Tensor:
        """Return the mean input image ``(D,)``."""
        mean = torch.zeros_like(self.linear.centre)
        for part, pixels in self._blocks(centred=False):
            mean += self.share[part] @ pixels
        return mean

    @torch.no_grad()
    def curvature(self) -> float:
        """Return a bound on the curvature of the smooth objective: half the largest eigenvalue of the images' covariance.

        By power iteration, from a fixed start.

        Source: Böhning (1992), Multinomial logistic regression algorithm, for the half.
        """
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(self.linear.centre.shape, generator=generator).to(self.linear.centre)
        largest = 0.0
        for _ in range(POWER_ITERATIONS):
            direction /= direction.norm()
            product = torch.zeros_like(direction)
            for part, pixels in self._blocks():
                product += (pixels @ direction * self.share[part]) @ pixels
            largest, direction = float(product.norm()), product
        return MARGIN * max(largest, 1.0) / 2 + self.model.l2 / self.total

    def _blocks(self, *, centred: bool = True) -> Iterator[tuple[slice, Tensor]]:
        """Yield inputs in blocks: floats of all images would be four times as large."""
        with torch.autocast(self.label.device.type, enabled=False):
            offset = self.offset - self.linear.centre if centred else self.offset
            for start in range(0, len(self.image), self.rows):
                part = slice(start, start + self.rows)
                levels = self.image[part].expand(-1, self.model.options.channels, -1, -1).flatten(1)
                yield part, torch.add(offset, levels.to(offset.dtype), alpha=self.gain)


def _check(C: float, penalty: str, l1_ratio: float, solver: str, max_iter: int, tolerance: float) -> None:
    for name, value, good, wanted in (
        (
            "C",
            C,
            C > 0 and math.isfinite(C),
            "finite and above 0: it divides the penalty; the smaller, the stronger that is",
        ),
        ("l1_ratio", l1_ratio, 0 <= l1_ratio <= 1, "from 0 (all l2) to 1 (all l1)"),
        ("max_iter", max_iter, max_iter >= 1, "a number of steps, 1 or more"),
        ("tolerance", tolerance, tolerance > 0, "above 0"),
    ):
        if not good:
            raise ConfigError(f"model.{name}={value} is out of range: it must be {wanted}.")
    if penalty not in PENALTIES:
        raise ConfigError(
            f"model.penalty={penalty} is not known; choose one of {', '.join(PENALTIES)}.{nearest(penalty, PENALTIES)}"
        )
    if solver not in SOLVERS:
        raise ConfigError(
            f"model.solver={solver} is not known; choose one of {', '.join(SOLVERS)}.{nearest(solver, SOLVERS)}"
        )
    if penalty not in SOLVERS[solver]:
        raise ConfigError(
            f"model.solver={solver} can't do model.penalty={penalty}, which has a kink at zero. Say model.solver=proximal "
            "or auto."
        )
