"""Multinomial logistic regression, solved to its optimum over the whole training subset."""

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
from pneumonia.models.options import Options
from pneumonia.system.console import warn

PENALTIES: Final = ("l2", "l1", "elasticnet", "none")
SOLVERS: Final[dict[str, tuple[str, ...]]] = {"auto": PENALTIES, "lbfgs": ("l2", "none"), "proximal": PENALTIES}
BLOCK: Final = 2**21  # numbers of the images in one block: 8 MiB, which fits into caches
POWER_ITERATIONS: Final = 20
MARGIN: Final = 1.1  # power iteration approaches from below


class CentredLinear(nn.Module):
    """``weight (x - centre) + bias`` of the flattened input; the centre is the mean training image.

    The optimum has the same weights as without centring, since the bias is not penalised, but takes a quarter of the steps: the
    mean image, which is much larger than the differences between images, no longer couples the weights to the bias.
    """

    centre: Tensor

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, inputs))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("centre", torch.zeros(inputs))

    def forward(self, image: Tensor) -> Tensor:
        """Compute logits ``(B, K)`` of ``(B, ...)``."""
        logits: Tensor = (image.flatten(1) - self.centre) @ self.weight.T + self.bias
        return logits

    def intercept(self) -> Tensor:
        """Return the bias ``(K,)`` for images that are not centred, as other programs report it."""
        return self.bias - self.weight @ self.centre


