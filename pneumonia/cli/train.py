"""Run `pneumonia train`, a Hydra application with the primary config conf/train.yaml."""

from __future__ import annotations

import io
import os
import sys
from contextlib import ExitStack, nullcontext, redirect_stderr
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia.cli import wants_help
from pneumonia.cli.hydra_options import options_and_overrides
from pneumonia.errors import ConfigError, PneumoniaError
from pneumonia.system.console import announce_loading

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pneumonia.runs.folder import RunFolder

HELP = """
usage: pneumonia train [OVERRIDES] [-m] [--cfg job]

Train one run. Its config, data and seed identify it: the same command again skips a finished run and resumes an interrupted
one. OVERRIDES are key=value:

  data=phantom|folder|medmnist|azure  data.root=DIR|FILE  data.labels=FILE.csv  data.on_bad_image=error|skip
  data.resize=stretch|pad  normalisation=minus_one_one|minmax|zscore|robust|imagenet
  task=subtype|pneumonia  or your own classes, in DIR/task/NAME.yaml:  --config-dir DIR task=NAME
  image_size=75  batch_size=50  max_epochs=10  seed=0
  split=grouped|official|kfold|given|random|rotating  split.k=5  split.fold=0  split.fraction=1  split.file=FILE
  augmentation=none|normal|high|clinical
  model={models}
    and the keys of its file in conf/model, for example model.activation=relu  model.dropout=0.2  model.name=densenet121
  optimizer=sgd|adam|adamw|rmsprop|adagrad|sgd_plain  optimizer.lr=1e-3  optimizer.weight_decay=1e-4
  scheduler=none|step|exponential|cosine|one_cycle|plateau  early_stopping.patience=5  class_weights=balanced
  mixup=0.2  ema=0.99  swa=0.75  tta=none|flip|shift  monitor=val/accuracy
  logger=csv|wandb|tensorboard|mlflow or a list: logger=[wandb,mlflow]  logger.wandb.mode=offline  usd_per_hour=0.40
  label_smoothing=0.1  trainer=default|gpu|ddp  trainer.precision=32-true  trainer.gradient_clip_val=1  num_workers=0
  trainer.max_time=DD:HH:MM:SS  trainer.profiler=simple  trainer.log_every_n_steps=10
  callbacks=early_stopping|model_summary|... or a list, callbacks=[early_stopping,model_summary]
  init_from=RUN|CHECKPOINT (first weights)  ckpt_path=runs/NAME/ID/checkpoints/last.ckpt (continue a training)
  tune=lr|batch_size (suggests a value and trains nothing)
  for debugging: debug=default|fdr|limit|overfit|profiler  trainer.limit_train_batches=10  trainer.max_steps=10
  backup.place=CONTAINER/PREFIX (Blob Storage)  backup.every_min=5
  experiment=article/final|densenet|...  runs_dir=runs  cache_dir=cache  name=train  force=true

  -m           run every combination of comma-separated values, one after another:  -m seed=0,1,2
  --cfg job    print the composed config and exit
  Hydra's other options work too: --config-dir DIR, --info, hydra/launcher=..., +key=VALUE, ~key

Examples:
  pneumonia train                                                   phantoms, about a minute
  pneumonia train data=folder data.root=chest_xray experiment=article/final
"""


def run(arguments: list[str], config_name: str = "train", config_dir: Path | None = None) -> int:
    """Compose and validate a config, then train it; or run Hydra's multirun.

    Returns:
        The exit code: 0, or 1 if jobs of a multirun failed.

    Raises:
        PneumoniaError: An invalid argument, config or data set; the message says what to do.
    """
    from pneumonia.config.keys import conf_dir

    models = "|".join(sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml")))
    if wants_help(arguments, HELP.format(models=models)):
        return 0
    options, overrides = options_and_overrides(arguments)
    from hydra import main as hydra_main
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from pneumonia.cli.multirun import Multirun, run_recorded
    from pneumonia.config.compose import register_schema
    from pneumonia.config.error_translation import translated
    from pneumonia.config.group_choices import check_choices

    package = next((value for word, value in pairwise(options) if word in {"--package", "-p"}), "")
    if "--hydra-help" in options:  # it takes no overrides
        options, overrides = ["--hydra-help"], []
    for override in overrides:
        if not override.partition("=")[0].strip("+~ "):
            raise ConfigError(f"{override!r} names no key; overrides are key=value. `pneumonia train --help` lists them.")
    with translated():
        check_choices(overrides)
    register_schema()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises its errors instead of printing them
    refused: list[PneumoniaError] = []
    multirun = Multirun()
    token = multirun.token  # the only part that is pickled with a job

    def job(config: DictConfig) -> float | None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return run_recorded(lambda label: _job(config, label), token)
        try:
            return _job(config)
        except PneumoniaError as error:  # hidden from Hydra, which would print more lines
            refused.append(error)
            return None

    app = hydra_main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(job)
    argv = sys.argv
    folder = ["--config-dir", str(config_dir)] if config_dir else []
    sys.argv = ["pneumonia", *folder, *options, *overrides]
    captured = io.StringIO()
    try:
        with translated(), multirun.watched(), redirect_stderr(captured) if package else nullcontext():
            app()
    except SystemExit as stop:
        if package and stop.code and "not found in config" in captured.getvalue():
            raise ConfigError(
                f"--package {package}: the config has no such key, or it is null. Leave --package out to show all keys."
            ) from stop
        raise
    except PneumoniaError:
        if not multirun.failed:  # else a sweeper has passed on the failure of a job, which is already printed
            raise
    finally:
        sys.argv = argv
        if package and "not found in config" not in captured.getvalue():
            sys.stderr.write(captured.getvalue())
    if refused:
        raise refused[0]
    return 1 if multirun.failed else 0


def _job(composed: DictConfig, label: str = "") -> float | None:
    """Train one run, with a label in a multirun; return the value of its monitor at the best epoch, for Hydra's sweepers."""
    from hydra.core.hydra_config import HydraConfig

    from pneumonia.config.compose import typed
    from pneumonia.config.convert import to_plain
    from pneumonia.config.validation import check_root

    runtime = HydraConfig.get().runtime
    choices = {str(group): str(choice) for group, choice in runtime.choices.items()}
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    config = typed(composed, choices, folders)
    if config.data.root is not None:
        check_root(Path(config.data.root).expanduser())
    announce_loading()
    from pneumonia.models.factory import family_of, own_targets
    from pneumonia.runs.backup import backed_up
    from pneumonia.training.train import train  # imports torch: only for a valid config

    if config.tune is not None:
        from pneumonia.training.tune import tune

        tune(config)
        return None
    with ExitStack() as stack:

        def start_backup(folder: RunFolder) -> None:
            stack.enter_context(backed_up(folder.path, config.backup, f"{config.name}/{folder.path.name}"))

        result = train(config, label=label, opened=start_backup)
    monitor = config.monitor or family_of(to_plain(config.model), own_targets(config)).default_monitor
    stage, _, metric = monitor.partition("/")
    value = result.metrics[stage].get(metric)
    return None if value is None else float(value)
