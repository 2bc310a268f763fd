"""`pneumonia train`: a Hydra app over conf/train.yaml."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia.cli import wants_help
from pneumonia.cli.hydra_options import option_value, options_first
from pneumonia.errors import ConfigError, PneumoniaError, nearest
from pneumonia.system.console import announce_loading

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pneumonia.runs.folder import RunFolder

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
CAUSES = 6  # how deep a chain of causes is read
PLUGINS = {
    "hydra/launcher=joblib": " It comes with a package of its own: pip install hydra-joblib-launcher.",
    "hydra/launcher=submitit": " It comes with a package of its own: pip install hydra-submitit-launcher.",
    "hydra/sweeper=optuna": " `pneumonia sweep search` searches with Optuna, without this plugin.",
}


def run(arguments: list[str], config_name: str = "train", config_dir: Path | None = None) -> int:
    """Composes, checks, trains.

    Returns:
        The exit code: 0, or 1 where jobs of a multirun failed.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    from pneumonia.config.schema import conf_dir

    models = "|".join(sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml")))
    if wants_help(arguments, HELP.format(models=models)):
        return 0
    arguments = options_first(arguments)
    from hydra import main as hydra_main
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from pneumonia.cli.multirun import Multirun, noted
    from pneumonia.config.schema import TrainConfig

    package = option_value(arguments, "--package")
    if "--hydra-help" in arguments:  # composes no config, so that it knows no override
        arguments = ["--hydra-help"]
    for argument in arguments:
        if not argument.partition("=")[0].strip("+~ "):
            raise ConfigError(
                f"{argument!r} names no key; overrides are key=value. `pneumonia train --help` lists them."
            )
    ConfigStore.instance().store("schema", TrainConfig)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises its errors, and we say what to do
    refused: list[PneumoniaError] = []
    multirun = Multirun()
    token = multirun.token  # alone goes with a job to another process

    def job(config: DictConfig) -> float | None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return noted(lambda: _job(config), token)
        try:
            return _job(config)
        except PneumoniaError as error:  # kept from Hydra, which would add lines of its own
            refused.append(error)
            return None

    app = hydra_main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(job)
    before = sys.argv
    more = ["--config-dir", str(config_dir)] if config_dir else []
    sys.argv = ["pneumonia", *more, *arguments]
    said = io.StringIO()
    try:
        with explained(), multirun.watched(), redirect_stderr(said) if package else nullcontext():
            app()
    except SystemExit as stop:
        if package and stop.code and "not found in config" in said.getvalue():
            raise ConfigError(
                f"--package {package}: the config has no such key, or it is null. Without --package all are shown."
            ) from stop
        raise
    except PneumoniaError:
        if not multirun.failed:  # else it is the failure of a job, which has been shown, by way of a sweeper
            raise
    finally:
        sys.argv = before
        if package and "not found in config" not in said.getvalue():
            sys.stderr.write(said.getvalue())
    if refused:
        raise refused[0]
    return 1 if multirun.failed else 0


def _job(config: DictConfig) -> float | None:
    """Trains one run; returns the metric by which its best epoch was chosen, for Hydra's sweepers."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from pneumonia.config.schema import resolved
    from pneumonia.config.validation import check, check_root

    runtime = HydraConfig.get().runtime
    choices = {str(group): str(choice) for group, choice in runtime.choices.items()}
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    OmegaConf.set_readonly(config, True)
    check(config, choices, folders)
    if config.data.root is not None:
        check_root(Path(str(config.data.root)).expanduser())
    announce_loading()
    from pneumonia.models.factory import family_of, own_targets
    from pneumonia.runs.scheduled_backup import backed_up
    from pneumonia.training.train import train  # heavy: only once the config is known to be right

    plain = resolved(config)
    with ExitStack() as stack:

        def opened(folder: RunFolder) -> None:
            stack.enter_context(backed_up(folder.path, plain["backup"], f"{plain['name']}/{folder.path.name}"))

        result = train(plain, opened=opened)
    stage, _, metric = str(plain["monitor"] or family_of(plain["model"], own_targets(plain)).default_monitor).partition(
        "/"
    )
    value = result.metrics[stage].get(metric)
    return None if value is None else float(value)


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
    except (AttributeError, AssertionError) as error:  # how OmegaConf fails to put keys into one that is null
        found = re.search(r"full_key: (\S+)", str(error))
        if "reference_type=" not in str(error) and "Unexpected type for root" not in str(error):
            raise
        raise ConfigError(
            f"{found[1] if found else 'The key above one of the overrides'} is null, so no keys can be put into it here. Set "
            "them in a config file; values for a multirun are overrides: -m seed=1,2."
        ) from error
    except MarkedYAMLError as error:
        raise ConfigError(f"A config file is no good YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        if isinstance(error, PneumoniaError) or "Config group override" not in str(error):
            raise
        raise ConfigError(
            "A group of config files needs a name, not null, a number or a mapping: model=NAME, optimizer=NAME and so on; "
            "~experiment leaves one out."
        ) from error


def _explained(error: Exception) -> ConfigError:
    """Hydra's and OmegaConf's messages in our words: which key, and what it should have been."""
    from hydra.errors import OverrideParseException

    from pneumonia.config.schema import conf_dir, config_keys
    from pneumonia.config.validation import choice_keys, nearest_key

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
    if unmatched := re.search(r"Could not delete '([^']+)'\. No match in the defaults list", text):
        return ConfigError(
            f"~{unmatched[1]} removes nothing: it is not chosen. Leave it out; --info defaults shows the choices."
        )
    if deleted := _deleted(text):
        if deleted in keys:
            return ConfigError(
                f"~{deleted} removes a key that every run needs. Set it instead, {deleted}=VALUE, or leave the override out."
            )
        return ConfigError(
            f"~{deleted} removes nothing: {deleted} is not a config key.{nearest_key(deleted, keys)} "
            "`pneumonia train --help` lists them."
        )
    if found := re.search(r"An item is already at '([^']+)'", text):
        return ConfigError(
            f"+{found[1]} adds a key, and {found[1]} is there already. Leave the + out: {found[1]}=VALUE."
        )
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text) or re.search(
        r"Sweep parameters '(.+)' requires --multirun", text
    ):
        return ConfigError(
            f"{found[1]} has several values, and one run takes one. Say -m for a run of each; a list needs brackets, "
            "key=[a,b], and text with a comma needs quotes."
        )
    if "does not support sweep type : INTERVAL" in text:
        return ConfigError(
            "An interval has no steps, so -m can't list its values. Say range(low, high, step), or values with commas; "
            "`pneumonia sweep search` searches intervals."
        )
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
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, choice = found[1], found[2]
        if group.startswith("hydra"):
            hint = PLUGINS.get(f"{group}={choice.partition('_')[0]}", "")
            return ConfigError(f"{group}={choice} is not known.{hint or ' --info plugins lists what is installed.'}")
        group, _, inside = group.partition("/")
        choice = f"{inside}/{choice}" if inside else choice
        folder = conf_dir() / group
        options = sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))
        known = f" Choose one of {', '.join(options)}." if options else ""
        return ConfigError(f"{group}={choice} is not known.{known}{nearest(choice, options)}")
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if found := re.search(r"Missing mandatory value: (\w+)", text):
        return ConfigError(
            f"{found[1]} has no value, and a run needs one. Choose one of the files in conf/{found[1]}: {found[1]}=NAME."
        )
    if found := re.search(r"Could not load '([^'/]+)/([^']+)'", text):
        return ConfigError(
            f"{found[1]}=[{found[2]}] names no file of conf/{found[1]}. Choose one by its name: {found[1]}=NAME."
        )
    if full := re.search(r"full_key: (\S+)", text):
        given = re.search(r"Error merging override \S*?=(.*)", text)
        wrong = f"{full[1]}={given[1]} is of the wrong kind" if given else f"{full[1]} has a value of the wrong kind"
        return ConfigError(f"{wrong}: {_wanted(full[1])}")
    return ConfigError(first if first.endswith(".") else f"{first} (see `pneumonia train --help`)")


def _wanted(key: str) -> str:
    """Which kind of value a key takes, as the end of a sentence, and what to say instead."""
    from pneumonia.config.validation import kind_of

    kind, keys, default = kind_of(key)
    if not kind:
        return "the schema does not allow it. `pneumonia train --cfg all` shows the packaged value."
    if keys:
        return f"it holds several keys. Set them one by one: {', '.join(f'{key}.{one}=VALUE' for one in keys)}."
    return f"it must be {kind}. Say for example {key}={default}, or leave it out."


def _deleted(text: str) -> str:
    """The key that a ``~key`` of the command line names, where Hydra could not remove it."""
    patterns = (
        r"Error merging override ~([^=\s]+)",
        r"Could not delete from config\. '([^']+)' does not exist",
        r"Could not delete from config\. The value of '([^']+)'",
    )
    return next((found[1] for pattern in patterns if (found := re.search(pattern, text))), "")


def _hint(key: str, keys: list[str]) -> str:
    """What may have been meant; a key may be known, but of another choice."""
    from pneumonia.config.validation import nearest_key, why_not

    if key in keys:
        return f" of the chosen {key.partition('.')[0]}, but of another one: it would change nothing here."
    near = nearest_key(key, keys)
    if key.startswith("optimizer.") and not near:
        return f" of the chosen file. An argument of the optimiser's class is added with a +: +{key}=VALUE."
    return f".{why_not(key) or near}"
