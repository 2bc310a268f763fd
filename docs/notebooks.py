"""Run examples/*.py as notebooks and write examples/*.ipynb with tables and pictures: python docs/notebooks.py [NAME...]."""

import os
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("execute_result", "image/png")


def build(name: str) -> None:
    """Run one example in an empty folder, and keep results and pictures; not what libraries print."""
    notebook = jupytext.read(ROOT / "examples" / f"{name}.py")
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{name}-{number}".replace("_", "-")
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.output_type == SHOWN[0] or SHOWN[1] in one.get("data", {})]
    nbformat.write(notebook, ROOT / "examples" / f"{name}.ipynb")
    print(f"examples/{name}.ipynb")


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    os.environ.pop("PNEUMONIA_CACHE", None)
    for example in sys.argv[1:] or sorted(path.stem for path in (ROOT / "examples").glob("*.py")):
        build(example)
