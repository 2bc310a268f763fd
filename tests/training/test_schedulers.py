"""Schedules against their formulas."""

import math

import numpy as np
import pytest
import torch
from builders import few_images, quick_fit
from lightning.pytorch.callbacks import Callback

from pneumonia.config.schema import SplitConfig
from pneumonia.errors import ConfigError, TargetError
from pneumonia.models.factory import build_classifier
from pneumonia.models.optimization import build_optimizer, build_schedule
from pneumonia.models.options import ClassifierOptions

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
def test_schedule_by_epoch_equals_its_formula(name):
    settings, formula = FORMULAS[name]
    optimizer = _optimizer()
    schedule = build_schedule(optimizer, {"_target_": f"pneumonia.training.schedulers.{name}", **settings}, EPOCHS, STEPS)
    assert schedule["interval"] == "epoch"
    for epoch in range(EPOCHS):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(formula(epoch), rel=1e-12)
        optimizer.step()
        schedule["scheduler"].step()


def test_plateau_equals_its_definition():
    losses = [1.0, 0.8, 0.79999, 0.9, 0.85, 0.7, *([0.7] * 24)]
    optimizer = _optimizer()
    words = {"_target_": "pneumonia.training.schedulers.plateau", "factor": 0.3, "patience": 2, "least": 0.01}
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


def test_one_cycle_equals_two_half_cosines():
    optimizer = _optimizer("SGD", momentum=0.9)
    schedule = build_schedule(optimizer, {"_target_": "pneumonia.training.schedulers.one_cycle", "warmup": 0.3}, EPOCHS, STEPS)
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
def test_one_cycle_reaches_lr_with_every_optimizer(name, more):
    optimizer = _optimizer(name, **more)
    schedule = build_schedule(optimizer, {"_target_": "pneumonia.training.schedulers.one_cycle", "warmup": 0.3}, EPOCHS, STEPS)
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


class _Rates(Callback):
    """The learning rate of each optimizer step."""

    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


MLP = {"_target_": "pneumonia.models.mlp.MLP", "hidden": [2]}
ONE_CYCLE = {"_target_": "pneumonia.training.schedulers.one_cycle", "warmup": 0.3}


def _fitted(data, epochs, **options):
    """A trainer after its last step, and the rate of each step."""
    noted = _Rates()
    optimizer = {"_target_": "torch.optim.SGD", "lr": LR, "momentum": 0.9}
    classifier = build_classifier(MLP, ClassifierOptions("pneumonia", image_size=8, optimizer=optimizer, scheduler=ONE_CYCLE))
    return quick_fit(classifier, data, epochs, callbacks=[noted], **options), noted.rates


def _closed_form(steps):
    optimizer = _optimizer("SGD", momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.3)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def _few(images, **more):
    pixels = np.random.default_rng(0).integers(0, 256, (images, 8, 8)).astype(np.uint8)
    return few_images(pixels, (["NORMAL", "VIRUS"] * images)[:images], **more)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 3 * 5),  # 21 images in batches of 4: the last has five
        ({"limit_train_batches": 2}, 3 * 2),
        ({"limit_train_batches": 0.5}, 3 * 2),
        ({"limit_train_batches": 100}, 3 * 5),
        ({"accumulate_grad_batches": 2}, 3 * 3),
        ({"accumulate_grad_batches": 3, "limit_train_batches": 4}, 3 * 2),
        ({"accumulate_grad_batches": 100}, 3 * 1),
        ({"max_steps": 7}, 7),
        ({"max_steps": 4, "accumulate_grad_batches": 2, "limit_train_batches": 3}, 4),
        ({"fast_dev_run": 2}, 2),
    ],
)
def test_one_cycle_spans_all_steps(options, steps):
    trainer, rates = _fitted(_few(21, batch_size=4), 3, **options)
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == trainer.global_step == len(rates) == steps
    assert rates == pytest.approx(_closed_form(steps), rel=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 3},
        {"limit_train_batches": 4},
        {"limit_train_batches": 0.5, "accumulate_grad_batches": 2},
        {"max_steps": 9},
    ],
)
@pytest.mark.parametrize("every", [1, 2])
def test_one_cycle_spans_all_rotating_folds(every, options):
    data = _few(23, batch_size=4, split_config=SplitConfig("rotating", every=every))
    data.split["fold"] = np.repeat([0, 1, 2, 0, 1, 2], [2, 7, 14, 3, 4, 16])
    data.split["subset"] = np.where(data.split["fold"] == 0, "val", "train")
    trainer, rates = _fitted(data, 5, reload_dataloaders_every_n_epochs=1, **options)
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == trainer.global_step == len(rates)
    assert rates == pytest.approx(_closed_form(len(rates)), rel=1e-9)
    assert len({data.train_batches(epoch) for epoch in range(5)}) > 1, "the case would show nothing"


@pytest.mark.parametrize("options", [{"limit_train_batches": 3}, {"max_steps": 4}, {}])
def test_one_cycle_spans_all_manual_steps(options):
    online = {"_target_": "pneumonia.models.perceptron.Perceptron"}
    classifier = build_classifier(online, ClassifierOptions("pneumonia", image_size=8, scheduler=ONE_CYCLE))
    trainer = quick_fit(classifier, _few(21, batch_size=4), 2, **options)
    schedule = trainer.lr_scheduler_configs[0].scheduler
    assert schedule.total_steps == trainer.global_step == schedule.last_epoch


def test_unknown_schedule_is_refused():
    with pytest.raises(TargetError, match="was not imported"):
        build_schedule(_optimizer(), {"_target_": "os.system"}, 1, 1)
    for name in ("stepp", "math", "LambdaLR"):
        with pytest.raises(TargetError, match=r"is not a schedule.* constant, step, exponential"):
            build_schedule(_optimizer(), {"_target_": f"pneumonia.training.schedulers.{name}"}, 1, 1)
    with pytest.raises(ConfigError, match="does not take the arguments"):
        build_schedule(_optimizer(), {"_target_": "pneumonia.training.schedulers.step", "pace": 1}, 1, 1)
