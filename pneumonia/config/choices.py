"""The built-in choices of the groups; a node is given the class whose ``_target_`` (or ``kind``) and keys it has."""

from dataclasses import dataclass
from functools import partial
from typing import Final

from pneumonia.config.declarations import ranged
from pneumonia.config.nodes import (
    CallbackConfig,
    LauncherConfig,
    ModelConfig,
    Node,
    OptimizerConfig,
    SchedulerConfig,
    TrainerConfig,
)

width = partial(ranged, "a whole number of channels", at_least=1, at_most=4096)
dropout = partial(ranged, "a fraction", at_least=0, at_most=0.99)
lr = partial(ranged, "a learning rate", above=0, at_most=1000)
weight_decay = partial(ranged, "a number", at_least=0)
momentum = partial(ranged, "a number", at_least=0, below=1)
n_jobs = partial(ranged, "a number of parallel jobs", at_least=1, at_most=1024)
cores = partial(ranged, "a number of cores", at_least=1, at_most=1024)
gpus = partial(ranged, "a number of GPUs, or a share of one,", at_least=0, at_most=64)


@dataclass(kw_only=True)
class PerceptronConfig(ModelConfig):
    """See ``conf/model/perceptron.yaml``."""

    _target_: str = "pneumonia.models.perceptron.Perceptron"
    online: bool


@dataclass(kw_only=True)
class MLPConfig(ModelConfig):
    """See ``conf/model/mlp.yaml``."""

    _target_: str = "pneumonia.models.mlp.MLP"
    hidden: list[int]
    dropout: float = dropout()
    activation: str


@dataclass(kw_only=True)
class LogisticRegressionConfig(ModelConfig):
    """See ``conf/model/logistic_regression.yaml``."""

    _target_: str = "pneumonia.models.logistic_regression.LogisticRegression"
    C: float
    penalty: str
    l1_ratio: float
    solver: str
    max_iter: int
    tolerance: float


@dataclass(kw_only=True)
class SimpleCNNConfig(ModelConfig):
    """See ``conf/model/simple_cnn.yaml``."""

    _target_: str = "pneumonia.models.simple_cnn.SimpleCNN"
    width: int = width()
    dense: int
    dropout: float = dropout()
    activation: str


@dataclass(kw_only=True)
class PseudoResNetConfig(ModelConfig):
    """See ``conf/model/pseudo_resnet.yaml``."""

    _target_: str = "pneumonia.models.pseudo_resnet.PseudoResNet"
    width: int = width()
    depth: int = ranged("a whole number of blocks", at_least=1, at_most=100)
    dropout: float = dropout()
    activation: str


@dataclass(kw_only=True)
class BackboneConfig(ModelConfig):
    """See ``conf/model/backbone.yaml``."""

    _target_: str = "pneumonia.models.backbone.Backbone"
    name: str
    pretrained: bool
    weights: str | None
    dropout: float = dropout()
    drop_path: float
    frozen_epochs: int | None
    unfreeze_every: int
    layer_decay: float
    head_lr: float


@dataclass(kw_only=True)
class PlainSGDConfig(OptimizerConfig):
    """Gradient descent without momentum or decay."""

    _target_: str = "torch.optim.SGD"
    lr: float = lr()


@dataclass(kw_only=True)
class SGDConfig(PlainSGDConfig):
    """Stochastic gradient descent with momentum."""

    momentum: float = momentum()
    nesterov: bool
    weight_decay: float = weight_decay()


@dataclass(kw_only=True)
class AdamConfig(OptimizerConfig):
    """See :class:`torch.optim.Adam`."""

    _target_: str = "torch.optim.Adam"
    lr: float = lr()
    weight_decay: float = weight_decay()


@dataclass(kw_only=True)
class AdamWConfig(AdamConfig):
    """See :class:`torch.optim.AdamW`."""

    _target_: str = "torch.optim.AdamW"


