"""What the reference runs say on the command line, and how their files are read.

Every word, key, file name and column name is here: where the program renames one, this is the only file to edit.
"""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENTRY = ("pneumonia.cli", "main")  # the console entry point, for several commands in one process
SHARED = ["trainer.accelerator=cpu", "runs_dir=runs", "cache_dir=cache"]
SMALL = ["data.phantom.patients=60", "image_size=32", "batch_size=16", *SHARED]
NARROW = ["model=pseudo_resnet", "model.width=8"]
XRAYS = "cache/phantom-*/chest_xray"  # where the phantoms of these commands lie
DIGEST = re.compile(r"\b[0-9a-f]{8,64}\b")  # of data, splits, runs and code: names, not results

# label: overrides beside SMALL. Several runs (-m) of one label differ by seed and fold.
TRAININGS = {
    "perceptron": [
        *("model=perceptron", "task=pneumonia", "normalisation=minmax", "split=random"),
        *("optimizer=sgd_plain", "optimizer.lr=0.06", "scheduler=step", "max_epochs=3"),
    ],
    "perceptron_by_batch": [
        *("model=perceptron", "model.online=false", "task=pneumonia", "split=official"),
        *("optimizer=sgd_plain", "scheduler=none", "max_epochs=2"),
    ],
    "mlp": [
        *("model=mlp", "model.hidden=[8,4]", "model.activation=tanh", "model.dropout=0.1", "normalisation=zscore"),
        *("split=official", "optimizer=sgd", "scheduler=exponential", "class_weights=balanced", "max_epochs=2"),
    ],
    "mlp_kfold": [
        *("-m", "model=mlp", "task=pneumonia", "split=kfold", "split.k=2", "split.fold=0,1", "split.holdout=folder"),
        *("optimizer=rmsprop", "scheduler=cosine", "max_epochs=2"),
    ],
    "logistic_regression": ["model=logistic_regression", "model.max_iter=20", "split=grouped", "max_epochs=2"],
    "logistic_regression_elasticnet": [
        *("model=logistic_regression", "model.penalty=elasticnet", "model.C=1e-2", "model.max_iter=20"),
        *("split=kfold", "split.k=3", "split.fold=1", "split.seed=1", "max_epochs=2"),
    ],
    "simple_cnn": [
        *("model=simple_cnn", "model.width=8", "split=kfold", "split.k=3", "split.fold=2", "augmentation=normal"),
        *("mixup=0.2", "label_smoothing=0.1", "scheduler=cosine", "max_epochs=2"),
    ],
    "simple_cnn_early": [
        *("model=simple_cnn", "model.width=8", "split=grouped", "scheduler=plateau", "scheduler.patience=0"),
        *("early_stopping.patience=2", "early_stopping.min_delta=0.4", "max_epochs=8"),
    ],
    "resnet_ema": ["-m", *NARROW, "seed=0,1", "split=grouped", "augmentation=clinical", "ema=0.9", "max_epochs=3"],
    "resnet_swa": [
        *(*NARROW, "split=grouped", "swa=0.5", "optimizer=adamw", "scheduler=none"),
        *("trainer.gradient_clip_val=1.0", "max_epochs=4"),
    ],
    "resnet_rotating": [
        *(*NARROW, "split=rotating", "split.k=3", "split.every=1", "augmentation=high"),
        *("optimizer=sgd", "scheduler=one_cycle", "max_epochs=3"),
    ],
    "resnet_given": [
        *(*NARROW, "split=given", "split.file=SPLIT_FILE", "data.resize=pad", "optimizer=adagrad"),
        *("augmenter=albumentations", "augmentation=high", "trainer.accumulate_grad_batches=2", "max_epochs=2"),
    ],
    "resnet_fraction": [*NARROW, "split=grouped", "split.fraction=0.5", "monitor=val/accuracy", "max_epochs=2"],
    "backbone": [
        *("model=backbone", "model.name=test_resnet", "model.pretrained=false", "model.drop_path=0.1"),
        *("model.frozen_epochs=1", "model.layer_decay=0.7", "model.head_lr=5", "normalisation=robust", "channels=3"),
        *("tta=flip", "split=grouped", "max_epochs=2"),
    ],
}
SPLIT = ["data", "split", XRAYS, "--method", "kfold", "--k", "4", "--fold", "3", "--out", "splits"]
SPLIT_FILE = "splits/split-*.parquet"
AUDIT = ["data", "audit", XRAYS, "--json", "--cache-dir", "cache"]

