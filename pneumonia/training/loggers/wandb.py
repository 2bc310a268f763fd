"""Mirror run folders in W&B."""

import os
import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.loggers import WandbLogger
from rich.markup import escape
from torch import Tensor

from pneumonia.config.schema import TrainConfig, WandbConfig
from pneumonia.errors import ConfigError
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.result import RunResult
from pneumonia.system.console import say
from pneumonia.training.loggers.charts import EvaluationCharts, Pixels, Predictions, wandb_charts
from pneumonia.training.loggers.mirror import Facts, Forwarding, Mirror, Status, short, warn_once
from pneumonia.training.loggers.record import Sent, TrackerRecord
from pneumonia.training.loggers.wandb_account import MODES, has_key, mode_of, server

TIMEOUT_S: Final = 20  # for W&B to answer, before the run is kept offline
EXIT_CODES: Final = {Status.FINISHED: 0, Status.FAILED: 1, Status.INTERRUPTED: 130}
STEP: Final = "trainer/global_step"  # as Lightning calls it
_given: dict[str, Path] = {}  # which run of this process has an id of the environment
_refused: set[str] = set()  # servers that this process need not wait for again


class ForwardingWandbLogger(Forwarding, WandbLogger):
    """Lightning's logger of a W&B run."""

    def __init__(self, mirror: Mirror, run: Any) -> None:
        super().__init__(project=run.project, save_dir=run.dir, experiment=run)
        self.mirror = mirror

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name in self.of_step(metrics).keys() - self.mirror.steps:
            self.mirror.forward(partial(self.experiment.define_metric, name, step_metric=STEP))
        super().log_metrics(metrics, step)


