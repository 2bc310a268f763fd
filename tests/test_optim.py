"""Schedules against their formulas, optimisers by class."""

import math

import pytest
import torch

from pneumonia.errors import ConfigError
from pneumonia.optim import build_optimizer, build_schedule

LR, EPOCHS, STEPS = 0.06, 30, 300
FORMULAS = {
    "constant": ({}, lambda e: LR),
    "exponential": ({"rate": 0.22}, lambda e: LR * math.exp(-0.22 * e)),
    "step": ({"drop": 0.234, "every": 3}, lambda e: LR * 0.234 ** ((1 + e) / 3)),
    "cosine": ({}, lambda e: LR * (1 + math.cos(math.pi * e / EPOCHS)) / 2),
}


def _optimizer(name: str = "SGD", **more):
    return build_optimizer([torch.nn.Parameter(torch.zeros(1))], {"_target_": f"torch.optim.{name}", "lr": LR, **more})


@pytest.mark.parametrize("name", FORMULAS)
def test_a_schedule_by_epoch_has_the_studys_values_for_thirty_epochs(name):
    settings, formula = FORMULAS[name]
    optimizer = _optimizer()
    schedule = build_schedule(optimizer, {"_target_": f"pneumonia.optim.{name}", **settings}, EPOCHS, STEPS)
    assert schedule["interval"] == "epoch"
    for epoch in range(EPOCHS):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(formula(epoch), rel=1e-12)
        optimizer.step()
        schedule["scheduler"].step()


def test_a_plateau_has_the_values_of_its_definition_for_thirty_epochs():
    losses = [1.0, 0.8, 0.79999, 0.9, 0.85, 0.7, *([0.7] * 24)]
    optimizer = _optimizer()
    words = {"_target_": "pneumonia.optim.plateau", "factor": 0.3, "patience": 2, "least": 0.01}
    schedule = build_schedule(optimizer, words, EPOCHS, STEPS)
    assert schedule["monitor"] == "val/loss"
    best, waited, expected = math.inf, 0, LR
    for loss in losses:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        schedule["scheduler"].step(loss)
        best, waited = (loss, 0) if loss < best * (1 - 1e-4) else (best, waited + 1)
        if waited > 2:
            expected, waited = max(0.3 * expected, 0.01 * LR), 0
    assert expected == pytest.approx(0.01 * LR)


def test_one_cycle_has_the_values_of_two_half_cosines_at_every_step_of_thirty_epochs():
    optimizer = _optimizer("SGD", momentum=0.9)
    schedule = build_schedule(optimizer, {"_target_": "pneumonia.optim.one_cycle", "warmup": 0.3}, EPOCHS, STEPS)
    top = 0.3 * STEPS - 1
    for step in range(STEPS):
        if step <= top:
            low, high, share = LR / 25, LR, step / top
        else:
            low, high, share = LR, LR / 25 / 1e4, (step - top) / (STEPS - 1 - top)
        expected = high + (low - high) * (1 + math.cos(math.pi * share)) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        if step < STEPS - 1:
            schedule["scheduler"].step()


@pytest.mark.parametrize(
    ("name", "more"), [("SGD", {"momentum": 0.9}), ("SGD", {}), ("Adam", {}), ("RMSprop", {}), ("Adagrad", {})]
)
def test_one_cycle_climbs_to_the_rate_by_step_and_ends_near_zero_for_every_optimiser(name, more):
    optimizer = _optimizer(name, **more)
    schedule = build_schedule(optimizer, {"_target_": "pneumonia.optim.one_cycle", "warmup": 0.3}, EPOCHS, STEPS)
    assert schedule["interval"] == "step"
    rates = []
    for step in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < STEPS - 1:
            schedule["scheduler"].step()
    assert max(rates) == pytest.approx(LR)
    assert rates.index(max(rates)) == round(0.3 * STEPS) - 1
    assert rates[0] == pytest.approx(LR / 25)
    assert rates[-1] < LR / 1000


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_target_": "torch.optim.Adamm", "lr": 1}, "Did you mean 'Adam'"),
        ({"_target_": "torch.nn.Linear", "lr": 1}, "is not an optimiser"),
        ({"_target_": "torch.optim.Adagrad", "lr": 1, "momentum": 0.9}, "refuses its settings"),
        ({"_target_": "torch.optim.SGD", "lr": 1, "nesterov": True}, "refuses its settings"),
    ],
)
def test_a_wrong_optimiser_is_refused_by_name(config, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer([torch.nn.Parameter(torch.zeros(1))], config, own=["torch.nn.Linear"])


def test_a_wrong_schedule_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"choose one of constant, step"):
        build_schedule(_optimizer(), {"_target_": "os.system"}, 1, 1)
    with pytest.raises(ConfigError, match="refuses its settings"):
        build_schedule(_optimizer(), {"_target_": "pneumonia.optim.step", "pace": 1}, 1, 1)
