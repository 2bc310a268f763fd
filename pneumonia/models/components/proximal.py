"""Accelerated proximal gradient descent for objectives with an l1 term."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class ProximalGradient(Optimizer):
    """FISTA with restarts for ``f(weight, bias) + l1 |weight|_1``, f smooth and convex; the bias is not penalised.

    Args:
        weight: Penalised.
        bias: Not penalised.
        lr: Step; the inverse of a bound on the curvature of f.
        l1: Strength of the penalty.
        max_iter: Iterations in each call of ``step``.
        tolerance: Ends a call when no entry of the proximal gradient mapping, ``(y - prox(y - lr * grad)) / lr``, is larger.

    Attributes:
        slope: That largest entry, as it was last seen.

    Source: Beck and Teboulle (2009), A fast iterative shrinkage-thresholding algorithm; restarts: O'Donoghue and Candès (2015),
    Adaptive restart for accelerated gradient schemes.
    """

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter, *, lr: float, l1: float, max_iter: int, tolerance: float
    ) -> None:
        super().__init__([weight, bias], {"lr": lr, "l1": l1, "max_iter": max_iter, "tolerance": tolerance})
        self.slope = math.inf

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]
        """Do one iteration; the parameters become the iterate, and the state holds its extrapolation.

        Args:
            closure: Sets the gradients of f at the parameters.
        """
        group = self.param_groups[0]
        parameters: list[nn.Parameter] = group["params"]
        rate, limits = group["lr"], (group["lr"] * group["l1"], 0.0)  # weight, bias
        for parameter in parameters:
            held = self.state[parameter]
            held.setdefault("ahead", parameter.detach().clone())
            held.setdefault("momentum", 1.0)
        for _ in range(group["max_iter"]):
            old = [parameter.detach().clone() for parameter in parameters]
            for parameter in parameters:
                parameter.copy_(self.state[parameter]["ahead"])
            closure()
            against, self.slope = 0.0, 0.0
            for parameter, before, limit in zip(parameters, old, limits, strict=True):
                ahead = self.state[parameter]["ahead"]
                parameter.copy_(nn.functional.softshrink(ahead - rate * parameter.grad, limit))
                against += float(((ahead - parameter) * (parameter - before)).sum())
                self.slope = max(self.slope, float((ahead - parameter).abs().max()) / rate)
            for parameter, before in zip(parameters, old, strict=True):
                self._look_ahead(parameter, before, restart=against > 0)
            if self.slope <= group["tolerance"]:
                return

    def _look_ahead(self, parameter: nn.Parameter, before: Tensor, *, restart: bool) -> None:
        held = self.state[parameter]
        momentum = 1.0 if restart else held["momentum"]
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        held["ahead"] = parameter + (0.0 if restart else (momentum - 1) / following) * (parameter - before)
        held["momentum"] = following
