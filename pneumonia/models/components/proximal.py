"""Accelerated proximal gradient descent, for objectives with an l1 norm."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class ProximalGradient(Optimizer):
    """FISTA with restarts for ``f(weight, bias) + l1 |weight|_1``, where f is smooth and convex; the bias is not penalised.

    Args:
        weight: Penalised.
        bias: Not penalised.
        lr: Step; the inverse of a bound on the curvature of f.
        l1: Strength of the penalty.
        max_iter: Iterations in each call of ``step``.
        tolerance: Ends a call when no entry of the proximal gradient mapping, ``(y - prox(y - lr * grad)) / lr``, is larger.

    Attributes:
        gradient: The largest entry in the last iteration.

    Source: Beck and Teboulle (2009), A fast iterative shrinkage-thresholding algorithm; restarts: O'Donoghue and Candès (2015),
    Adaptive restart for accelerated gradient schemes.
    """

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter, *, lr: float, l1: float, max_iter: int, tolerance: float
    ) -> None:
        super().__init__([weight, bias], {"lr": lr, "l1": l1, "max_iter": max_iter, "tolerance": tolerance})
        self.gradient = math.inf

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]
        """Iterate; the parameters are the last iterate, and the state holds the extrapolation from it.

        Args:
            closure: Sets the gradients of f at the parameters.
        """
        group = self.param_groups[0]
        parameters: list[nn.Parameter] = group["params"]
        rate, limits = group["lr"], (group["lr"] * group["l1"], 0.0)  # weight, bias
        for parameter in parameters:
            state = self.state[parameter]
            state.setdefault("ahead", parameter.detach().clone())
            state.setdefault("momentum", 1.0)
        for _ in range(group["max_iter"]):
            old = [parameter.detach().clone() for parameter in parameters]
            for parameter in parameters:
                parameter.copy_(self.state[parameter]["ahead"])
            closure()
            against, self.gradient = 0.0, 0.0
            for parameter, before, limit in zip(parameters, old, limits, strict=True):
                ahead = self.state[parameter]["ahead"]
                parameter.copy_(nn.functional.softshrink(ahead - rate * parameter.grad, limit))
                against += float(((ahead - parameter) * (parameter - before)).sum())
                self.gradient = max(self.gradient, float((ahead - parameter).abs().max()) / rate)
            for parameter, before in zip(parameters, old, strict=True):
                self._extrapolate(parameter, before, restart=against > 0)
            if self.gradient <= group["tolerance"]:
                return

    def _extrapolate(self, parameter: nn.Parameter, before: Tensor, *, restart: bool) -> None:
        state = self.state[parameter]
        momentum = 1.0 if restart else state["momentum"]
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        state["ahead"] = parameter + (0.0 if restart else (momentum - 1) / following) * (parameter - before)
        state["momentum"] = following
