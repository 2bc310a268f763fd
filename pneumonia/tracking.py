"""W&B as a mirror of the run folder: nothing is read back from it, and whatever befalls it, training goes on."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from rich.markup import escape

from pneumonia.charts import Samples, curves, weight_picture
from pneumonia.console import say, warn
from pneumonia.errors import ConfigError, TimeLimitReached
from pneumonia.runs import RunFolder, read_metrics
from pneumonia.storage.local import read_json, write_json
from pneumonia.wandb_account import has_key, server, wants_online

TIMEOUT_S: Final = 20  # for W&B to answer, before the run is kept offline
INTERRUPTED: Final = 130
_warned: set[str] = set()
_refused: set[str] = set()  # servers that this process need not wait for again


class Mirror:
    """One run of ours as one run in W&B.

    What was sent is counted in ``wandb.json`` of the run folder, beside the id, so that a resumed run goes on in the same place
    and nothing is sent twice.

    Args:
        folder: The run.
        logger: The ``logger`` node.
        config: Of the run.
        label: What tells it from the other runs of its group.
        keep_offline: Whether to write files where W&B can't be reached.
    """

    def __init__(
        self,
        folder: RunFolder,
        logger: dict[str, Any],
        config: dict[str, Any],
        label: str = "",
        keep_offline: bool = True,
    ) -> None:
        self.folder = folder
        self.logger = logger
        self.note: dict[str, Any] = read_json(folder.tracking)
        self.note.setdefault("id", secrets.token_hex(6))
        self.note.pop("trouble", None)
        self.run: Any = None
        self.online = wants_online(logger["mode"]) and not (keep_offline and server() in _refused)
        self._open(config, label, keep_offline)

    @property
    def place(self) -> str:
        """``online`` and ``offline`` are counted apart: what lies in offline files is not on the server."""
        return "online" if self.online else "offline"

    @property
    def sent(self) -> dict[str, Any]:
        """What has been sent: rows of metrics, and whether the result was."""
        known: dict[str, Any] = self.note.setdefault(self.place, {"rows": 0, "result": False})
        return known

    def epochs(self) -> None:
        """Sends the epochs that were not sent before."""
        self._safely(self._epochs)

    def result(self, result: dict[str, Any], samples: Samples | None = None) -> None:
        """Sends what is known at the end: best metrics, cost, curves, images."""
        self._safely(lambda: self._result(result, samples))

    def picture(self, name: str, image: Any) -> None:
        """Sends a picture that belongs to no epoch."""
        import wandb

        self._safely(lambda: self.run.log({name: wandb.Image(image)}, commit=False))

    def close(self, code: int) -> None:
        """Ends the run in W&B with the exit code that it had."""
        if self.run is not None:
            run, self.run = self.run, None
            self._safely(lambda: run.finish(exit_code=code), run)

    def _open(self, config: dict[str, Any], label: str, keep_offline: bool) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # what must be known we say ourselves
        import wandb

        family = str(config["model"]["_target_"]).rpartition(".")[2]
        words: dict[str, Any] = {
            "project": self.logger["project"],
            "entity": self.logger["entity"],
            "group": self.logger["group"] or config["name"],
            "job_type": family,
            "tags": [*self.logger["tags"], config["task"], config["split"]["method"], config["data"]["source"]],
            "name": label or f"{config['name']}-{self.folder.path.name[:6]}",
            "id": self.note["id"],
            "resume": "allow",
            "dir": str(self.folder.path),
            "config": config,
            "settings": wandb.Settings(
                console="off", silent=True, save_code=False, disable_code=True, disable_git=True, init_timeout=TIMEOUT_S
            ),
        }
        if self.online:
            try:
                self.run = wandb.init(**words, mode="online")
            except Exception as error:  # no route, a wrong key, an answer that is none
                later = " The run goes on, kept offline: `pneumonia track push` sends it later." if keep_offline else ""
                self._trouble(f"W&B can't be reached or refuses us ({_short(error)}).{later}")
                self.online = not keep_offline
                _refused.add(server())
                words["id"] += "-offline"  # wandb's service goes on holding the id with which it failed
        if self.run is None and not self.online:
            self._safely(lambda: setattr(self, "run", wandb.init(**words, mode="offline")), self)
        if self.run is None:
            return
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric="epoch")
        where = self.run.url if self.online else f"offline, in {self.folder.path / 'wandb'}"
        say(f"W&B: {escape(str(where))}")
        write_json(self.folder.tracking, self.note)

    def _epochs(self) -> None:
        rows = read_metrics(self.folder)
        progress = read_json(self.folder.progress)
        for row in rows[self.sent["rows"] :]:
            epoch = int(row["epoch"])
            values: dict[str, Any] = {key: float(value) for key, value in row.items() if value not in {"", "nan"}}
            values["epoch"] = epoch
            if progress.get("epochs") == epoch:
                values |= {key: progress[key] for key in ("images_per_s", "peak_memory_mib") if progress.get(key)}
            if self.folder.weight_picture(epoch).is_file():
                values["weights"] = weight_picture(self.folder.weight_picture(epoch))
            self.run.log(values, step=epoch)
        self.sent["rows"] = len(rows)
        write_json(self.folder.tracking, self.note)

    def _result(self, result: dict[str, Any], samples: Samples | None) -> None:
        if self.sent["result"]:
            return
        self._epochs()
        predictions = self.folder.predictions("val")
        self.run.log(curves(predictions, result["classes"], samples), step=result["epochs"] + 1)
        best = {
            f"best/{part}/{key}": value for part, values in result["metrics"].items() for key, value in values.items()
        }
        cost = {f"cost/{key}": value for key, value in result["cost"].items()}
        about = {
            "best_epoch": result["best_epoch"],
            "run_id": result["run_id"],
            "leaky": bool(result["data"]["leaks"]),
        }
        self.run.summary.update({**best, **cost, **about})
        if self.logger["artifact"]:
            self.run.log_model(str(self.folder.best), name=f"{result['name']}-{result['run_id']}")
        self.sent["result"] = True
        write_json(self.folder.tracking, self.note)

    def _trouble(self, text: str) -> None:
        """Says it once, and notes it for those who watch from elsewhere."""
        _once(text)
        self.note["trouble"] = text
        with suppress(OSError):
            write_json(self.folder.tracking, self.note)

    def _safely(self, work: Callable[[], Any], run: Any = None) -> None:
        """Does what may fail; a failure is said once and the run goes on without W&B."""
        if self.run is None and run is None:
            return
        try:
            work()
        except Exception as error:
            self.run = None
            self._trouble(
                f"W&B failed ({_short(error)}); the run goes on without it. `pneumonia track push` can send it later."
            )


class Follower(Checkpoint):
    """Sends each epoch once its row is written; a ``Checkpoint`` so that Lightning calls it after the recorder."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.mirror.epochs()


