"""Mirror run folders in W&B. Nothing is read back, and training continues when W&B fails."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import OmegaConf
from rich.markup import escape

from pneumonia.config.choices import WandbConfig
from pneumonia.config.convert import to_plain
from pneumonia.config.keys import conf_dir
from pneumonia.config.schema import LoggerConfig, TrainConfig
from pneumonia.errors import ConfigError, TimeLimitReached
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.runs.result import RunResult
from pneumonia.system.console import say, warn
from pneumonia.system.files import read_json
from pneumonia.training.loggers.wandb_account import MODES, has_key, mode_of, server
from pneumonia.training.loggers.wandb_charts import Samples, curves, weight_picture
from pneumonia.training.loggers.wandb_record import Sent, WandbRecord

TIMEOUT_S: Final = 20  # for W&B to answer, before the run is kept offline
INTERRUPTED: Final = 130
_warned: set[str] = set()
_given: dict[str, Path] = {}  # which run of this process has an id of the environment
_refused: set[str] = set()  # servers that this process need not wait for again


class Mirror:
    """One run as one W&B run.

    What was sent is counted in ``wandb.json`` of the run folder, beside the id, so that a resumed run continues in the same place
    and nothing is sent twice.

    Args:
        folder: The run.
        logger: Where and how to send it.
        config: Of the run.
        label: What tells it from the other runs of its group.
        keep_offline: Whether to write files where W&B can't be reached.
    """

    def __init__(
        self,
        folder: RunFolder,
        logger: WandbConfig,
        config: TrainConfig,
        label: str = "",
        keep_offline: bool = True,
    ) -> None:
        self.folder = folder
        self.logger = logger
        self.record = WandbRecord.read(folder)
        given = _given_id(folder)
        if given and given != self.record.id:
            self.record = WandbRecord(given)  # nothing was sent to that one
        self.record.id = self.record.id or secrets.token_hex(6)
        self.record.trouble = None
        self.run: Any = None
        self.files: Path | None = None
        self.online = mode_of(logger.mode) == "online" and not (keep_offline and server() in _refused)
        self._open(config, label, keep_offline)

    @property
    def sent(self) -> Sent:
        """What has been sent."""
        return self.record.sent(online=self.online)

    def epochs(self) -> None:
        """Send the epochs that were not sent before."""
        self._safely(self._epochs)

    def result(self, result: RunResult, samples: Samples | None = None) -> None:
        """Send best metrics, cost, curves and images of a finished run."""
        self._safely(lambda: self._result(result, samples))

    def unfinished(self, status: str) -> None:
        """Send why there is no result."""
        self._safely(lambda: self.run.summary.update({"status": status}))

    def picture(self, name: str, image: Any) -> None:
        """Send a picture that belongs to no epoch."""
        import wandb

        self._safely(lambda: self.run.log({name: wandb.Image(image)}, commit=False))

    def close(self, code: int) -> None:
        """Finish the W&B run with its exit code."""
        if self.run is not None:
            run, self.run = self.run, None
            self._safely(lambda: run.finish(exit_code=code), run)

    def _open(self, config: TrainConfig, label: str, keep_offline: bool) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # what must be known we say ourselves
        import wandb

        tags = [*self.logger.tags, config.task, config.split.method, config.data.source]
        settings = wandb.Settings(
            console="off", silent=True, save_code=False, disable_code=True, disable_git=True, init_timeout=TIMEOUT_S
        )
        start = partial(
            wandb.init,
            project=self._or_environment("project", "WANDB_PROJECT"),
            entity=self._or_environment("entity", "WANDB_ENTITY"),
            group=self._or_environment("group", "WANDB_RUN_GROUP") or config.name,
            job_type=os.environ.get("WANDB_JOB_TYPE") or config.model._target_.rpartition(".")[2],
            tags=[*tags, *filter(None, os.environ.get("WANDB_TAGS", "").split(","))],
            name=os.environ.get("WANDB_NAME") or label or f"{config.name}-{self.folder.path.name[:6]}",
            id=self.record.id,
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or str(self.folder.path),
            config=to_plain(config),
            settings=settings,
        )
        if self.online:
            try:
                self.run = start(mode="online")
            except Exception as error:  # no route, a wrong key, an answer that is none
                later = " The run continues, kept offline: `pneumonia track push` sends it later." if keep_offline else ""
                self._trouble(f"W&B can't be reached or refuses us ({_short(error)}).{later}")
                self.online = not keep_offline
                _refused.add(server())
                start = partial(start, id=f"{self.record.id}-offline")  # wandb's service still holds the id that failed
        if self.run is None and not self.online:
            self._safely(lambda: setattr(self, "run", start(mode="offline")), self)
        if self.run is None:
            return
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric="epoch")
        self.files = Path(self.run.dir).parent
        where = self.run.url if self.online else f"offline, in {self.files}"
        say(f"W&B: {escape(str(where))}")
        self.record.write(self.folder)

    def _or_environment(self, key: str, variable: str) -> str | None:
        """Return the value of the config, or of the environment where the config has its default."""
        own: str | None = getattr(self.logger, key)
        said = os.environ.get(variable)
        if not said or said == own:
            return own
        if own == OmegaConf.select(OmegaConf.load(conf_dir() / "logger" / "wandb.yaml"), key):
            return said
        _once(f"logger.{key}={own} takes precedence over {variable}={said} of the environment.")
        return own

    def _epochs(self) -> None:
        rows = read_metrics(self.folder)
        progress = read_json(self.folder.progress)
        for row in rows[self.sent.rows :]:
            epoch = int(row["epoch"])
            values: dict[str, object] = {key: float(value) for key, value in row.items() if value not in {"", "nan"}}
            values["epoch"] = epoch
            if progress.get("epochs") == epoch:
                values |= {key: progress[key] for key in ("images_per_s", "peak_memory_mib") if progress.get(key)}
            if self.folder.weight_picture(epoch).is_file():
                values["weights"] = weight_picture(self.folder.weight_picture(epoch))
            self.run.log(values, step=epoch)
        self.sent.rows = len(rows)
        self.record.write(self.folder)

    def _result(self, result: RunResult, samples: Samples | None) -> None:
        if self.sent.result:
            return
        self._epochs()
        predictions = self.folder.predictions("val")
        self.run.log(curves(predictions, list(result.task.classes), samples), step=result.epochs + 1)
        best = {f"best/{part}/{key}": value for part, values in result.metrics.items() for key, value in values.items()}
        cost = {f"cost/{key}": value for key, value in vars(result.cost).items()}
        about = {
            "best_epoch": result.best_epoch,
            "run_id": result.run_id,
            "status": result.status,
            "leaky": bool(result.data.leaks),
        }
        self.run.summary.update({**best, **cost, **about})
        if self.logger.artifact:
            self.run.log_model(str(self.folder.best), name=f"{result.name}-{result.run_id}")
        self.sent.result = True
        self.record.write(self.folder)

    def _trouble(self, text: str) -> None:
        """Warn once, and record it for sweeps."""
        _once(text)
        self.record.trouble = text
        with suppress(OSError):
            self.record.write(self.folder)

    def _safely(self, work: Callable[[], Any], run: Any = None) -> None:
        """Call a function; after a failure warn once and continue without W&B."""
        if self.run is None and run is None:
            return
        try:
            work()
        except Exception as error:
            self.run = None
            self._trouble(
                f"W&B failed ({_short(error)}); the run continues without it. `pneumonia track push` can send it later."
            )


class Follower(Checkpoint):
    """Send each epoch after its row is written; a ``Checkpoint``, so that Lightning calls it after ``MetricsCsv``."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.mirror.epochs()


