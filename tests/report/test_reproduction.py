"""The commands of a report make the same runs again: held against Hydra, which reads them."""

import itertools
import json
import shlex

import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pneumonia.config.convert import identity
from pneumonia.config.keys import conf_dir
from pneumonia.config.overrides import override_value, overrides_from_config
from pneumonia.report.collect import gather
from pneumonia.report.reproduction import evaluating, training
from pneumonia.report.train_commands import train_commands

EXPERIMENTS = sorted(
    str(p.relative_to(conf_dir() / "experiment").with_suffix("")) for p in conf_dir().glob("experiment/**/*.yaml")
)
OVERRIDES = (
    ["data=medmnist", "task=pneumonia", "model=backbone", "model.name=vit_tiny_patch16_224", "channels=3"],
    ["data=azure", "data.azure.validation=null", "split=given", "split.file=a/b.parquet", "early_stopping.patience=3"],
    [
        "data=folder",
        "data.root='my folder, \\'b\\''",
        "augmentation=high",
        "augmentation.flip=0.25",
        "optimizer=sgd_plain",
    ],
    ["optimizer=sgd", "+optimizer.maximize=true", "optimizer.momentum=0.5"],
    ["+optimizer.amsgrad=true", "++optimizer.betas=[0.8,0.9]"],
    ["model=mlp", "model.hidden=[16,8]", "scheduler=plateau", "swa=0.75", "name='12e3'", "optimizer.lr=1e-5"],
)


def _overrides_of(line: str) -> list[list[str]]:
    """The overrides of each run that a line of shell trains, taken apart by the shell's rules and by Hydra."""
    command, verb, *overrides = shlex.split(line)
    assert (command, verb) == ("pneumonia", "train")
    if overrides[0] != "-m":
        return [overrides]
    each = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [one.input_line]
        for one in OverridesParser.create().parse_overrides(overrides[1:])
    ]
    return [list(choice) for choice in itertools.product(*each)]


def _matters(config):
    return identity(config), config.data, config.split.file, config.name, config.usd_per_hour


@pytest.mark.parametrize("overrides", [*([f"experiment={name}"] for name in EXPERIMENTS), *OVERRIDES], ids=lambda one: one[0])
def test_config_is_recomposed_from_its_overrides(overrides, compose):
    config = compose(*overrides, small=False)
    (again,) = _overrides_of(train_commands([config])[0])
    assert _matters(compose(*again, small=False)) == _matters(config)


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            True,
            False,
            3,
            -0.5,
            1e-05,
            [4],
            [],
            ["a b", None, 1.5],
            "null",
            "True",
            "nan",
            "1e-3",
            "12",
            "",
            "a b",
        ),
        *(
            "a,b",
            "it's",
            "back\\slash",
            "ends\\",
            "\\'",
            "a=b",
            "[x]",
            "{x: 1}",
            "-x",
            "~/x",
            "ü",
            '"q"',
            "a:b",
            "x#y",
            "(1)",
        ),
    ],
    ids=repr,
)
def test_value_is_written_as_hydra_reads_it(value):
    (override,) = OverridesParser.create().parse_overrides([f"key={override_value(value)}"])
    assert not override.is_sweep_override()
    got = override.value()
    assert got == value
    assert type(got) is type(value)


def test_grid_is_one_command(compose):
    grid = [
        compose(f"optimizer={name}", f"seed={seed}", f"data.root='{'a,b'}'", "data=folder")
        for name in ("adam", "sgd")
        for seed in (1, 0)
    ]
    odd = [*grid, compose("optimizer.lr=0.5", "data=folder", "data.root=c")]
    for configs, lines in ((grid, 1), (odd, 3), (grid[:3], 2)):
        found = train_commands(configs)
        assert len(found) == lines
        made = [_matters(compose(*overrides, small=False)) for line in found for overrides in _overrides_of(line)]
        assert sorted(map(repr, made)) == sorted(repr(_matters(config)) for config in configs)


def test_custom_model_file_has_no_overrides(make_run, tmp_path):
    run = make_run(tmp_path, "own")
    result = json.loads(run.result.read_text())
    result["config"]["model"]["_target_"] = "mine.Net"
    run.result.write_text(json.dumps(result))
    entries = gather([tmp_path]).entries
    assert overrides_from_config(entries[0].config) is None
    assert training(entries) == [f"# {run.path}: composed from config files of your own; its config.yaml has every setting"]


def test_evaluation_commands_repeat_the_evaluations(make_run, make_ensemble, evaluate_again, tmp_path):
    runs = [make_run(tmp_path / "my runs", "one", seed=seed) for seed in (0, 1)]
    table = pd.read_parquet(runs[0].evaluation("test", "parquet"))
    evaluate_again(runs[0], table, tta="flip")
    evaluate_again(runs[0], table.iloc[::2], other="x")
    make_ensemble(runs)
    places = sorted(str(run.path) for run in runs)
    *alone, together = [shlex.split(line) for line in evaluating(gather([tmp_path]).entries)]
    first = ["pneumonia", "evaluate", str(runs[0].path), "--split", "test"]
    assert sorted(alone) == sorted(
        [
            ["pneumonia", "evaluate", *places, "--split", "test"],
            [*first, "--tta", "flip"],
            [*first, "--data", "/data/x"],
        ]
    )
    ensemble = together.index("--ensemble")
    assert sorted(together[2:ensemble]) == places
    assert together[ensemble:] == ["--ensemble", "--split", "test"]
