"""`pneumonia train`: a Hydra app over conf/train.yaml."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia.cli import wants_help
from pneumonia.console import announce_loading
from pneumonia.errors import ConfigError, PneumoniaError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pneumonia.runs import RunFolder

HELP = """
usage: pneumonia train [OVERRIDES] [-m] [--cfg job]

One training run. It is identified by its config, data and seed: run it again and it is recognised as finished, or goes
on where it was cut. OVERRIDES, each key=value:

  data=phantom|folder|medmnist|azure  data.root=DIR|FILE  data.labels=FILE.csv  data.on_bad_image=error|skip
  data.resize=squash|pad  normalisation=half|minmax|zscore|robust|imagenet
  task=subtype|pneumonia  image_size=75  batch_size=50  max_epochs=10  seed=0
  split=grouped|official|kfold|given|article|rotating  split.k=5  split.fold=0  split.fraction=1  split.file=FILE
  augmentation=none|normal|high|clinical
  model={models}
    and the keys of its file in conf/model: model.activation=relu  model.dropout=0.2  model.name=densenet121
  optimizer=sgd|adam|adamw|rmsprop|adagrad|plain  optimizer.lr=1e-3  optimizer.weight_decay=1e-4
  scheduler=none|step|exponential|cosine|one_cycle|plateau  early_stopping.patience=5  class_weights=balanced
  mixup=0.2  ema=0.99  swa=0.75  tta=none|flip|shift  monitor=val/accuracy
  logger=csv|wandb  usd_per_hour=0.40
  label_smoothing=0.1  trainer=default|gpu|ddp  trainer.precision=32-true  trainer.gradient_clip_val=1  num_workers=0
  trainer.max_time=DD:HH:MM:SS  for trials: trainer.limit_train_batches=10  trainer.max_steps=10  trainer.fast_dev_run=true
  backup.place=CONTAINER/PREFIX (Blob Storage)  backup.every_min=5
  experiment=article/final|densenet|...  runs_dir=runs  cache_dir=cache  name=train  force=true

  -m           every combination of comma-separated values, one run after the other:  -m seed=0,1,2
  --cfg job    print the composed config and stop

Examples:
  pneumonia train                                                   drawn phantoms, about a minute
  pneumonia train data=folder data.root=chest_xray experiment=article/final
