"""What a run has to know of Lightning's callback classes, by their names: nothing is imported."""

from typing import Final

PACKAGES: Final = ("lightning.", "pytorch_lightning.")
OBSERVERS: Final = (  # they change no weight, so that a run keeps its id with or without them
    *("LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor", "ModelSummary", "RichModelSummary"),
    *("RichProgressBar", "TQDMProgressBar", "ModelCheckpoint", "OnExceptionCheckpoint"),
)
EARLY_STOPPING: Final = "EarlyStopping"
REPLACED: Final = {  # by a key of the run, whose checkpoints and identity know of it
    "WeightAveraging": "ema=0.99 or swa=0.75",
    "EMAWeightAveraging": "ema=0.99",
    "StochasticWeightAveraging": "swa=0.75",
    "Timer": "trainer.max_time=DD:HH:MM:SS",
    "GradientAccumulationScheduler": "trainer.accumulate_grad_batches=N",
    "BaseFinetuning": "model.frozen_epochs=N of model=backbone",
    "BackboneFinetuning": "model.frozen_epochs=N of model=backbone",
    "LearningRateFinder": "tune=lr",
    "BatchSizeFinder": "tune=batch_size",
}
UNLOADABLE: Final = {"ModelPruning": "replaces weights by masked ones"}  # why its weights do not fit the network


def lightning_class(target: str) -> str:
    """Return the name of the class, if it is one of Lightning's; else nothing."""
    return target.rpartition(".")[2] if target.startswith(PACKAGES) else ""


def only_observes(target: str) -> bool:
    """Whether a callback leaves the result of a training as it is."""
    return lightning_class(target) in OBSERVERS
