"""The rooms stay in order: imports point upstream, the command line starts fast, configs and constructors agree."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import open_dict

from pneumonia.cli import VERBS
from pneumonia.config import conf_dir, resolved
from pneumonia.config_checks import WORDS, check, check_values
from pneumonia.models.build import check_family

ORDER = """
errors labels calibration scores config config_checks console parallel signals memory
statistics.resampling statistics.paired operating prediction_tables
storage.local storage.checksums storage.azure storage.blob_names storage.journal
storage.transfers storage.pull storage.push storage.lease
report.document report.html report.markdown report.typst report.figures report.words cases
data.readable data.tiff_tags data.jpeg2000 data.dicom_pixels data.dicom data.images
data.archives data.names data.phantom_folders data.folders data.label_table data.medmnist data.shards
data.release_notes data.releases data.web_file data.downloads data.duplicates data.cache data.manifest
data.phantom data.mirror data.leaks data.splits data.split_files data.scaling data.transforms
data.batch_transforms data.augmenter data.baselines
data.audit data.audit_words data.sheets data.audit_page data.dataset data.datamodule data.shelf
model_warnings targets metrics optim
models.activations models.mixup models.averaging models.batch_norm models.views models.kinds models.base models.build
models.proximal models.FAMILY accelerator grad_cam explain case_pictures
runs snapshot blob_backup backup charts wandb_account tracking push_runs callbacks predictions assess announce prepare train
sweep.files sweep.plan sweep.checks sweep.ledger sweep.board sweep.worker sweep.remote sweep.slurm sweep.ray sweep.engines
sweep.space sweep.search sweep.conduct
dashboards ensembles evaluation_words evaluate
bundle.exact_files bundle.onnx_header bundle.contract_fields bundle.contract bundle.gate bundle.answers bundle.occlusion
bundle.promises bundle.parity bundle.graph bundle.export predict
report.entries report.collect report.naming report.compare report.study report.factors report.ranking report.quality
report.card report.recipe report.again report.content report.write
serve.limits serve.refusal serve.intake serve.telemetry serve.protocol serve.guard serve.explanation serve.desk
serve.answer_form serve.page serve.app serve.run
reproduce cli
""".split()
PACKAGE = conf_dir().parent / "pneumonia"
FAMILIES = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
EXPERIMENTS = sorted(
    str(p.relative_to(conf_dir() / "experiment").with_suffix("")) for p in conf_dir().glob("experiment/**/*.yaml")
)


def _rank(module: str) -> int:
    name = {"statistics": "statistics.paired"}.get(module.removeprefix("pneumonia."), module.removeprefix("pneumonia."))
    if name.startswith("models.") and name not in ORDER:
        name = "models.FAMILY"  # a new one needs no edit here
    return ORDER.index("cli" if name.startswith("cli") or name == "__main__" else name)


def _modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.read_text().strip() and path.name != "__init__.py"]


def test_a_file_imports_only_from_files_above_it():
    wrong = []
    for path in _modules():
        module = ".".join(("pneumonia", *path.relative_to(PACKAGE).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("pneumonia."):
                continue
            whole = node.module in {"pneumonia.report", "pneumonia.serve"}  # `from pneumonia.report import figures`
            for name in [f"{node.module}.{alias.name}" for alias in node.names] if whole else [node.module]:
                if _rank(name) > _rank(module) or name == module:
                    wrong.append(f"{module} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS)])
def test_help_answers_without_importing_anything_heavy(words):
    code = (
        f"import sys; sys.argv = ['pneumonia', *{words!r}]\n"
        "from pneumonia.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'lightning', 'hydra', 'pandas', 'numpy', 'albumentations'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: pneumonia" in done.stdout


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_file_lists_exactly_the_keywords_of_its_constructor(family):
    node = yaml.safe_load((conf_dir() / "model" / f"{family}.yaml").read_text())
    module, _, name = node.pop("_target_").rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), name).__init__).parameters.values()
    assert set(node) == {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_trainer_words_are_lightnings_own():
    words = yaml.safe_load((conf_dir() / "trainer" / "default.yaml").read_text())
    assert set(words) <= set(inspect.signature(lightning.Trainer.__init__).parameters)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_composes_and_passes_the_checks(experiment, compose):
    config = compose(f"experiment={experiment}", small=False)
    assert config["name"] != "train", "an experiment names its own folder"
    check_values(config)
    check_family(config)


@pytest.mark.parametrize("group", ["split", "augmentation", "optimizer", "scheduler", "data", "launcher"])
def test_every_choice_of_a_group_composes_and_passes_the_checks(group, compose, tmp_path):
    compose()  # registers the schema
    for path in (conf_dir() / group).glob("*.yaml"):
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            words = [f"{group}={path.stem}"] + ([f"data.root={tmp_path}"] if path.stem == "folder" else [])
            config = hydra_compose("train", words, return_hydra_config=True)
            choices = dict(config.hydra.runtime.choices)
        with open_dict(config):
            del config["hydra"]
        check(config, choices, [conf_dir()])
        assert group != "split" or resolved(config)["split"]["method"] in WORDS["split.method"]
