"""Run folders as training and evaluation leave them, with predictions that a test has drawn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from simulated_predictions import simulate

from pneumonia.config.convert import from_plain, task_node, to_plain
from pneumonia.data.splits.leaks import Leak
from pneumonia.evaluation.evaluate_predictions import evaluate_predictions
from pneumonia.evaluation.result import Baselines, EvaluationResult
from pneumonia.metrics.classification import weighted_metrics
from pneumonia.metrics.predictions import PROBABILITY_PREFIX, predicted_classes
from pneumonia.runs.ensembles import ensemble_folder, mean_predictions, write_ensemble
from pneumonia.runs.folder import OWN, RunFolder
from pneumonia.runs.identity import EvaluationIdentity, versions
from pneumonia.runs.load import load_finished_run
from pneumonia.runs.result import COMPLETED, Confusion, Cost, RunData, RunResult
from pneumonia.system.files import digest, write_json
from pneumonia.tasks import TASKS

MakeRun = Callable[..., RunFolder]


def table_of(predicted: np.ndarray, label: np.ndarray, patient: np.ndarray, task: str, prefix: str = "i") -> pd.DataFrame:
    """A table of predictions."""
    classes = TASKS[task].classes
    probability = predicted.astype(np.float32)
    columns = {f"{PROBABILITY_PREFIX}{name}": probability[:, k] for k, name in enumerate(classes)}
    about = {
        "image_id": [f"{prefix}{number:05d}" for number in range(len(label))],
        "patient_id": [f"{prefix}-{name}" for name in patient],
        "label": np.array(classes)[label],
        "predicted": predicted_classes(probability, classes),
    }
    return pd.DataFrame(about | columns)


@pytest.fixture
def make_run(compose: Any) -> MakeRun:
    """Writes a finished run: make_run(runs, "sweep", "seed=1", predicted=(validation, test)) of tables or arrays."""

    def make(
        runs: Path,
        name: str,
        *overrides: str,
        seed: int = 0,
        skill: float = 1.3,
        patients: int = 80,
        subset: str | None = "test",
        manifest: str = "m" * 64,
        tables: dict[str, pd.DataFrame] | None = None,
        differs: dict[str, str] | None = None,
        losses: tuple[float, ...] = (0.9, 0.7, 0.8),
        leaks: tuple[Leak, ...] = (),
    ) -> RunFolder:
        config = to_plain(compose(f"name={name}", f"seed={seed}", *overrides, runs_dir=runs))
        task = task_node(config["task"]).build()
        if tables is None:
            tables = {}
            for number, which in enumerate(("val", "test")):
                # The images are those of every run; predictions are each run's own.
                (_,), label, patient = simulate(patients, np.random.default_rng(100 + number), models=1)
                rng = np.random.default_rng([seed, number, int(1000 * skill)])
                label = label if len(task.classes) == 3 else (label > 0).astype(int)
                odds = np.exp(2 * skill * np.eye(len(task.classes))[label] + rng.normal(0, 1.3, (len(label), len(task.classes))))
                tables[which] = table_of(odds / odds.sum(axis=1, keepdims=True), label, patient, task.name, which[0])
        run_id = digest([config, manifest, skill])[:12]
        folder = RunFolder(runs / name / run_id)
        folder.path.mkdir(parents=True)
        folder.config.write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
        split_sha = digest([manifest, config["split"]])
        rows = [(image, which) for which, table in tables.items() for image in table["image_id"]] + [("t0", "train")]
        pd.DataFrame(rows, columns=["image_id", "subset"]).assign(fold=-1).to_parquet(folder.split(split_sha))
        header = "epoch,lr,val/loss\n"
        folder.metrics.write_text(header + "".join(f"{k},0.1,{loss}\n" for k, loss in enumerate(losses, start=1)))
        folder.predictions("val").parent.mkdir()
        tables["val"].to_parquet(folder.predictions("val"))
        metrics = _metrics(tables["val"], task)
        phantoms = config["data"]["source"] == "phantom"
        data = RunData(manifest, split_sha, 800, len(tables["val"]), len(tables["test"]), list(leaks), {}, phantoms)
        RunResult(
            status=COMPLETED,
            shortened_by=[],
            name=name,
            run_id=run_id,
            config=from_plain(config),
            data=data,
            epochs=len(losses),
            best_epoch=int(np.argmin(losses)) + 1,
            metrics={"train": {}, "val": metrics},
            confusion=Confusion(list(task.classes), np.eye(len(task.classes), dtype=int).tolist()),
            cost=Cost("cpu", "32-true", 10.0 + seed, 300.0, 6.0, 900.0, 0.01),
            versions=versions(),
        ).write(folder)
        if subset:
            _evaluate(folder, tables[subset], tables["val"], subset, [run_id], config["tta"], task)
        if differs is not None:
            _note_job(runs / name, run_id, differs | {"seed": str(seed)})
        return folder

    return make


@pytest.fixture
def make_ensemble() -> Callable[[list[RunFolder]], RunFolder]:
    """Writes the evaluation of several runs as one, as `pneumonia evaluate RUN... --ensemble` does."""

    def make(runs: list[RunFolder]) -> RunFolder:
        results = [json.loads(run.result.read_text()) for run in runs]
        task = TASKS[results[0]["task"]]
        folder = RunFolder(ensemble_folder(runs))
        write_ensemble(folder, [load_finished_run(run.path) for run in runs])
        tables = [mean_predictions([pd.read_parquet(run.evaluation("test", "parquet")) for run in runs], task)]
        tables.append(mean_predictions([pd.read_parquet(run.predictions("val")) for run in runs], task))
        ids = [result["run_id"] for result in results]
        folder.evaluation("test", "parquet").parent.mkdir()
        _evaluate(folder, *tables, "test", ids, results[0]["config"]["tta"], task)
        return folder

    return make


def _metrics(table: pd.DataFrame, task: Any) -> dict[str, float | None]:
    predicted = table[[f"{PROBABILITY_PREFIX}{name}" for name in task.classes]].to_numpy(float)
    label = table["label"].map({name: k for k, name in enumerate(task.classes)}).to_numpy()
    values = weighted_metrics(predicted, label, np.ones((1, len(label))), task)
    return {name: float(value[0]) if np.isfinite(value[0]) else None for name, value in values.items()}


def _evaluate(
    folder: RunFolder,
    table: Any,
    fitting: Any,
    subset: str,
    ids: list[str],
    tta: str,
    task: Any,
    other: str = "",
    other_tta: str = "",
) -> None:
    """Write an evaluation: of the run's own data, or of ``other`` (a folder, whose name is its hash too)."""
    found = evaluate_predictions(table, subset, task, fitting)
    about = (f"/data/{other}", other * 8) if other else (None, None)
    of, baselines = EvaluationIdentity(ids, tta, *about), Baselines("not asked for")
    name = folder.name_of_data(Path(f"/data/{other}"), other * 8) if other else OWN
    path = folder.evaluation(subset, "json", name, other_tta)
    path.parent.mkdir(exist_ok=True)
    table.to_parquet(path.with_suffix(".parquet"))
    EvaluationResult(**vars(found), baselines=baselines, trained_on=0, phantoms=False, of=of).write(path)


@pytest.fixture
def evaluate_again() -> Callable[..., None]:
    """Writes another evaluation of a run: evaluate_again(run, table, other="x") or evaluate_again(run, table, tta="flip")."""

    def make(run: RunFolder, table: pd.DataFrame, other: str = "", tta: str = "") -> None:
        result = json.loads(run.result.read_text())
        fitting = pd.read_parquet(run.predictions("val"))
        used = tta or result["config"]["tta"]
        _evaluate(run, table, fitting, "test", [result["run_id"]], used, TASKS[result["task"]], other, tta)

    return make


def _note_job(folder: Path, run_id: str, differs: dict[str, str]) -> None:
    path = folder / "sweep.json"
    plan = json.loads(path.read_text()) if path.exists() else {"sweep": folder.name, "question": "Which one?", "jobs": []}
    key = f"job{len(plan['jobs'])}"
    plan["jobs"].append({"key": key, "differs": differs, "config": {}})
    write_json(path, plan)
    write_json(folder / "jobs" / f"{key}.json", {"run": run_id, "source": ""})