@dataclass(kw_only=True)
class AdagradConfig(AdamConfig):
    """See :class:`torch.optim.Adagrad`."""

    _target_: str = "torch.optim.Adagrad"


@dataclass(kw_only=True)
class RMSpropConfig(AdamConfig):
    """See :class:`torch.optim.RMSprop`."""

    _target_: str = "torch.optim.RMSprop"
    momentum: float = momentum()


@dataclass(kw_only=True)
class ConstantConfig(SchedulerConfig):
    """A constant learning rate."""

    _target_: str = "pneumonia.training.schedulers.constant"


@dataclass(kw_only=True)
class StepConfig(SchedulerConfig):
    """The study's step decay."""

    _target_: str = "pneumonia.training.schedulers.step"
    drop: float = ranged("a factor", above=0, at_most=1)
    every: float = ranged("a number of epochs", above=0)


@dataclass(kw_only=True)
class ExponentialConfig(SchedulerConfig):
    """The study's exponential decay."""

    _target_: str = "pneumonia.training.schedulers.exponential"
    rate: float = ranged("a decay rate", at_least=0)


@dataclass(kw_only=True)
class CosineConfig(SchedulerConfig):
    """Cosine annealing."""

    _target_: str = "pneumonia.training.schedulers.cosine"


@dataclass(kw_only=True)
class OneCycleConfig(SchedulerConfig):
    """One cycle over the whole run."""

    _target_: str = "pneumonia.training.schedulers.one_cycle"
    warmup: float = ranged("a fraction of the steps", above=0, at_most=0.99)


@dataclass(kw_only=True)
class PlateauConfig(SchedulerConfig):
    """A lower learning rate whenever ``val/loss`` stops falling."""

    _target_: str = "pneumonia.training.schedulers.plateau"
    factor: float = ranged("a factor", above=0, below=1)
    patience: int = ranged("a number of epochs", at_least=0)
    least: float = ranged("a fraction of the learning rate", at_least=0, at_most=1)


@dataclass(kw_only=True)
class LocalConfig(LauncherConfig):
    """One job after the other in this process."""

    kind: str = "local"


@dataclass(kw_only=True)
class ParallelConfig(LauncherConfig):
    """Several processes on this machine."""

    kind: str = "parallel"
    n_jobs: int | None = n_jobs()
    gpus: list[int] | None


@dataclass(kw_only=True)
class SlurmConfig(LauncherConfig):
    """Jobs of SLURM."""

    kind: str = "slurm"
    n_jobs: int | None = n_jobs()
    partition: str | None
    cpus_per_job: int | None = cores()
    gpus_per_job: float = gpus()
    mem_gb: float | None = ranged("a number of GB", above=0)


@dataclass(kw_only=True)
class RayConfig(LauncherConfig):
    """Tasks of Ray."""

    kind: str = "ray"
    address: str | None
    n_jobs: int | None = n_jobs()
    cpus_per_job: int | None = cores()
    gpus_per_job: float = gpus()


CHOICES: Final[dict[str, tuple[type[Node], ...]]] = {
    "model": (
        PerceptronConfig,
        MLPConfig,
        LogisticRegressionConfig,
        SimpleCNNConfig,
        PseudoResNetConfig,
        BackboneConfig,
        ModelConfig,
    ),
    "optimizer": (
        SGDConfig,
        PlainSGDConfig,
        AdamConfig,
        AdamWConfig,
        AdagradConfig,
        RMSpropConfig,
        OptimizerConfig,
    ),
    "scheduler": (
        ConstantConfig,
        StepConfig,
        ExponentialConfig,
        CosineConfig,
        OneCycleConfig,
        PlateauConfig,
        SchedulerConfig,
    ),
    "trainer": (TrainerConfig,),
    "callbacks": (CallbackConfig,),
    "launcher": (LocalConfig, ParallelConfig, SlurmConfig, RayConfig, LauncherConfig),
}