"""
WITH_VALUE = {
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--package",
    "-p",
    "--cfg",
    "-c",
    "--info",
    "-i",
}
CAUSES = 6  # how deep a chain of causes is read


def run(arguments: list[str], config_name: str = "train", config_dir: Path | None = None) -> int:
    """Composes, checks, trains.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    from pneumonia.config import conf_dir

    models = "|".join(sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml")))
    if wants_help(arguments, HELP.format(models=models)):
        return 0
    from hydra import main as hydra_main
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from pneumonia.config import TrainConfig

    for argument in arguments:
        if not argument.partition("=")[0].strip("+~ "):
            raise ConfigError(
                f"{argument!r} names no key; overrides are key=value. `pneumonia train --help` lists them."
            )
    ConfigStore.instance().store("schema", TrainConfig)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises its errors, and we say what to do
    failures: list[PneumoniaError] = []

    def job(config: DictConfig) -> None:
        several = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            _job(config)
        except PneumoniaError as error:  # kept from Hydra, which would add lines of its own
            if several and isinstance(error, KeyboardInterrupt):
                raise  # ends the whole multirun; after any other failure its jobs go on
            failures.append(error)
            if several:
                number = HydraConfig.get().job.num
                print(f"Job {number} failed. {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    app = hydra_main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(job)
    arguments = _options_first(arguments)
    before = sys.argv
    more = ["--config-dir", str(config_dir)] if config_dir else []
    sys.argv = ["pneumonia", *more, *arguments]
    try:
        with explained():
            app()
    finally:
        sys.argv = before
    if len(failures) > 1:
        print(f"{len(failures)} jobs failed; the last line is the first of them again.", file=sys.stderr)
    if failures:
        raise failures[0]
    return 0


def _options_first(arguments: list[str]) -> list[str]:
    """Options before overrides: Hydra takes them apart only there or at the end."""
    options: list[str] = []
    words: list[str] = []
    left = iter(arguments)
    for word in left:
        if not word.startswith("-"):
            words.append(word)
            continue
        options.append(word)
        if word in WITH_VALUE:
            options += [value for value in [next(left, None)] if value is not None]
    return [*options, *words]


def _job(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from pneumonia.config import check, check_root, resolved

    runtime = HydraConfig.get().runtime
    choices = {str(group): str(choice) for group, choice in runtime.choices.items()}
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    OmegaConf.set_readonly(config, True)
    check(config, choices, folders)
    if config.data.root is not None:
        check_root(Path(str(config.data.root)).expanduser())
    announce_loading()
    from pneumonia.backup import backed_up
    from pneumonia.train import train  # heavy: only once the config is known to be right

    plain = resolved(config)
    with ExitStack() as stack:

        def opened(folder: RunFolder) -> None:
            stack.enter_context(backed_up(folder.path, plain["backup"], f"{plain['name']}/{folder.path.name}"))

        train(plain, opened=opened)


@contextmanager
def explained() -> Iterator[None]:
    """Turns Hydra's and OmegaConf's errors into a ``ConfigError`` in our words."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error) from error
    except MarkedYAMLError as error:
        raise ConfigError(f"A config file is no good YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        if isinstance(error, PneumoniaError) or "Config group override" not in str(error):
            raise
        raise ConfigError(
            "A group of config files needs a name, not null: model=NAME, optimizer=NAME and so on; ~experiment leaves one out."
        ) from error


def _explained(error: Exception) -> ConfigError:
    """Hydra's and OmegaConf's messages in our words: which key, and what it should have been."""
    from hydra.errors import OverrideParseException

    from pneumonia.config import choice_keys, conf_dir, config_keys

    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < CAUSES:
        parts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(parts)
    if isinstance(error, OverrideParseException):
        shown = re.sub(r"((?:sig|AccountKey)=)[^&;\s]+", r"\1***", str(error.override), flags=re.IGNORECASE)
        return ConfigError(
            f"{shown} can't be read. An override is key=value; a value with quotes, commas, brackets or = needs "
            "quotes that the shell leaves alone: 'data.root=\"my folder, b\"'."
        )
    keys = [*config_keys(), *choice_keys()]
    if found := re.search(r"Could not (?:override|append)[^']*'([^']+)'", text):
        if "is not in struct" in text or re.search(r"Key '\w+' not in", text) or "Could not find" not in text:
            key = found[1]
            return ConfigError(f"{key} is not a config key{_hint(key, keys)} `pneumonia train --help` lists them.")
    if found := re.search(r"Key '(\w+)' (?:not in|is not in) '?(\w+)'?", text):
        full = re.search(r"full_key: (\S+)", text)
        key = full[1] if full else found[1]
        where = re.search(r"In '([^']+)'", text)
        place = f" (in {where[1]})" if where else ""
        return ConfigError(f"{key} is not a config key{place}{_hint(key, keys)} `pneumonia train --help` lists them.")
    if found := re.search(r"Could not find '([^'/]+)/([^']+)'", text):
        group, choice = found[1], found[2]
        folder = conf_dir() / group
        options = sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))
        known = f" Choose one of {', '.join(options)}." if options else ""
        return ConfigError(f"{group}={choice} is not known.{known}{nearest(choice, options)}")
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if full := re.search(r"full_key: (\S+)", text):
        wrong = re.search(r"^Value '.*", text, re.MULTILINE)
        return ConfigError(f"{full[1]} has a value of the wrong kind. {wrong[0] if wrong else first}.")
    return ConfigError(first if first.endswith(".") else f"{first} (see `pneumonia train --help`)")


def _hint(key: str, keys: list[str]) -> str:
    """What may have been meant; a key may be known, but of another choice."""
    if key in keys:
        return f" of the chosen {key.partition('.')[0]}, but of another one: it would change nothing here."
    return f".{nearest(key, keys)}"
