"""A ``_target_`` from a file that may be anyone's imports nothing outside of the known packages."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pneumonia.cli import main
from pneumonia.config.targets import ALLOW
from pneumonia.errors import CheckpointError, ConfigError, PneumoniaError, TargetError
from pneumonia.models.checkpoints import HYPERPARAMETERS, load_classifier
from pneumonia.models.factory import build_classifier, family_of
from pneumonia.models.optimization import build_optimizer
from pneumonia.models.options import ClassifierOptions

OWN_FAMILY = """
from pathlib import Path

from pneumonia.models.mlp import MLP

Path("{mark}").touch()


class Net(MLP):
    pass
"""
OWN_OPTIMIZER = "import torch\n\n\nclass Steady(torch.optim.SGD):\n    pass\n"
FOREIGN = [
    "subprocess.Popen",
    "os.system",
    "builtins.eval",
    "pneumonia.models.factory.os.system",
    "pneumonia.models.factory.torch.hub.load",
    "pneumonia.models.factory.nn",
    "pneumonia.models.factory.Classifier",
    "pneumonia.models.base.Classifier",
    "pneumonia.models.factory.ClassifierOptions",
    "pneumonia.models.factory._check_setup",
    "pneumonia.models.factory.build_classifier",
    "pneumonia.models.mlp",
    "pneumonia.models.none.Net",
    "pneumonia.__main__.main",
    "pneumonia.training.train.subprocess",
    "pneumonia.cli.main",
    "pneumonia_models.Net",
    "pneumonia.models",
    "pneumonia.models.",
    "pneumonia.models.mlp.MLP ",
    "pneumonia.models.mlp.MLP\n",
    "pneumonia.models..mlp.MLP",
    ".models.mlp.MLP",
    "torch.optim.SGD",
    "MLP",
    "",
    None,
    3,
    True,
    ["pneumonia.models.mlp.MLP"],
    {"_target_": "pneumonia.models.mlp.MLP"},
]


@pytest.fixture
def own_package(tmp_path, monkeypatch) -> Path:
    """A module outside of the package that leaves a mark where it is imported."""
    mark = tmp_path / "imported"
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "own_nets.py").write_text(OWN_FAMILY.format(mark=mark))
    (folder / "own_optimizers.py").write_text(OWN_OPTIMIZER)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv(ALLOW, raising=False)
    yield mark
    for name in ("own_nets", "own_optimizers"):
        sys.modules.pop(name, None)


@pytest.fixture
def foreign(finished, tmp_path):
    """A copy of a finished run whose checkpoint and result name another class."""

    def build(target: object, **more: object) -> Path:
        run = tmp_path / "foreign"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(finished, run)
        path = run / "checkpoints" / "best.ckpt"
        saved = torch.load(path, weights_only=True)
        saved[HYPERPARAMETERS] |= {"_target_": target, **more}
        torch.save(saved, path)
        result = json.loads((run / "result.json").read_text())
        for node in (result["model"], result["config"]["model"]):
            node |= {"_target_": target, **more}
        (run / "result.json").write_text(json.dumps(result))
        return run

    return build


def _code(monkeypatch, capsys, *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["pneumonia", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize("target", FOREIGN)
def test_a_family_from_a_file_is_a_class_of_ours(target):
    before = set(sys.modules)
    with pytest.raises(TargetError, match="_target_"):
        build_classifier({"_target_": target}, ClassifierOptions("subtype"))
    assert {name for name in set(sys.modules) - before if not name.startswith("pneumonia.models.")} == set()


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "torch.nn.Linear", "torch.optim.sys", "torch.optim.sys.exit", "torch.optim.Optimizer"),
        *("torch.optim.lr_scheduler.StepLR", "torch.optim._functional.adam", "torch.optim.lr_scheduler", "torch.optim"),
        *(
            "torch.optim.swa_utils.AveragedModel",
            "pneumonia.training.schedulers.cosine",
            "own_optimizers.Steady",
            "",
            None,
            1,
        ),
    ],
)
def test_an_optimizer_from_a_file_is_a_class_of_torch(target, own_package):
    with pytest.raises(TargetError, match="optimizer"):
        build_optimizer([torch.nn.Parameter(torch.zeros(1))], {"_target_": target, "lr": 0.1})
    assert "own_optimizers" not in sys.modules


def test_public_classes_of_torch_optim_are_optimizers():
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    for target in ("torch.optim.Adam", "torch.optim.adamw.AdamW"):
        assert build_optimizer(parameters, {"_target_": target, "lr": 0.1}).param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("verb", ["predict", "evaluate", "evaluate many", "export", "ensemble"])
def test_a_run_of_someone_else_imports_nothing(verb, foreign, own_package, finished, phantoms, monkeypatch, capsys):
    run = foreign("own_nets.Net")
    out = run.parent / "bundle"
    image = next(phantoms.rglob("*.jpeg"))
    arguments = {
        "predict": ["predict", run, image],
        "evaluate": ["evaluate", run],
        "evaluate many": ["evaluate", run.parent],
        "export": ["export", run, "--out", out],
        "ensemble": ["evaluate", run, finished, "--ensemble"],
    }[verb]
    if verb == "ensemble":
        result = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps(result | {"run_id": "0" * 12}))
    code, err = _code(monkeypatch, capsys, *arguments)
    assert code == (1 if verb == "evaluate many" else 2), err
    assert "TargetError" in err
    assert "best.ckpt: model._target_='own_nets.Net' was not imported" in err
    assert f"{ALLOW}=own_nets" in err
    assert not own_package.exists()
    assert not out.exists()


def test_a_name_that_the_user_allows_is_imported(foreign, own_package, monkeypatch, phantoms):
    run = foreign("own_nets.Net")
    with pytest.raises(TargetError, match="was not imported"):
        load_classifier(run / "checkpoints" / "best.ckpt")
    for allowed in ("own_net", "own_nets.Other", "own_nets.Net.x", "nets"):
        monkeypatch.setenv(ALLOW, allowed)
        with pytest.raises(TargetError, match="was not imported"):
            family_of({"_target_": "own_nets.Net"})
    assert not own_package.exists()
    for allowed in ("own_nets", "other, own_nets.Net"):
        monkeypatch.setenv(ALLOW, allowed)
        assert family_of({"_target_": "own_nets.Net"}).__name__ == "Net"
    assert own_package.exists()
    monkeypatch.setenv(ALLOW, "own_nets")
    for trick in ("own_nets.Path", "own_nets.MLP.mro", "own_nets.Path.touch"):
        with pytest.raises(TargetError):
            family_of({"_target_": trick})


@pytest.mark.parametrize("value", ["*", "own nets", "own_nets;os", "own_nets.", "/tmp"])
def test_a_setting_that_is_no_list_of_names_is_refused(value, monkeypatch):
    monkeypatch.setenv(ALLOW, value)
    with pytest.raises(ConfigError, match=f"{ALLOW}: .* is not a dotted name"):
        family_of({"_target_": "os.system"})


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_recursive_", "_convert_"])
def test_other_keys_of_hydra_are_no_settings(key, foreign):
    run = foreign("pneumonia.models.pseudo_resnet.PseudoResNet", **{key: {"_target_": "os.getcwd"}})
    with pytest.raises(ConfigError, match=rf"model\.{key} is not an option"):
        load_classifier(run / "checkpoints" / "best.ckpt")


def test_the_optimizer_of_a_checkpoint_is_not_imported(finished, own_package, tmp_path):
    path = tmp_path / "best.ckpt"
    saved = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    saved[HYPERPARAMETERS]["options"]["optimizer"] = {"_target_": "own_optimizers.Steady", "lr": 0.1}
    torch.save(saved, path)
    classifier = load_classifier(path)
    with pytest.raises(TargetError, match="was not imported"):
        build_optimizer(classifier.parameters(), classifier.options.optimizer, classifier.options.own_targets)
    assert "own_optimizers" not in sys.modules


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("task", "none"), ("task", 3), ("tta", "none at all"), ("image_size", "75"), ("image_size", True)),
        *(("scaling", None), ("class_weights", ["a"]), ("ema", 10**400), ("optimizer", "sgd"), ("seed", 0.5)),
        *(
            ("seed", 10**400),
            ("image_size", 10**9),
            ("channels", 2),
            ("scaling", {"method": "minus_one_one", "shift": 0.0}),
        ),
        ("scaling", {"method": "minus_one_one", "shift": 0.0, "scale": 0.0}),
        *(("scaling", "zscore"), ("class_weights", "balanced")),
    ],
)
def test_a_checkpoint_with_an_impossible_setting_is_refused(name, value, finished, tmp_path):
    path = tmp_path / "best.ckpt"
    saved = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    saved[HYPERPARAMETERS]["options"][name] = value
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match=f"holds a value that no run writes: {name}[=.]"):
        load_classifier(path)


@pytest.mark.parametrize("weights", [None, [], {"x": 1}, "missing"])
def test_a_checkpoint_without_weights_is_refused(weights, finished, tmp_path):
    path = tmp_path / "best.ckpt"
    saved = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    saved["state_dict"] = weights
    if weights == "missing":
        del saved["state_dict"]
    torch.save(saved, path)
    with pytest.raises(CheckpointError):
        load_classifier(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_undefined_weights_is_refused(value, finished, phantoms, tmp_path, monkeypatch, capsys):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    path = run / "checkpoints" / "best.ckpt"
    saved = torch.load(path, weights_only=True)
    name = next(name for name, tensor in saved["state_dict"].items() if tensor.is_floating_point() and tensor.ndim > 1)
    saved["state_dict"][name].view(-1)[0] = value
    torch.save(saved, path)
    code, err = _code(monkeypatch, capsys, "predict", run, next(phantoms.rglob("*.jpeg")), "--json")
    assert code == 2
    assert f"CheckpointError: {path}: 1 of its weights hold NaN or infinity, for example {name}" in err


def test_own_classes_train_and_predict_once_allowed(own_package, cache_dir, phantoms, tmp_path):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "optimizer").mkdir()
    (tmp_path / "conf" / "model" / "own.yaml").write_text("_target_: own_nets.Net\nhidden: [4]\n")
    (tmp_path / "conf" / "optimizer" / "own.yaml").write_text("_target_: own_optimizers.Steady\nlr: 0.1\n")
    path = os.pathsep.join([str(own_package.parent / "modules"), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}

    def call(*arguments: object, **more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "pneumonia", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**environment, **more})

    arguments = ["data.phantom.patients=60", "image_size=32", "max_epochs=1", f"cache_dir={cache_dir}"]
    own = ["--config-dir", tmp_path / "conf", "model=own", "optimizer=own"]
    done = call("train", *own, *arguments, f"runs_dir={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stderr[-2000:]
    run = next((tmp_path / "runs").glob("*/*/result.json")).parent
    image = next(phantoms.rglob("*.jpeg"))
    refused = call("predict", run, image)
    assert refused.returncode == 2
    assert f"{ALLOW}=own_nets" in refused.stderr
    answered = call("predict", run, image, "--json", PNEUMONIA_ALLOW_TARGETS="own_nets")
    assert answered.returncode == 0, answered.stderr[-2000:]
    assert json.loads(answered.stdout)[0]["image"] == str(image)


def test_every_refusal_is_a_named_error():
    assert issubclass(TargetError, PneumoniaError)
    assert issubclass(TargetError, ValueError)