class WandbMirror(Mirror):
    """One run as one W&B run.

    Args:
        folder: The run.
        config: Of the run.
        facts: Of the run.
        options: Where and how to send it.
        keep_offline: Whether to write files where W&B can't be reached.
    """

    name = "wandb"
    title = "W&B"

    def __init__(
        self, folder: RunFolder, config: TrainConfig, facts: Facts, options: WandbConfig, keep_offline: bool = True
    ) -> None:
        super().__init__(folder, config, facts)
        self.options, self.keep_offline, self.watched = options, keep_offline, options.watch
        given = given_id(folder)
        if given and given != self.record.id:
            self.record = TrackerRecord(given)  # nothing was sent to that one
        self.record.id = self.record.id or secrets.token_hex(6)
        self.run: Any = None
        self.online = mode_of(options.mode) == "online" and not (keep_offline and server() in _refused)

    @property
    def sent(self) -> Sent:
        return self.record.sent(online=self.online)

    def _open(self) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # what must be known we say ourselves
        import wandb

        config = self.config
        tags = [*self.options.tags, config.task.name, config.split.method, config.data.source]
        settings = wandb.Settings(
            console="off", silent=True, save_code=False, disable_code=True, disable_git=True, init_timeout=TIMEOUT_S
        )
        project = self.from_environment("project", self.options.project, "WANDB_PROJECT")
        entity = self.from_environment("entity", self.options.entity, "WANDB_ENTITY")
        self.record.place = "/".join(filter(None, (entity, project)))
        start = partial(
            wandb.init,
            project=project,
            entity=entity,
            group=self.from_environment("group", self.options.group, "WANDB_RUN_GROUP") or config.name,
            job_type=os.environ.get("WANDB_JOB_TYPE") or config.model._target_.rpartition(".")[2],
            tags=[*tags, *filter(None, os.environ.get("WANDB_TAGS", "").split(","))],
            name=os.environ.get("WANDB_NAME") or self.facts.label or f"{config.name}-{self.folder.path.name[:6]}",
            id=self.record.id,
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or str(self.folder.path),
            config=self.shown_config(),
            settings=settings,
        )
        if self.online:
            try:
                self.run = start(mode="online")
            except Exception as error:  # no route, a wrong key, an answer that is none
                later = " It is kept offline; `pneumonia track push` sends it later." if self.keep_offline else ""
                self._trouble(f"W&B can't be reached or refuses us ({short(error)}).{later}")
                if not self.keep_offline:
                    return
                self.online = False
                _refused.add(server())
                start = partial(start, id=f"{self.record.id}-offline")  # wandb's service still holds the id that failed
        if not self.online:
            self.run = start(mode="offline")
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric="epoch")
        self.run.define_metric(STEP)
        self.files = Path(self.run.dir).parent
        where = self.run.url if self.online else f"offline, in {self.files}"
        say(f"W&B: {escape(str(where))}")
        self.logger = ForwardingWandbLogger(self, self.run)
        self.record.write(self.folder, self.name)

    def _send_epoch(self, epoch: int, values: dict[str, float], weights: Path | None) -> None:
        import wandb

        picture = {} if weights is None else {"weights": wandb.Image(str(weights))}
        self.run.log({"epoch": epoch, **values, **picture})

    def _send_tensors(self, tensors: dict[str, Tensor], step: int) -> None:
        import wandb

        for name in tensors:
            self.run.define_metric(name, step_metric=STEP)
        histogram: Any = wandb.Histogram  # the stub says sequences
        histograms = {name: histogram(values.float().cpu().numpy()) for name, values in tensors.items()}
        self.run.log({**histograms, STEP: step})

    def _send_evaluation(self, found: EvaluationCharts) -> None:
        import wandb

        table = {f"{found.prefix}/predictions": wandb.Table(dataframe=found.predictions.shown)}
        self.run.log(wandb_charts(found.prefix, found.predictions) | table)
        self.run.summary.update({f"{found.prefix}/{name}": value for name, value in found.values.items()})

    def _send_result(self, result: RunResult, summary: dict[str, float], validation: Predictions, pixels: Pixels | None) -> None:
        self.run.log(wandb_charts("val", validation, pixels, self.options.samples))
        self.run.summary.update({**summary, "run_id": result.run_id, "leaky": bool(result.data.leaks)})
        if self.options.artifact or self.options.registry:
            self._send_checkpoint(f"{result.name}-{result.run_id}")

    def _send_checkpoint(self, name: str) -> None:
        """Upload the best checkpoint, and link it to the registry where the config asks for it."""
        import wandb

        artifact = wandb.Artifact(name, type="model", metadata={"run": str(self.folder.path.name)})
        artifact.add_file(str(self.folder.best))
        logged = self.run.log_artifact(artifact, aliases=["latest", "best"])
        if self.options.registry and self.online:  # files of W&B can't hold a link
            self.run.link_artifact(logged, self.options.registry)

    def _send_status(self, text: str) -> None:
        self.run.summary.update({"status": text})

    def _send_picture(self, name: str, image: Any) -> None:
        import wandb

        self.run.log({name: wandb.Image(image)}, commit=False)

    def _close(self, status: Status) -> None:
        self.run.finish(exit_code=EXIT_CODES[status])


def given_id(folder: RunFolder) -> str:
    """Return the id in ``WANDB_RUN_ID``, as W&B's agent sets it for the one run of this process."""
    given = os.environ.get("WANDB_RUN_ID", "")
    if given and _given.setdefault(given, folder.path.resolve()) != folder.path.resolve():
        warn_once(f"WANDB_RUN_ID={given} names one run, and this process trains several: the others get ids of their own.")
        return ""
    return given


def check_wandb(options: WandbConfig) -> None:
    """Refuse options that W&B does not support, before training.

    Raises:
        ConfigError: wandb is not installed, or online is asked for without a key.
    """
    mode = mode_of(options.mode)
    if mode == "disabled":
        return
    said = os.environ.get("WANDB_MODE")
    if said and MODES[said] != mode:
        warn_once(f"logger.wandb.mode={mode} takes precedence over WANDB_MODE={said} of the environment.")
    if options.registry and mode == "offline":
        raise ConfigError(
            f"logger.wandb.registry={options.registry} links a checkpoint on the server, and W&B is offline. Set WANDB_API_KEY, "
            "or leave it out."
        )
    if mode == "online" and not has_key():
        why = "logger.wandb.mode=online" if options.mode == "online" else f"WANDB_MODE={said}"
        raise ConfigError(
            f"{why} needs a key of W&B, and none is known. Set WANDB_API_KEY or call `wandb login`; or say "
            "logger.wandb.mode=offline and push the run later."
        )
