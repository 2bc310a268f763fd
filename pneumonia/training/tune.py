"""Suggest a learning rate or a batch size with Lightning's Tuner, without training a run."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from lightning import Trainer
from lightning.pytorch.tuner.tuning import Tuner
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from pneumonia.config.choices import ConstantConfig
from pneumonia.config.schema import TrainConfig
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.errors import ConfigError
from pneumonia.runs.identity import run_identity
from pneumonia.system.console import say
from pneumonia.system.device import device_of
from pneumonia.system.files import check_writable, replacing
from pneumonia.system.memory import limited_memory
from pneumonia.training.continuation import identifying_values
from pneumonia.training.fit import build_trainer
from pneumonia.training.prepare import PreparedRun, prepare_run

STEPS: Final = 100  # of the learning-rate test
LR_RANGE: Final = (1e-7, 1.0)
BETA: Final = 0.98  # of Lightning's average
WIDTH: Final = 3.0  # of the Gaussian, in steps
FEWEST: Final = 10  # steps before the minimum
STEPS_PER_SIZE: Final = 3
LARGEST_BATCH: Final = 8192
MEMORY_SHARE: Final = 0.8  # of the free memory of the machine, which a batch on the CPU may take


def tune(config: TrainConfig) -> str:
    """Print the override that ``tune`` suggests, and return it.

    Args:
        config: With ``tune=lr`` or ``tune=batch_size``.

    Returns:
        ``optimizer.lr=...`` or ``batch_size=...``.

    Raises:
        PneumoniaError: Bad data or config, or a family that does not learn by optimizer steps.
    """
    folder = Path(config.runs_dir) / config.name
    check_writable(folder)
    wanted = config
    config = replace(config, scheduler=ConstantConfig(), max_epochs=STEPS)  # one step an epoch suffices
    run = prepare_run(config, RunDataCache())
    if run.classifier.training_rule:
        raise ConfigError(
            f"tune={config.tune} finds nothing for {type(run.classifier).__name__}, which learns {run.classifier.training_rule}."
        )
    trainer = build_trainer(replace(config, trainer=replace(config.trainer, devices=1, strategy="auto")), [])
    if config.tune == "batch_size":
        return _batch_size(config, run, trainer)
    run_id = run_identity(identifying_values(wanted), **run.data.hashes)
    return _learning_rate(config, run, trainer, folder / f"tune-lr-{run_id}.png")


def _learning_rate(config: TrainConfig, run: PreparedRun, trainer: Trainer, picture: Path) -> str:
    """Raise the rate from step to step, draw the loss, and suggest a rate; see :func:`steepest`."""
    least, most = LR_RANGE
    say(f"Testing {STEPS} learning rates from {least:g} to {most:g}")
    found = Tuner(trainer).lr_find(
        run.classifier, datamodule=run.data, min_lr=least, max_lr=most, num_training=STEPS, update_attr=False
    )
    rates, losses = (np.array([] if found is None else found.results[key][:STEPS]) for key in ("lr", "loss"))
    loss = smoothed(losses)
    best = steepest(rates, loss)
    if best is None:
        raise ConfigError(
            f"tune=lr found no rate: the loss never fell between {least:g} and {most:g}. Check the data and the model, or set "
            "optimizer.lr by hand."
        )
    with replacing(picture) as part:
        _draw(rates, loss, best, type(run.classifier).__name__, part)
    suggestion = f"optimizer.lr={rates[best]:.2g}"
    now = getattr(config.optimizer, "lr", None)
    say(
        f"The loss falls fastest at {rates[best]:.2g} (optimizer.lr={now} now). Use [bold]{suggestion}[/]; the curve is in "
        f"{picture}"
    )
    return suggestion


def smoothed(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the training losses of a rate test, smoothed without lag by a Gaussian.

    Lightning's test gives an exponential average that lags by 50 steps and starts at half its value: its bias is divided by
    ``1 - BETA ** (step + 2)`` instead of ``step + 1``. The losses themselves follow from it.
    """
    steps = np.arange(len(losses))
    average = losses * (1 - BETA ** (steps + 2))
    raw = (average - BETA * np.concatenate([[0.0], average[:-1]])) / (1 - BETA)
    finite = raw[np.isfinite(raw)]
    return np.asarray(gaussian_filter1d(finite, WIDTH), dtype=np.float64) if len(finite) else finite


def steepest(rates: NDArray[np.float64], loss: NDArray[np.float64]) -> int | None:
    """Return the step at which the loss falls fastest by the logarithm of the rate; ``None`` if it never falls.

    Source: Smith (2017), Cyclical learning rates for training neural networks.
    """
    end = int(loss.argmin()) + 1 if len(loss) else 0
    if end < FEWEST:
        return None
    slope = np.gradient(loss[:end], np.log10(rates[:end]))
    return int(slope.argmin()) if slope.min() < 0 else None


def _draw(rates: NDArray[np.float64], loss: NDArray[np.float64], best: int, family: str, path: Path) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(rates[: len(loss)], loss)
    axes.plot(rates[best], loss[best], "o", color="tab:red")
    axes.annotate(f"{rates[best]:.2g}", (rates[best], loss[best]), xytext=(8, 8), textcoords="offset points")
    axes.set(title=f"{family}: the training loss while the learning rate rises", xlabel="optimizer.lr", ylabel="training loss")
    axes.set_ylim(top=max(float(loss[: best + 1].max()), float(loss[0])) * 1.2)
    figure.savefig(path, format="png", dpi=150)


def _batch_size(config: TrainConfig, run: PreparedRun, trainer: Trainer) -> str:
    """Double the batch until the memory does not suffice, or it holds all training images."""
    say("Doubling the batch until the memory is full or a batch holds all training images")
    with limited_memory(MEMORY_SHARE) if device_of(config.trainer).type == "cpu" else nullcontext():
        size = Tuner(trainer).scale_batch_size(
            run.classifier, datamodule=run.data, mode="power", steps_per_trial=STEPS_PER_SIZE, init_val=8, max_val=LARGEST_BATCH
        )
    if size is None:
        raise ConfigError("tune=batch_size found no size: the first batch does not fit. Use a smaller image_size or model.")
    suggestion = f"batch_size={size}"
    say(
        f"The largest batch that fits is {size}. Use [bold]{suggestion}[/] for speed; larger batches mean fewer steps an epoch "
        "and usually need a larger optimizer.lr (tune=lr with that size)"
    )
    return suggestion