@contextmanager
def followed(folder: RunFolder, config: dict[str, Any], label: str) -> Iterator[Mirror | None]:
    """Mirrors what happens in the block where the config asks for it, and ends it with the block's true outcome."""
    if config["logger"]["kind"] != "wandb":
        yield None
        return
    mirror = Mirror(folder, config["logger"], config, label)
    code = 1
    try:
        yield mirror
        code = 0
    except (KeyboardInterrupt, TimeLimitReached):
        code = INTERRUPTED
        raise
    finally:
        mirror.close(code)  # or the next run of this process would log into this one


def check_tracking(logger: dict[str, Any]) -> None:
    """Refuses what W&B can't do before any training.

    Raises:
        ConfigError: wandb is not installed, or online is asked for without a key.
    """
    if logger["kind"] != "wandb":
        return
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "logger=wandb needs wandb: pip install 'pneumonia[wandb]'. logger=csv does without."
        ) from error
    if logger["mode"] == "online" and not has_key():
        raise ConfigError(
            "logger.mode=online needs a key of W&B, and none is known. Set WANDB_API_KEY or call `wandb login`; or say "
            "logger.mode=offline and push the run later."
        )


def _once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        warn(text)


def _short(error: BaseException) -> str:
    """An error without the key that it may quote."""
    text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "...") if key else text
