"""The examples run as notebooks, on phantoms."""

import os
import subprocess
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
FINDS = {  # in the last output of a cell
    "xor": "'MLP': 1.0",
    "own_dataset": "set())",  # no patient is in two subsets
    "sweep_as_dataframe": "pseudo_resnet",
    "predict_and_explain": "prob_VIRUS",
}


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_made_from_its_script(name):
    script, notebook = (jupytext.read(FOLDER / f"{name}.{ending}") for ending in ("py", "ipynb"))
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [(cell.cell_type, cell.source) for cell in script.cells]
    errors = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert not errors
    assert any(cell.get("outputs") for cell in notebook.cells)  # run: make examples
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delenv("PNEUMONIA_CACHE", raising=False)
    notebook = jupytext.read(FOLDER / f"{name}.py")
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert FINDS.get(name, "") in nbformat.writes(notebook)
    if made := [f"examples/{entry.name}/" for entry in tmp_path.iterdir() if (FOLDER.parent / ".git").exists()]:
        ignored = subprocess.run(["git", "check-ignore", *made], cwd=FOLDER.parent, capture_output=True, text=True, check=False)
        assert sorted(ignored.stdout.split()) == sorted(made)