COMPARED = [f"runs/{name}" for name in ("logistic_regression", "resnet_ema", "resnet_swa", "simple_cnn_early", "mlp")]
# label: the arguments of `evaluate`, and a file that it writes. The report has figures of the others of COMPARED.
EVALUATIONS = {
    "perceptron": (["runs/perceptron/*", "--split", "test"], "runs/perceptron/*/evaluation/own-test.json"),
    "mlp, on val": (["runs/mlp/*", "--split", "val", "--no-gallery"], "runs/mlp/*/evaluation/own-val.json"),
    "backbone, with the views of its training": (
        ["runs/backbone/*", "--split", "test", "--no-gallery"],
        "runs/backbone/*/evaluation/own-test.json",
    ),
    "simple_cnn, with tta=shift": (
        ["runs/simple_cnn/*", "--split", "test", "--tta", "shift", "--no-gallery"],
        "runs/simple_cnn/*/evaluation/own-test-tta-shift.json",
    ),
    "resnet_rotating": (
        ["runs/resnet_rotating/*", "--split", "test", "--no-gallery"],
        "runs/resnet_rotating/*/evaluation/own-test.json",
    ),
    "ensemble of mlp_kfold": (
        ["runs/mlp_kfold", "--ensemble", "--split", "test", "--no-gallery"],
        "runs/ensembles/*/evaluation/own-test.json",
    ),
    "ensemble of resnet_ema, with tta=flip": (
        ["runs/resnet_ema", "--ensemble", "--split", "test", "--tta", "flip", "--no-gallery"],
        "runs/ensembles/*/evaluation/own-test-tta-flip.json",
    ),
    "resnet_swa": ([*COMPARED, "--split", "test"], "runs/resnet_swa/*/evaluation/own-test.json"),
    # 54 of the 60 patients, so that intervals and tests are defined; a folder without parts counts as other data
    "resnet_swa, on other data": (
        [*COMPARED, "--data", f"{XRAYS}/train", "--split", "test"],
        "runs/resnet_swa/*/evaluation/train-*-test.json",
    ),
}
REPORT = ["report", *COMPARED, "--out", "report", "--title", "Reference"]
EXPORT = ["export", "runs/resnet_swa/*", "--out", "bundle"]
PREDICTIONS = {
    "bundle": ["predict", "bundle", f"{XRAYS}/test", "--json"],
    "run": ["predict", "runs/resnet_swa/*", f"{XRAYS}/test", "--json"],
}
SWEEP = [
    *("sweep", "optimizer", *SMALL, "model.width=8", "max_epochs=12", "dry_run=false"),
    *("optimizer=sgd,adam,rmsprop", "seed=0"),
]
RESUMABLE = "runs/optimizer/*/checkpoints/last.ckpt"  # one more of these: a job has finished its first epoch
SWEEP_RESULTS = "runs/optimizer/results.csv"

# Neither is a result: names, hashes, times, machines.
NO_RESULTS = {"run_id", "reason", "model_version", "bundle_version", "of", "runs", "manifest_sha256", "cost", "files"}
TIMED = re.compile(r"\b(time|cost|memory|images_per_s|usd)\b", re.IGNORECASE)
OF_WORDS = {"tripod-ai"}  # tables of the report that say nothing that another does not give in figures
RENAMED: dict[str, str] = {}  # a key, column or file name of today: the one that values.json has for it


def train_words(label: str) -> list[str]:
    return ["train", *TRAININGS[label], *SMALL, f"name={label}"]


def evaluate_words(label: str) -> list[str]:
    return ["evaluate", *EVALUATIONS[label][0]]


def everything_but_the_sweep() -> dict[str, list[str]]:
    """Each command under the name of the file that keeps its standard output."""
    first, *others = TRAININGS  # the first draws the phantoms
    return {
        f"train {first}": train_words(first),
        "split": SPLIT,
        **{f"train {label}": train_words(label) for label in others},
        "audit": AUDIT,
        **{f"evaluate {label}": evaluate_words(label) for label in EVALUATIONS},
        "report": REPORT,
        "export": EXPORT,
        **{f"predict {label}": arguments for label, arguments in PREDICTIONS.items()},
    }


# -- running ---------------------------------------------------------------------------------------------------------

DRIVER = """
import contextlib, glob, importlib, json, sys
from pathlib import Path

module, name, split_file, commands = json.load(open("commands.json"))
main = getattr(importlib.import_module(module), name)
allowed = {"audit": {0, 1}}  # 1: a leak was found, which is a finding

def found(word):
    word = word.replace("SPLIT_FILE", next(iter(glob.glob(split_file)), "SPLIT_FILE"))
    key, equals, value = word.rpartition("=")
    return f"{key}{equals}{sorted(glob.glob(value))[0]}" if "*" in value else word

for label, arguments in commands.items():
    print("==>", label, file=sys.stderr, flush=True)
    sys.argv = ["pneumonia", *map(found, arguments)]
    with open(f"output/{label}.txt", "w") as output, contextlib.redirect_stdout(output):
        try:
            main()
        except SystemExit as stop:
            if (stop.code or 0) not in allowed.get(label, {0}):
                sys.exit(f"{label}: pneumonia {' '.join(sys.argv[1:])} ended with {stop.code}")
"""


