"""Compare the jobs of a sweep with what Hydra composes, and refuse bad ones before any runs."""

import functools
import itertools
import re

import pytest
from hydra import compose as hydra_compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from pneumonia.config.compose import hydra_session
from pneumonia.config.convert import from_plain, to_plain
from pneumonia.config.keys import conf_dir
from pneumonia.errors import ConfigError, LayoutError
from pneumonia.models.config_checks import check_family
from pneumonia.sweep.plan import make_plan, make_search
from pneumonia.sweep.sweep_files import find_sweep, question, sweep_names

GRIDS = [name for name in sweep_names() if name != "search"]
plan_of = functools.cache(lambda name: make_plan(name, []))  # a second each
OWN = """# Mine?   a sweep of mine
defaults: [train, _self_]
name: mine
hydra:
  sweeper:
    params: {seed: "0,1"}
"""


@pytest.mark.parametrize("name", GRIDS)
def test_jobs_equal_what_hydra_composes(name):
    plan = plan_of(name)
    assert len(plan.jobs) > 1
    assert len({job.key for job in plan.jobs}) == len(plan.jobs)
    assert question(find_sweep(name)).endswith("?")
    assert plan.folder.name == name
    one_of_each = {tuple(job.differs.items())[:1]: job for job in plan.jobs}  # of each value of the first key
    for job in one_of_each.values():
        differs = [f"{key}={value}" for key, value in job.differs.items()]
        overrides = [f"hydra.searchpath=[file://{conf_dir()}]", *differs]
        with hydra_session(conf_dir("sweeps")):
            composed = OmegaConf.to_container(hydra_compose(name, overrides), resolve=True)
        assert to_plain(from_plain(composed)) == to_plain(job.config)
    for job in plan.jobs:
        check_family(job.config)


@pytest.mark.parametrize("name", GRIDS)
def test_hydras_own_sweeper_lists_the_same_jobs(name):
    with hydra_session(conf_dir("sweeps")):
        sweep = hydra_compose(name, [f"hydra.searchpath=[file://{conf_dir()}]"], return_hydra_config=True).hydra
    swept = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in sweep.sweeper.params.items()])
    (jobs,) = BasicSweeper.split_arguments(swept, max_batch_size=None)
    assert [" ".join(job) for job in jobs] == [job.label for job in plan_of(name).jobs]
    assert sweep.mode == RunMode.MULTIRUN


@pytest.mark.parametrize("name", sweep_names())
def test_header_has_both_commands(name):
    first, second = find_sweep(name).read_text().splitlines()[:2]
    assert first.endswith(f"   pneumonia sweep {name}")
    assert f"pneumonia train --config-dir sweeps --config-name {name} -m" in second


def test_study_sweeps_have_the_values_of_its_tables():
    values = {name: next(iter(plan_of(name).axes.values())) for name in GRIDS}
    assert values["batch_size"] == ["400", "200", "100", "50", "25", "10"]
    assert values["image_size"] == ["100", "75", "50", "25"]
    assert [float(v) for v in values["learning_rate"]] == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    assert values["learning_rate"] == values["learning_rate_one_cycle"]
    assert values["optimizer"] == ["sgd", "adam", "rmsprop", "adagrad"]
    assert values["activation"] == ["sigmoid", "relu", "tanh", "softmax"]
    folds = [job.config for job in plan_of("cross_validation").jobs]
    values = [(config.split.k, config.split.every, config.max_epochs) for config in folds[:-1]]
    assert values == [(10, 2, 20), (7, 3, 21), (5, 5, 25), (3, 7, 21)]
    assert folds[-1].split.method == "random"


def test_readme_lists_each_sweep_and_its_jobs():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (\d+) \|", (conf_dir("sweeps") / "README.md").read_text(), re.MULTILINE)
    assert {name: (asks, int(jobs)) for name, asks, jobs in rows} == {
        name: (question(find_sweep(name)), len(plan_of(name).jobs)) for name in GRIDS
    }


def test_override_with_values_replaces_swept_values():
    plan = make_plan("optimizer", ["seed=5,6", "optimizer=sgd,adam", "max_epochs=2", "batch_size=8"])
    assert [tuple(job.differs.values()) for job in plan.jobs] == list(itertools.product(["sgd", "adam"], ["5", "6"]))
    assert list(plan.axes) == ["optimizer", "seed"], "in the order of the file"
    assert {(job.config.max_epochs, job.config.batch_size) for job in plan.jobs} == {(2, 8)}


