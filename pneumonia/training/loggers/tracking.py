"""Mirror a run in the trackers of its config, and close each with the true status."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer

from pneumonia.config.schema import LoggerConfig, TrainConfig
from pneumonia.errors import ConfigError, TimeLimitReached
from pneumonia.models.base import Classifier
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.result import RunResult
from pneumonia.system.console import say
from pneumonia.training.loggers.mirror import Facts, Mirror, Status
from pneumonia.training.loggers.record import TrackerRecord
from pneumonia.training.loggers.steps import StepsCsv
from pneumonia.training.loggers.wandb_account import mode_of

WATCH_EVERY: Final = 100  # steps, as W&B has it


class Follower(Checkpoint):
    """Send each epoch after its row is written; a ``Checkpoint``, so that Lightning calls it after ``MetricsCsv``.

    Args:
        mirrors: Of the run.
        every_n_steps: Optimizer steps between gradients, for mirrors that send them.
    """

    def __init__(self, mirrors: Sequence[Mirror], every_n_steps: int = WATCH_EVERY) -> None:
        self.mirrors, self.every_n_steps = mirrors, every_n_steps

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if (trainer.global_step + 1) % self.every_n_steps == 0:
            for mirror in self.mirrors:
                mirror.tensors(pl_module.network if isinstance(pl_module, Classifier) else pl_module, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for mirror in self.mirrors:
            mirror.epochs()


def loggers_of(folder: RunFolder, mirrors: Sequence[Mirror]) -> list[Logger]:
    """Return Lightning's loggers of a run: of its steps, and of the mirrors that work."""
    return [StepsCsv(folder), *(mirror.logger for mirror in mirrors if mirror.logger is not None)]


def build_mirrors(
    folder: RunFolder, config: TrainConfig, facts: Facts, options: LoggerConfig, keep_offline: bool = True, training: bool = True
) -> list[Mirror]:
    """Build a mirror of a run for each tracker; nothing is sent yet.

    Args:
        folder: The run.
        config: Of the run.
        facts: Of the run.
        options: Of the trackers.
        keep_offline: Whether to write files where W&B can't be reached.
        training: Whether the run is being trained, for messages.
    """
    mirrors: list[Mirror] = []
    if options.wandb is not None:
        if mode_of(options.wandb.mode) == "disabled":
            say("W&B: off, as WANDB_MODE=disabled in the environment says")
        else:
            from pneumonia.training.loggers.wandb import WandbMirror

            mirrors.append(WandbMirror(folder, config, facts, options.wandb, keep_offline))
    if options.tensorboard is not None:
        from pneumonia.training.loggers.tensorboard import TensorBoardMirror

        mirrors.append(TensorBoardMirror(folder, config, facts, options.tensorboard))
    if options.mlflow is not None:
        from pneumonia.training.loggers.mlflow import MLflowMirror

        mirrors.append(MLflowMirror(folder, config, facts, options.mlflow))
    for mirror in mirrors:
        mirror.training = training
    return mirrors


@contextmanager
def mirrored(folder: RunFolder, config: TrainConfig, facts: Facts) -> Iterator[list[Mirror]]:
    """Mirror the run of a block in the trackers of its config, and close each with the true status."""
    mirrors, status = build_mirrors(folder, config, facts, config.logger), Status.FAILED
    for mirror in mirrors:
        mirror.open()
    try:
        yield mirrors
        status = Status.FINISHED
    except (KeyboardInterrupt, TimeLimitReached):
        status = Status.INTERRUPTED
        raise
    finally:
        for mirror in mirrors:
            mirror.close(status)  # or the next run of this process would log into this one


def mirror_finished(folder: RunFolder, config: TrainConfig, facts: Facts, result: RunResult) -> None:
    """Send a finished run to the W&B run that a sweep agent has opened for it.

    An agent that proposes the same values again has a trial without metrics otherwise.
    """
    if config.logger.wandb is None:
        return
    from pneumonia.training.loggers.wandb import given_id

    given = given_id(folder)
    if not given or TrackerRecord.read(folder, "wandb").id == given:
        return
    with mirrored(folder, config, facts) as mirrors:
        for mirror in mirrors:
            mirror.epochs()
            mirror.result(result)


def check_tracking(logger: LoggerConfig, mlflow_setting: str = "logger.mlflow.tracking_uri=") -> None:
    """Refuse trackers that can't be used, before training.

    Args:
        logger: The trackers.
        mlflow_setting: What sets the address of MLflow, for messages.

    Raises:
        ConfigError: A package is missing, or an option can't work.
    """
    for name in logger.trackers:
        if find_spec(name) is None:
            raise ConfigError(
                f"logger={name} needs a package that is not installed: pip install 'pneumonia[{name}]'. logger=csv does without."
            )
    if logger.wandb is not None:
        from pneumonia.training.loggers.wandb import check_wandb

        check_wandb(logger.wandb)
    if logger.mlflow is not None:
        from pneumonia.training.loggers.mlflow import tracking_uri

        tracking_uri(logger.mlflow, mlflow_setting)