def environment() -> dict[str, str]:
    """One thread, no GPU, this very source tree, no settings from outside."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("PNEUMONIA_", "WANDB", "HYDRA_"))}
    plain.pop("PYTHONDONTWRITEBYTECODE", None)  # else torch is compiled anew at each start
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**plain, **threads, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def run_commands(folder: Path, **variables: str) -> None:
    """Run everything but the sweep in one process, so that torch is imported once; with more environment variables.

    Raises:
        RuntimeError: A command failed; with the end of its output.
    """
    (folder / "output").mkdir(parents=True)
    (folder / "commands.json").write_text(json.dumps([*ENTRY, SPLIT_FILE, everything_but_the_sweep()]))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=folder,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"A reference command failed.\n{done.stderr[-4000:]}")


def run_killed_sweep(folder: Path, kills: int = 3) -> None:
    """Run the sweep; kill its process group in the middle of the first, second and third job; then let it end.

    Raises:
        RuntimeError: It failed, or ended before it could be killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pneumonia", *SWEEP]
    for number in range(1, kills + 2):
        log = folder / f"sweep-{number}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=environment(), stdout=output, stderr=output, start_new_session=True
            )
            try:
                if number <= kills:
                    _wait(folder, number, process)
                    os.killpg(process.pid, signal.SIGKILL)
                code = process.wait(timeout=600)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        wanted = -signal.SIGKILL if number <= kills else 0
        if code != wanted:
            raise RuntimeError(f"Call {number} of the sweep ended with {code}, not {wanted}.\n{log.read_text()[-4000:]}")


def _wait(folder: Path, jobs: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until so many jobs have finished an epoch."""
    deadline = time.monotonic() + 600
    while len(list(folder.glob(RESUMABLE))) < jobs and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


# -- reading ---------------------------------------------------------------------------------------------------------


def values_of_commands(folder: Path) -> dict[str, Any]:
    """Every recorded value but those of the sweep, by the name of its test."""
    tables = sorted((folder / "report" / "tables").glob("*.csv"))
    return {
        "audit": plain(_said(folder, "audit")),
        **{f"train {label}": _runs(folder, label) for label in TRAININGS},
        **{f"evaluate {label}": plain(_json(_one(folder, path))) for label, (_, path) in EVALUATIONS.items()},
        "report figures": plain(_json(folder / "report" / "report.json")),
        **{f"report table {path.stem}": _cells(path) for path in tables if path.stem not in OF_WORDS},
        **{f"predict {label}": _answers(_said(folder, f"predict {label}")) for label in PREDICTIONS},
    }


def values_of_sweep(folder: Path) -> list[dict[str, Any]]:
    """The rows of its results table."""
    return _rows(folder / SWEEP_RESULTS)


def _runs(folder: Path, label: str) -> list[dict[str, Any]]:
    """The epochs and the result of each run of a label, by seed and fold."""
    found = []
    for path in (folder / "runs" / label).glob("*/result.json"):
        result = _json(path)
        config, data = result["config"], result["data"]
        values = {key: result[key] for key in ("status", "epochs", "best_epoch", "metrics", "confusion")}
        values["data"] = {key: data[key] for key in ("train", "val", "test", "leaks", "skipped")}
        epochs = _rows(path.parent / "metrics.csv")
        found.append((config["seed"], config["split"]["fold"], {"result": plain(values), "epochs": epochs}))
    if not found:
        raise RuntimeError(f"{label} has left no result in {folder}.")
    return [values for *_, values in sorted(found, key=lambda run: run[:2])]


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [plain({name: _number(cell) for name, cell in row.items()}) for row in csv.DictReader(file)]


def _cells(path: Path) -> list[list[str]]:
    """The cells of a table of the report, as printed, without columns and rows of time and cost."""
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file))
    kept = [column for column, name in enumerate(head) if not _timed(name)]
    rows = [[row[column] for column in kept] for row in [head, *rows] if not _timed(row[0])]
    return [[DIGEST.sub("#", cell) for cell in row] for row in rows]


def _answers(predictions: list[dict[str, Any]]) -> list[Any]:
    return [plain({**answer, "image": Path(answer["image"]).name}) for answer in predictions]


def plain(value: Any, key: str = "") -> Any:
    """A value without what is no result: numbers stay as they are, NaN becomes text, digests and folders go."""
    if isinstance(value, dict):
        named = {RENAMED.get(name, name): one for name, one in value.items()}
        return {name: plain(one, name) for name, one in named.items() if name not in NO_RESULTS and not _timed(name)}
    if isinstance(value, list):
        found = [plain(one) for one in value]
        return sorted(found) if key == "seeds" else found  # runs of one configuration come in the order of their ids
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    return DIGEST.sub("#", value) if isinstance(value, str) else value


def _timed(name: str) -> bool:
    return TIMED.search(name) is not None


def _number(cell: str) -> Any:
    try:
        return int(cell) if cell.isdigit() else float(cell)
    except ValueError:
        return cell


def _said(folder: Path, label: str) -> Any:
    return json.loads((folder / "output" / f"{label}.txt").read_text(encoding="utf-8"))


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise RuntimeError(f"{pattern} names {len(found)} files in {folder}, not one.")
    return found[0]