@contextmanager
def followed(folder: RunFolder, config: TrainConfig, label: str) -> Iterator[Mirror | None]:
    """Mirror the run of a block if the config asks for it, and close it with the true status."""
    logger = config.logger
    if not isinstance(logger, WandbConfig):
        yield None
        return
    if mode_of(logger.mode) == "disabled":
        say("W&B: off, as WANDB_MODE=disabled in the environment says")
        yield None
        return
    mirror = Mirror(folder, logger, config, label)
    code = 1
    try:
        yield mirror
        code = 0
    except (KeyboardInterrupt, TimeLimitReached):
        code = INTERRUPTED
        raise
    finally:
        mirror.close(code)  # or the next run of this process would log into this one


def mirror_finished(folder: RunFolder, config: TrainConfig, label: str, result: RunResult) -> None:
    """Send a finished run to the W&B run that a sweep agent has opened for it.

    An agent that proposes the same values again has a trial without metrics otherwise.
    """
    given = _given_id(folder)
    if not given or config.logger.kind != "wandb" or WandbRecord.read(folder).id == given:
        return
    with followed(folder, config, label) as mirror:
        if mirror is not None:
            mirror.epochs()
            mirror.result(result)


def _given_id(folder: RunFolder) -> str:
    """Return the id in ``WANDB_RUN_ID``, as W&B's agent sets it for the one run of this process."""
    given = os.environ.get("WANDB_RUN_ID", "")
    if given and _given.setdefault(given, folder.path.resolve()) != folder.path.resolve():
        _once(f"WANDB_RUN_ID={given} names one run, and this process trains several: the others get ids of their own.")
        return ""
    return given


def check_tracking(logger: LoggerConfig) -> None:
    """Refuse logger options that W&B does not support, before training.

    Raises:
        ConfigError: wandb is not installed, or online is asked for without a key.
    """
    if not isinstance(logger, WandbConfig):
        return
    mode = mode_of(logger.mode)
    if mode == "disabled":
        return
    said = os.environ.get("WANDB_MODE")
    if said and MODES[said] != mode:
        _once(f"logger.mode={mode} takes precedence over WANDB_MODE={said} of the environment.")
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise ConfigError("logger=wandb needs wandb: pip install 'pneumonia[wandb]'. logger=csv does without.") from error
    if mode == "online" and not has_key():
        why = "logger.mode=online" if logger.mode == "online" else f"WANDB_MODE={said}"
        raise ConfigError(
            f"{why} needs a key of W&B, and none is known. Set WANDB_API_KEY or call `wandb login`; or say "
            "logger.mode=offline and push the run later."
        )


def _once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        warn(text)


def _short(error: BaseException) -> str:
    """Return an error message without the API key."""
    text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "...") if key else text