class LogisticRegression(Classifier):
    """Softmax regression on the flattened image; the keys are those of ``conf/model/logistic_regression.yaml``.

    Minimises, for n images with weights s that sum to S (all 1 unless ``class_weights=balanced``),

        sum_i s_i loss_i / S + (1 - r) / (2 C S) |w|^2 + r / (C S) |w|_1

    over weights w and an unpenalised bias, where r is 0 for ``l2``, 1 for ``l1`` and ``l1_ratio`` for ``elasticnet``: the
    objective of scikit-learn's ``LogisticRegression`` for three classes, with the same C, ``tol`` and optimum. (For two classes
    it has one vector of weights where this has two, so its C is twice this one.) An epoch is a share of ``max_iter`` steps of
    the solver on the whole training subset, so that a long fit reports and can be resumed; training ends early when the largest
    absolute entry of the gradient (for l1 of the proximal gradient mapping) is at most ``tolerance``.

    Source: Hastie, Tibshirani and Friedman (2009), The Elements of Statistical Learning, 4.4; Liu and Nocedal (1989) for L-BFGS.
    """

    training_rule = "by solving one fixed problem to its optimum: optimizer and scheduler are not used"
    unsupported_options = (
        "mixup",
        "label_smoothing",
        "ema",
        "swa",
        "augmentation",
        "trainer.gradient_clip_val",
        "trainer.accumulate_grad_batches",
        "trainer.limit_train_batches",
        "trainer.overfit_batches",
    )
    full_batch = True
    default_monitor = "train/objective"  # the last epoch has the optimum

    def __init__(
        self,
        options: Options = None,
        *,
        C: float = 1.0,  # scikit-learn's name
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
        self.linear = CentredLinear(self.options.inputs, len(self.task.classes))
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
            tolerance_grad=0.0,  # the closure ends the search, by scikit-learn's criterion
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
        problem.evaluate()  # at the solution: L-BFGS may have evaluated another point last
        gradient = problem.gradient if self.smooth else optimizer.gradient
        self.record(torch.tensor(problem.loss), problem.logits, batch["label"])
        self.log_dict({"train/objective": problem.objective, "train/gradient": gradient})
        if gradient <= self.tolerance:
            self.converged = self.trainer.should_stop = True
        elif self.current_epoch + 1 == self.trainer.max_epochs:
            warn(
                f"The solver has not converged in model.max_iter={self.max_iter} steps: the largest entry of its gradient is "
                f"{gradient:.2g}, and model.tolerance={self.tolerance:g}. Use more steps, a larger tolerance or a smaller C."
            )

    def weight_images(self) -> dict[str, Tensor]:
        """Return the weights of each class, summed over channels."""
        side = self.options.image_size
        weights = self.linear.weight.detach().reshape(-1, self.options.channels, side, side).sum(dim=1)
        return dict(zip(self.task.classes, weights, strict=True))

    def weight_offsets(self) -> dict[str, float]:
        """Return the bias of each class, for images that are not centred."""
        return dict(zip(self.task.classes, self.linear.intercept().detach().tolist(), strict=True))


class _Solved(Exception):
    """The gradient is within the tolerance at the present parameters."""


class _Problem:
    """The smooth part of the objective over all images, as a closure that sets the gradients.

    Attributes:
        loss: Reported mean cross-entropy, unweighted.
        objective: The minimised value, with all penalties.
        gradient: Largest absolute entry of the gradient in the coordinates of images that are not centred.
        logits: ``(N, K)``.
        total: Sum of the images' weights.
    """

    def __init__(self, model: LogisticRegression, image: Tensor, label: Tensor) -> None:
        self.model, self.linear = model, model.linear
        self.image = image
        # The network's input is affine in the grey levels: with its coefficients, one pass over the pixels replaces three.
        zero, one = (model.prepare(torch.full_like(image[:1], level)).flatten(1) for level in (0, 1))
        self.offset, self.gain = zero, float((one - zero)[0, 0])
        self.rows = max(1, BLOCK // self.linear.weight.shape[1])
        self.label = label
        self.truth = nn.functional.one_hot(label, len(model.task.classes)).to(model.dtype)
        class_weights = model.options.class_weights
        weights = torch.ones(len(label)) if class_weights is None else torch.tensor(class_weights)[label.cpu()]
        self.total = float(weights.sum())
        self.share = (weights / self.total).to(self.linear.weight)
        self.logits = torch.zeros_like(self.truth)
        self.loss = self.objective = self.gradient = math.inf
        self.passes = 0

    def __call__(self) -> float:
        """Return the smooth objective to the solver, with the gradients set.

        Raises:
            _Solved: The gradient is within the tolerance.
        """
        smooth = self.evaluate()
        self.passes += 1
        self.model.status = f"pass {self.passes}, objective {self.objective:.4f}, gradient {self.gradient:.1e}"
        if self.model.smooth and self.gradient <= self.model.tolerance:
            raise _Solved
        return smooth

    @torch.no_grad()
    def evaluate(self) -> float:
        """Compute the smooth objective, its gradients and the attributes, in one pass over the images."""
        weight, bias = self.linear.weight, self.linear.bias
        weight_gradient, bias_gradient = torch.zeros_like(weight), torch.zeros_like(bias)
        for block, pixels in self._blocks():
            self.logits[block] = pixels @ weight.T + bias
            error = (self.logits[block].softmax(dim=1) - self.truth[block]) * self.share[block, None]
            weight_gradient += error.T @ pixels
            bias_gradient += error.sum(dim=0)
        each = nn.functional.cross_entropy(self.logits.double(), self.label, reduction="none")
        ridge = self.model.l2 / self.total
        squares = float(weight.double().square().sum())
        smooth = float(each @ self.share.double()) + ridge / 2 * squares
        weight.grad, bias.grad = weight_gradient.add_(weight, alpha=ridge), bias_gradient
        uncentred = weight.grad + bias_gradient[:, None] * self.linear.centre
        self.gradient = max(float(uncentred.abs().max()), float(bias_gradient.abs().max()))
        self.loss = float(each.clamp_max(-MIN_LOG_PROBABILITY).mean())
        self.objective = smooth + self.model.l1 / self.total * float(weight.abs().sum())
        return smooth

    def mean_image(self) -> Tensor:
        """Return the mean input of the network, ``(D,)``."""
        mean = torch.zeros_like(self.linear.centre)
        for block, pixels in self._blocks(centred=False):
            mean += self.share[block] @ pixels
        return mean

    @torch.no_grad()
    def curvature(self) -> float:
        """Bound the curvature of the smooth objective by half the largest eigenvalue of the images' covariance.

        By power iteration, from a fixed start.

        Source: Böhning (1992), Multinomial logistic regression algorithm, for the half.
        """
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(self.linear.centre.shape, generator=generator).to(self.linear.centre)
        largest = 0.0
        for _ in range(POWER_ITERATIONS):
            direction /= direction.norm()
            product = torch.zeros_like(direction)
            for block, pixels in self._blocks():
                product += (pixels @ direction * self.share[block]) @ pixels
            largest, direction = float(product.norm()), product
        return MARGIN * max(largest, 1.0) / 2 + self.model.l2 / self.total

    def _blocks(self, *, centred: bool = True) -> Iterator[tuple[slice, Tensor]]:
        """Yield inputs of the network in blocks: as floats, all images together would need four times their memory."""
        with torch.autocast(self.label.device.type, enabled=False):
            offset = self.offset - self.linear.centre if centred else self.offset
            for start in range(0, len(self.image), self.rows):
                block = slice(start, start + self.rows)
                levels = self.image[block].expand(-1, self.model.options.channels, -1, -1).flatten(1)
                yield block, torch.add(offset, levels.to(offset.dtype), alpha=self.gain)


def _check(C: float, penalty: str, l1_ratio: float, solver: str, max_iter: int, tolerance: float) -> None:
    ranges = {
        "C": (C, C > 0 and math.isfinite(C), "finite and above 0; the smaller, the stronger the penalty"),
        "l1_ratio": (l1_ratio, 0 <= l1_ratio <= 1, "from 0 (all l2) to 1 (all l1)"),
        "max_iter": (max_iter, max_iter >= 1, "a number of steps, 1 or more"),
        "tolerance": (tolerance, tolerance > 0, "above 0"),
    }
    for name, (value, good, wanted) in ranges.items():
        if not good:
            raise ConfigError(f"model.{name}={value} is out of range: it must be {wanted}.")
    for name, chosen, known in (("penalty", penalty, PENALTIES), ("solver", solver, SOLVERS)):
        if chosen not in known:
            raise ConfigError(f"model.{name}={chosen} is not known; choose one of {', '.join(known)}.{nearest(chosen, known)}")
    if penalty not in SOLVERS[solver]:
        raise ConfigError(
            f"model.solver={solver} can't minimise model.penalty={penalty}, which is not smooth at zero. Use "
            "model.solver=proximal or auto."
        )