def test_sweep_composes_with_an_experiment():
    jobs = make_plan("learning_rate", ["experiment=article/simple_cnn"]).jobs
    assert {job.config.model._target_.rpartition(".")[2] for job in jobs} == {"SimpleCNN"}
    assert {job.config.name for job in jobs} == {"learning_rate"}
    assert [job.config.optimizer.lr for job in jobs] == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("optimiser", [], "There is no sweep 'optimiser'.*Did you mean 'optimizer'"),
        ("none.yaml", [], "There is no sweep file none.yaml"),
        ("optimizer", ["batch_size=0"], "batch_size=0 is out of range"),
        ("optimizer", ["batch_size=8,0"], "batch_size=0 is out of range"),
        ("optimizer", ["seed=1,1"], "are the same run"),
        ("optimizer", ["hydra.sweep.dir=x"], "a sweep has no keys of Hydra"),
        ("optimizer", ["launcher.kind=8"], "launcher.kind=8 is not known"),
        ("seeds", ["seed=range(0,20000)"], "20000 jobs, and at most 10000"),
        ("kfold", ["split.k=3"], "split.fold=3 does not exist"),
        ("optimizer", ["+sead=3"], "sead is not a config key.*Did you mean 'seed'"),
        ("optimizer", ["optimizer=glob(x*)"], r"optimizer=glob\(x\*\) has no value: there are adagrad, adam"),
        ("optimizer", ["seed=range(0,0)"], r"seed=range\(0,0\) has no value"),
        ("optimizer", ["~batch_size"], "batch_size is missing from the config"),
        ("optimizer", ["~model"], "model has no value, and a run needs one"),
        ("optimizer", ["name=a,b"], "name=a,b: all jobs of a sweep share name"),
        ("optimizer", ["launcher.n_jobs=1,2"], "share launcher, so it takes one value"),
    ],
)
def test_invalid_overrides_are_refused(name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(name, overrides)


def test_glob_and_deletion_change_swept_values():
    assert make_plan("optimizer", ["optimizer=glob(ad*,exclude=adamw)", "seed=0"]).axes["optimizer"] == [
        "adagrad",
        "adam",
    ]
    plan = make_plan("optimizer", ["~seed"])
    assert list(plan.axes) == ["optimizer"]
    assert {job.config.seed for job in plan.jobs} == {0}


@pytest.mark.parametrize("beside", ["seed/a.yaml", "max_epochs/1.yaml", "data/folder.yaml", "train.yaml", "model/mlp.yaml"])
def test_files_beside_a_sweep_file_are_ignored(beside, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(OWN)
    overrides = ["max_epochs=1", "model=mlp", "data=folder", f"data.root={tmp_path}"]
    before = make_plan(str(tmp_path / "mine.yaml"), overrides).jobs
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    (tmp_path / beside).write_text("batch_size: 3\n")
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", str(tmp_path / "mine.yaml")):
        assert make_plan(name, overrides).jobs == before


def test_sweep_file_may_be_named_train_and_extend_others(tmp_path):
    (tmp_path / "train.yaml").write_text(OWN.replace("[train, _self_]", "[train, short, _self_]"))
    (tmp_path / "short.yaml").write_text("max_epochs: 1\n")
    jobs = make_plan(str(tmp_path / "train.yaml"), []).jobs
    assert [(job.config.seed, job.config.max_epochs) for job in jobs] == [(0, 1), (1, 1)]


def test_single_value_of_a_swept_key_stays_in_labels():
    plan = make_plan("optimizer", ["seed=7"])
    assert [job.label for job in plan.jobs] == [f"optimizer={name} seed=7" for name in ("sgd", "adam", "rmsprop", "adagrad")]
    assert {job.config.seed for job in plan.jobs} == {7}
    found = make_search("search", ["batch_size=50"])
    assert found.common.batch_size == 50
    assert "batch_size" not in {override.get_key_element() for override in found.swept}


def test_folder_without_data_is_refused(tmp_path):
    with pytest.raises(LayoutError, match="is an empty folder"):
        make_plan("optimizer", ["data=folder", f"data.root={tmp_path}"])
    with pytest.raises(LayoutError, match="does not exist"):
        make_plan("optimizer", ["data=folder", f"data.root={tmp_path / 'none'}"])


def test_sweep_file_is_named_by_its_path(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN)
    plan = make_plan(str(tmp_path / "mine.yaml"), ["max_epochs=1"])
    assert [job.label for job in plan.jobs] == ["seed=0", "seed=1"]
    assert plan.question == "Mine?"
    (tmp_path / "other.yaml").write_text(OWN.replace("name: mine\n", ""))
    assert make_plan(str(tmp_path / "other.yaml"), []).folder.name == "other"
    with pytest.raises(ConfigError, match=r"with its extension: .*other\.yaml"):
        make_plan(str(tmp_path / "other"), [])


@pytest.fixture
def own_folder(tmp_path):
    """A folder of groups and a sweep, with a space and a comma in its name."""
    folder = tmp_path / "my own, conf"
    for name, text in {
        "model/mine.yaml": "_target_: my_package.Net\nwidth: 4\n",
        "experiment/x.yaml": "# @package _global_\ndefaults: [override /model: mine]\nmax_epochs: 3\n",
        "hparams/small.yaml": "# @package _global_\nbatch_size: 8\n",
        "hparams/large.yaml": "# @package _global_\nbatch_size: 16\n",
        "mine.yaml": OWN,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_config_dir_adds_groups_to_a_packaged_sweep(own_folder):
    jobs = make_plan("seeds", ["experiment=x", "model.width=2,4", "seed=7"], own_folder).jobs
    assert [(job.config.model.width, job.config.seed, job.config.max_epochs) for job in jobs] == [(2, 7, 3), (4, 7, 3)]
    assert {job.config.model._target_ for job in jobs} == {"my_package.Net"}
    assert make_plan("seeds", ["model=glob(min*)", "seed=7"], own_folder).common.model.width == 4
    with pytest.raises(ConfigError, match=r"model.wdith is not a config key"):
        make_plan("seeds", ["model=mine", "model.wdith=2"], own_folder)
    with pytest.raises(ConfigError, match="model=mine is not known"):
        make_plan("seeds", ["model=mine"])


def test_config_dir_adds_sweeps_and_new_groups(own_folder):
    plan = make_plan("mine", ["+hparams=small,large", "seed=0"], own_folder)
    assert [(job.label, job.config.batch_size) for job in plan.jobs] == [
        ("seed=0 hparams=small", 8),
        ("seed=0 hparams=large", 16),
    ]
    found = make_search("search", ["+hparams=small", "model=mine", "~model.dropout", "~batch_size"], own_folder)
    assert (found.common.batch_size, found.common.model.width) == (8, 4)


def test_config_dir_and_its_sweeps_are_checked(own_folder):
    with pytest.raises(ConfigError, match="none is not a folder"):
        make_plan("seeds", [], own_folder / "none")
    with pytest.raises(ConfigError, match=r"There is no sweep 'mien' in .*Did you mean 'mine'"):
        make_plan("mien", [], own_folder)
    (own_folder / "seeds.yaml").write_text(OWN)
    with pytest.raises(ConfigError, match=r"seeds is a packaged sweep and a file of .*Rename yours, or name it by its path"):
        make_plan("seeds", [], own_folder)
    assert make_plan("seeds", ["seed=0"], conf_dir("sweeps")).name == "seeds"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN.replace("train,", "train, optimizer,"), "a sweep over sweeps"),
        (OWN.replace("seed:", "hydra.sweeper.params.seed:"), "a sweep over sweeps"),
        (OWN.replace("seed:", "sweep:"), "a sweep over sweeps"),
        ("- 1\n- 2\n", "is not a sweep file"),
        ("", "is not a sweep file"),
        (OWN.replace("defaults: [train, _self_]\n", ""), r"has no `defaults: \[train, _self_\]`"),
        (OWN.replace("train,", "trian,"), "extends trian, and a sweep extends train.*Did you mean 'train'"),
        (OWN.replace('{seed: "0,1"}', "[seed]"), "params under hydra is not a mapping"),
        (OWN.replace('"0,1"', ""), "gives seed no values"),
        ("a: [1\n", "can't be read as YAML"),
    ],
)
def test_bad_sweep_files_are_refused(text, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        make_plan(str(tmp_path / "mine.yaml"), [])
