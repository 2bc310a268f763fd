"""Bad input ends with a named error, the value, what to do, exit code 2, and nothing written."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pneumonia.cli import VERBS, main
from pneumonia.cli.hydra_options import options_and_overrides
from pneumonia.cli.train import run as run_train
from pneumonia.config.group_choices import OF_SEVERAL
from pneumonia.config.keys import config_groups, files_of
from pneumonia.config.schema import GROUPS

BAD = [
    ("btach_size=3", r"btach_size is not a config key.*'batch_size'"),
    ("batch_size=0", r"batch_size=0 is out of range.*1 or more"),
    ("batch_size=abc", r"batch_size=abc has the wrong type: it must be a whole number"),
    ("image_size=-1", r"image_size=-1 is out of range.*8 to 2048"),
    ("optimizer.lr=0", r"optimizer.lr=0 is out of range.*above 0"),
    ("optimizer.lr=nan", r"optimizer.lr=nan is out of range"),
    ("optimizer=sdg", r"optimizer=sdg is not known.*Did you mean 'sgd'"),
    ("optimizer._target_=torch.optim.Sgd", r"optimizer._target_=torch.optim.Sgd names no class.*'SGD'"),
    ("optimizer._target_=os.getcwd", r"optimizer._target_=os.getcwd is not an optimizer"),
    ("model._target_=pathlib.Path", r"model._target_=pathlib.Path is not a family"),
    ("+model.widht=3", r"model.widht is not a key of model=pseudo_resnet.*'width'"),
    ("model.widht=3", r"model.widht is not a config key.*'model.width'"),
    ("model.activation=rellu", r"model.activation=rellu is not known.*'relu'"),
    ("model.activation=null", r"model.activation=null has the wrong type: it must be text"),
    ("model=mlp model.hidden=8", r"model.hidden=8 has the wrong type: it must be a list, each item a whole number"),
    ("model=logistic_regression model.C=abc", r"model.C=abc has the wrong type: it must be a finite number"),
    ("model=logistic_regression model.max_iter=1.5", r"model.max_iter=1.5 has the wrong type"),
    (
        "model=perceptron task=pneumonia model.online=maybe",
        r"model.online=maybe has the wrong type: it must be true or",
    ),
    ("model=backbone model.head_lr=inf", r"model.head_lr=inf has the wrong type"),
    ("model=backbone model.name=123", r"model.name=123 has the wrong type"),
    ("model=mlp model.weights=x.pt", r"model.weights is not a config key of the chosen model, but of another one"),
    ("model=null", r"model=null is not the name of a file. Use model=NAME. Names are backbone"),
    ("callbacks=1", r"callbacks=1 is not the name of a file.*or a list of names.*callbacks=\[\] chooses none"),
    ("experiment=null", r"experiment=null is not the name of a file.*~experiment leaves it out"),
    *((f"{group}=", rf"{group}= is empty. Use {group}=NAME") for group in [*config_groups(), "hydra/launcher"]),
    *((f"{group}=[null]", rf"{group}=\[null\] holds more than names of files. Use {group}=NAME") for group in OF_SEVERAL),
    ("callbacks=[1]", r"callbacks=\[1\] holds more than names of files"),
    ("logger=[csv,null]", r"logger=\[csv, null\] holds more than names of files.*Names are csv, mlflow, tensorboard, wandb"),
    ("logger=[[csv]]", r"logger=\[\[csv\]\] holds more than names of files"),
    ("callbacks=[{lr_monitor:1}]", r"callbacks=\[\{lr_monitor: 1\}\] holds more than names"),
    ("hydra/launcher=[1]", r"hydra/launcher=\[1\] holds more than names"),
    ("-m callbacks=lr_monitor,[1]", r"callbacks=\[1\] holds more than names of files"),
    ("-m model=mlp,[mlp]", r"model=\[mlp\] is a list, and model takes the name of one file"),
    ("swa=0.5 early_stopping.patience=2", r"swa=0.5 with early_stopping.patience: the run may stop before"),
    ("runs_dir=/proc/none/runs", r"StorageError: Can't write /proc/none/runs: no file or folder can be made there"),
    ("trainer.limit_train_batches=0", r"trainer.limit_train_batches=0 is out of range: it must be a fraction above 0"),
    (
        "trainer.limit_train_batches=1.5",
        r"trainer.limit_train_batches=1.5 is out of range: it must be a fraction above 0",
    ),
    ("trainer.limit_val_batches=true", r"trainer.limit_val_batches=true is out of range"),
    ("trainer.max_time=5", r"trainer.max_time=5 is out of range: it must be null, or a time as DD:HH:MM:SS"),
    ("trainer.max_time=99999999999:00:00:00", r"trainer.max_time=9+:00:00:00 is out of range.*at most 999999 days"),
    ("launcher.timeout_min=1e300", r"launcher.timeout_min=1e\+300 is out of range.*at most 10000000"),
    ("backup.every_min=1e300", r"backup.every_min=1e\+300 is out of range.*at most 10000000"),
    ("hydra.sweeper.params={seed:1}", r"hydra.sweeper.params is null, so no keys can be set in it here"),
    ("-m +hydra.sweeper.params.seed=1", r"is null, so no keys can be set in it here.*overrides: -m seed=1,2"),
    ("seed=1 --cfg job --package nope", r"--package nope: the config has no such key"),
    ("seed=null", r"seed=null has the wrong type: it must be a whole number. For example seed=0"),
    ("seed={a:1}", r"seed=\{a:1\} has the wrong type: it must be a whole number"),
    ("ema=abc", r"ema=abc has the wrong type: it must be a finite number or null. For example ema=null"),
    ("dry_run=null", r"dry_run=null has the wrong type: it must be true or false"),
    ("data.phantom=null", r"holds several keys. Set them one by one: data.phantom.patients=VALUE"),
    ("early_stopping=3", r"early_stopping=3 has the wrong type: it holds several keys"),
    ("class_weights=[1,2,3]", r"class_weights=\[1,2,3\] has the wrong type: it must be text"),
    ("name=[1,2]", r"name=\[1,2\] has the wrong type: it must be text.*name=train"),
    ("trainer=[a]", r"trainer=\[a\] is a list, and trainer takes the name of one file.*ddp, default, gpu"),
    ("callbacks=[a]", r"callbacks=a is not known. Choose one of device_stats"),
    ("trainer=cpu", r"trainer=cpu is not known. Choose one of ddp, default, gpu. Use trainer.accelerator=cpu"),
    ("trainer=16-mixed", r"Use trainer.precision=16-mixed"),
    ("logger.wandb.offline=true", r"logger.wandb.offline is not a config key. Use logger.wandb.mode=offline"),
    ("logger=tensorboard +logger.tensorboard.save_dir=x", r"logger.tensorboard.save_dir is not a config key.*runs_dir=DIR"),
    (
        "callbacks=rich_progress_bar callbacks.rich_progress_bar.refresh_rate=3",
        r"does not set is added with a \+: \+callbacks.rich_progress_bar.refresh_rate=VALUE",
    ),
    (
        "callbacks=early_stopping callbacks.lr_monitor.logging_interval=step",
        r"a callback that is not chosen. Choose it, callbacks=lr_monitor, or in a list: callbacks=\[NAME,lr_monitor\]",
    ),
    ("callbacks=early_stopping callbacks.early_stopping.patince=3", r"Did you mean 'callbacks.early_stopping.patience'"),
    ("callbacks=device_stats callbacks.device_stats.cpu_stat=true", r"Did you mean 'callbacks.device_stats.cpu_stats'"),
    ("callbacks.x._target_=a.B", r"without a file is added with a \+: \+callbacks.x._target_=PACKAGE.CLASS"),
    ("callbacks.x.rate=1", r"\+callbacks.x._target_=PACKAGE.CLASS \+callbacks.x.rate=VALUE"),
    ("callbacks={x:1}", r"callbacks.x is not a config key. A callback without a file"),
    ("callbacks._target_=a.B", r"\+callbacks.NAME._target_=PACKAGE.CLASS"),
    (
        "+callbacks.x.rate=1",
        r"callbacks.x._target_ is missing.*Choose its file, callbacks=\[x\], or add it with \+callbacks.x._target_=PACKAGE.CLASS",
    ),
    ("+callbacks.x=1", r"callbacks.x=1 must hold keys and values: the _target_ of its class, and its arguments"),
    ("tune=learning_rate", r"tune=learning_rate is not known.*Did you mean 'lr'"),
    ("task.classes=[0,1]", r"task.classes=\[0, 1\] has the wrong type: it must be a list, each item text"),
    ("task.classes=[A,null]", r"task.classes=\[A, null\] has the wrong type"),
    (
        "+task.synonyms.VIRUS=flu",
        r"task.synonyms=\{VIRUS: flu\} has the wrong type: it must be keys and values, each value a list",
    ),
    ("task.name=5", r"task.name=5 has the wrong type: it must be text"),
    ("--config-dir /dev/null", r"--config-dir /dev/null is a file. Name the folder that holds your groups"),
    ("-cd /no/such", r"--config-dir /no/such is not a folder"),
    ("hydra.run=3", r"hydra.run=3 has the wrong type"),
    ("runs_dir=", r"runs_dir is empty, which would mean the current folder"),
    ("cache_dir=", r"cache_dir is empty"),
    ("split.file=", r"split.file is empty.*or leave it out"),
    ("trainer.max_time={weeks:1}", r"trainer.max_time=.*weeks.* is out of range: it must be null, or a time"),
    ("trainer.max_steps=0", r"trainer.max_steps=0 is out of range: it must be a number of steps, or -1"),
    ("trainer.fast_dev_run=often", r"trainer.fast_dev_run=often is out of range: it must be true or false"),
    ("+trainer.foo=1", r"trainer.foo is not a key of trainer=default"),
    ("experiment=article/fnal", r"experiment=article/fnal is not known.*'article/final'"),
    ("task=foo", r"task=foo is not known. Choose one of pneumonia, subtype"),
    ("data=folder", r"data.root has no value"),
    ("data=folder data.root=/no/such/folder", r"LayoutError: data.root=/no/such/folder does not exist"),
    ("name=../elsewhere", r"name='../elsewhere' can't name a folder"),
    ("data.root=a'b", r"data.root=a'b can't be parsed. An override is key=value"),
    ("=3", r"'=3' names no key"),
    ("~batch_size", r"batch_size is missing from the config, and every run needs it"),
    ("~mixup=0.0", r"mixup is missing from the config"),
    ("~monitor", r"~monitor removes a key that every run needs. Set it instead, monitor=VALUE"),
    ("~early_stopping", r"early_stopping is missing from the config"),
    ("~data.phantom.seed", r"~data.phantom.seed removes a key that every run needs"),
    ("~trainer.devices", r"trainer.devices is missing from the config, and trainer=default needs it"),
    ("~optimizer.lr", r"optimizer.lr is missing from the config, and optimizer=adam needs it"),
    *((f"~{group}", rf"{group} has no value, and a run needs one.*{group}=NAME") for group in GROUPS),
    ("~data=folder", r"~data=folder removes nothing: it is not chosen"),
    ("~nonsense", r"~nonsense removes nothing: nonsense is not a config key"),
    ("+batch_size=3", r"\+batch_size adds a key, and batch_size is there already"),
    ("+data.foo=1", r"data.foo is not a config key"),
    ("batch_size=1,2", r"batch_size=1,2 has several values, and one run takes one. Use -m"),
    ("seed=range(0,2)", r"seed=range\(0,2\) has several values"),
    ("-m seed=interval(0,1)", r"An interval has no steps"),
    *(
        (f"{group}=[{name}]", rf"{group}=\[{name}\] is a list, and {group} takes the name of one file: {group}=NAME")
        for group in sorted({*config_groups()} - {*OF_SEVERAL})
        for name in files_of(group)[:1]
    ),
    ("task=[subtype,pneumonia]", r"task=\[subtype, pneumonia\] is a list, and task takes the name of one file"),
    ("trainer.accelerator=foo", r"trainer.accelerator=foo is not known; choose one of auto, cpu, gpu, cuda"),
    ("trainer.devices=null", r"trainer.devices=null is out of range"),
    ("trainer.devices=0", r"trainer.devices=0 is out of range: it must be a number of processes, auto or -1 for all GPUs"),
    ("trainer.devices=[0,0]", r"trainer.devices=\[0, 0\] is out of range"),
    ("trainer.strategy=fsdp", r"trainer.strategy=fsdp is not known; choose one of auto, ddp, ddp_spawn"),
    ("trainer.profiler=xla", r"trainer.profiler=xla is not known; choose one of simple, advanced, pytorch"),
    (
        "scheduler=plateau trainer.check_val_every_n_epoch=2",
        r"scheduler=plateau follows the validation loss of every epoch",
    ),
    ("trainer.overfit_batches=0", r"trainer.overfit_batches=0 is out of range"),
    ("trainer.check_val_every_n_epoch=11", r"check_val_every_n_epoch=11 validates no epoch of max_epochs=10"),
    ("trainer.precision=32", r"trainer.precision=32 is not known"),
    ("trainer.deterministic=foo", r"trainer.deterministic=foo has the wrong type: it must be true or false"),
    ("trainer.benchmark=2", r"trainer.benchmark=2 has the wrong type"),
    ("trainer.limit_train_batches=1.5", r"trainer.limit_train_batches=1.5 is out of range: it must be a fraction"),
    ("trainer.accumulate_grad_batches=null", r"trainer.accumulate_grad_batches=null is out of range"),
    ("trainer.gradient_clip_algorithm=foo", r"trainer.gradient_clip_algorithm=foo is not known"),
    ("++trainer.barebones=true", r"argument of Lightning's Trainer that is not passed on: a run has to record itself"),
    ("trainer.val_check_interval=2.5", r"trainer.val_check_interval=2.5 is out of range: it must be a fraction of an epoch"),
    ("trainer.val_check_interval=2 trainer.check_val_every_n_epoch=2", r"Leave one out"),
    ("optimizer.amsgrad=true", r"added with a \+: \+optimizer.amsgrad=VALUE"),
    ("++optimizer.amsgrd=true", r"optimizer.amsgrd is not a key of optimizer=adam.*Did you mean 'amsgrad'"),
    ("++optimizer.amsgrad=abc", r"optimizer.amsgrad=abc has the wrong type: it must be true or false"),
    ("++optimizer.betas=[0.9]", r"optimizer.betas=\[0.9\] has the wrong type: it must be a list of 2 numbers"),
    ("++optimizer.eps=abc", r"optimizer.eps=abc has the wrong type: it must be a number"),
    ("++scheduler.foo=1", r"scheduler.foo is not a key of scheduler=one_cycle, so it is refused"),
    ("--max-epochs 2", r"--max-epochs is not an option: config keys are set as key=value. Use max_epochs=2"),
    ("--max_epochs=2", r"Use max_epochs=2"),
    ("--lr 0.1", r"Use optimizer.lr=0.1"),
    ("--model mlp", r"Use model=mlp"),
    ("--force", r"Use force=true"),
    ("--foo", r"--foo is not an option of `pneumonia train`[^?]*$"),
    ("--multi", r"--multi is not an option.*Did you mean '--multirun'"),
    ("--cfg foo", r"--cfg foo: --cfg needs one of job, hydra, all"),
    ("--info foo", r"--info foo: --info needs one of all, config"),
    ("-m --cfg job", r"--multirun and --cfg exclude one another"),
    ("--resolve", r"--resolve needs --cfg"),
    ("--experimental-rerun x.pickle", r"--experimental-rerun is not supported: it loads a pickle"),
    ("hydra/launcher=foo", r"hydra/launcher=foo is not known"),
    ("hydra/sweeper=optuna", r"`pneumonia sweep search` searches with Optuna"),
    ("split.k=1", r"split.k=1 is out of range: it must be a number of folds from 2"),
    ("split=kfold split.k=3 split.fold=3", r"split.fold=3 does not exist with split.k=3"),
    ("split.fraction=0", r"split.fraction=0.0 is out of range"),
    ("split=rotating split.fraction=0.5", r"split.fraction=0.5 does not go with split=rotating"),
    ("split=given split.file=/no/such.parquet", r"ManifestError: There is no split file /no/such.parquet"),
    ("normalisation=zscroe", r"normalisation=zscroe is not known.*'zscore'"),
    (
        "data=folder data.root=/no/such.parquet",
        r"LayoutError: data.root=/no/such.parquet does not exist.*SOURCE --out",
    ),
]


def _run(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pneumonia", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_override_is_refused_before_anything_is_written(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PNEUMONIA_CACHE", str(tmp_path / "cache"))
    code, _, err = _run(["train", *arguments.split()], monkeypatch, capsys)
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert re.search(message, last), last
    assert "Traceback" not in err
    assert "Error executing job" not in err
    assert "not found in config" not in err
    assert not list(tmp_path.rglob("*.*")), "nothing half-written"


def test_option_takes_no_override_for_its_optional_value():
    assert options_and_overrides(["seed=1", "--info"]) == (["--info", "all"], ["seed=1"])


def test_hydra_help_after_an_override_shows_the_help(monkeypatch, capsys):
    code, out, _ = _run(["train", "data.phantom.patients=24", "--hydra-help"], monkeypatch, capsys)
    assert (code, "Hydra's help" in out) == (0, True)


def test_a_time_limit_ends_the_command_as_an_interruption(monkeypatch, capsys, cache_dir, tmp_path):
    small = [
        "model=mlp",
        "image_size=16",
        "data.phantom.patients=24",
        "trainer.accelerator=cpu",
        f"cache_dir={cache_dir}",
    ]
    limited = ["train", *small, f"runs_dir={tmp_path}", "trainer.max_time=00:00:00:00"]
    code, _, err = _run(limited, monkeypatch, capsys)
    assert code == 130
    assert "TimeLimitReached: trainer.max_time=00:00:00:00 was over after 0 of 10 epochs" in err
    assert "Rerun the command to resume. Allow more time" in err
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize(
    "word",
    [
        *("~experiment", "~data", "++batch_size=8", "seed='3'", "monitor=null", "+optimizer.amsgrad=true"),
        *("++optimizer.betas=[0.8,0.9]", "trainer.limit_train_batches=2", 'name="a-b"'),
    ],
)
def test_an_override_that_means_something_is_accepted(word, monkeypatch, tmp_path):
    from pneumonia.training.prepare import checked_classifier

    trained = []

    def check_alone(config, **_):
        checked_classifier(config)
        trained.append(config)
        return SimpleNamespace(metrics={"val": {"loss": 1.0}})

    monkeypatch.setattr("pneumonia.training.train.train", check_alone)
    monkeypatch.chdir(tmp_path)
    assert run_train([word]) == 0
    assert len(trained) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_a_terminal_and_has_no_leftover_of_formatting(verb, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "130")
    code, out, _ = _run([verb, "--help"], monkeypatch, capsys)
    assert code == 0
    assert "%%" not in out
    assert not re.search(r"\{\w*\}", out), "a field of a format string was left as it stands"
    assert max(map(len, out.splitlines())) <= 140


@pytest.mark.parametrize(("verb", "typed"), [("sweep", "optimizer --seed 3"), ("reproduce", "--seed=3")])
def test_an_option_of_a_sweep_names_the_override(verb, typed, monkeypatch, capsys):
    code, _, err = _run([verb, *typed.split()], monkeypatch, capsys)
    assert code == 2
    assert "--seed is not an option: config keys are set as key=value. Use seed=3." in err


def test_a_typo_inside_an_experiment_file_is_refused(monkeypatch, capsys, tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\nbtach_size: 3\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = _run(["train", "--config-dir", "conf", "experiment=mine"], monkeypatch, capsys)
    assert code == 2
    assert "btach_size is not a config key" in err
    (folder / "mine.yaml").write_text("# @package _global_\nmodel: {widht: 3}\n")
    code, _, err = _run(["train", "--config-dir", "conf", "experiment=mine"], monkeypatch, capsys)
    assert code == 2
    assert "model.widht is not a key of model=pseudo_resnet" in err
    assert not (tmp_path / "runs").exists()


def test_an_unknown_verb_suggests_the_nearest(monkeypatch, capsys):
    code, _, err = _run(["tran"], monkeypatch, capsys)
    assert code == 2
    assert "Did you mean 'train'?" in err


def test_an_unknown_sweep_lists_what_there_is(monkeypatch, capsys):
    code, _, err = _run(["sweep", "optimiser"], monkeypatch, capsys)
    assert code == 2
    assert "no sweep 'optimiser'" in err
    assert "Did you mean 'optimizer'?" in err


def test_doctor_finds_a_folder_that_is_no_data(monkeypatch, capsys, tmp_path, phantoms):
    monkeypatch.chdir(tmp_path)
    code, out, _ = _run(["doctor", "--data", str(tmp_path)], monkeypatch, capsys)
    assert code == 1
    assert "PROBLEM  data" in out
    code, out, _ = _run(["doctor", "--data", str(phantoms)], monkeypatch, capsys)
    assert out.index("(NORMAL ") < out.index(", VIRUS ") < out.index(", BACTERIA "), "in the order of the task"
    assert "60 patients" in out
    assert not list(tmp_path.iterdir()), "doctor leaves nothing behind"


def test_the_installed_command_works_from_any_directory(tmp_path):
    command = [sys.executable, "-c", "from pneumonia.cli import main; main()", "train", "--cfg", "job"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "image_size: 75" in done.stdout
    assert not list(tmp_path.iterdir())


def test_doctor_accepts_a_manifest(monkeypatch, capsys, tmp_path, phantoms):
    monkeypatch.chdir(tmp_path)
    code, manifest, _ = _run(["data", "import", str(phantoms), "--out", "mine.parquet"], monkeypatch, capsys)
    assert code == 0
    code, out, _ = _run(["doctor", "--data", manifest.strip()], monkeypatch, capsys)
    assert code == 0, out
    images = len(list(phantoms.rglob("*.jpeg")))
    assert re.search(rf"ok +data +mine\.parquet: {images} images of 60 patients \(NORMAL \d+, VIRUS ", out), out
    (tmp_path / "mine.parquet").write_bytes(b"no table")
    code, out, _ = _run(["doctor", "--data", "mine.parquet"], monkeypatch, capsys)
    assert code == 1
    assert re.search(r"PROBLEM +data +ManifestError: .*mine\.parquet is not a manifest", out), out


def test_doctor_names_the_classes_of_other_tasks(monkeypatch, capsys, tmp_path, phantoms):
    (tmp_path / "covid.yaml").write_text("name: covid\nclasses: [CLEAR, COVID]\n")
    for path, label in zip(sorted(phantoms.rglob("*.jpeg"))[:8], ["CLEAR", "COVID"] * 4, strict=True):
        (tmp_path / "xrays" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "xrays" / label / f"{label}-{path.name}").hardlink_to(path)
    monkeypatch.chdir(tmp_path)
    _run(["data", "import", "xrays", "--task", "covid.yaml"], monkeypatch, capsys)
    code, out, _ = _run(["doctor", "--data", "manifest.parquet", "--task", "covid.yaml"], monkeypatch, capsys)
    assert "(CLEAR 4, COVID 4)" in out, (code, out)
    code, out, _ = _run(["doctor", "--data", "manifest.parquet"], monkeypatch, capsys)
    assert code == 1
    assert re.search(r"PROBLEM +data +LabelError: ", out), out


def test_doctor_finds_files_that_are_no_images(monkeypatch, capsys, tmp_path, phantoms):
    for path in phantoms.rglob("*.jpeg"):
        target = tmp_path / path.parent.name / path.name
        target.parent.mkdir(exist_ok=True)
        target.hardlink_to(path)
    (tmp_path / "NORMAL" / "IM-9999-0001.jpeg").write_bytes(b"")
    code, out, _ = _run(["doctor", "--data", str(tmp_path)], monkeypatch, capsys)
    assert code == 1
    assert re.search(r"PROBLEM +data +1 files are not images: IM-9999-0001\.jpeg", out), out
