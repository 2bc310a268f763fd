"""`pneumonia evaluate`: scores a finished run on one part."""

import os
from pathlib import Path

from pneumonia.cli import key_values, wants_help
from pneumonia.console import announce_loading
from pneumonia.errors import ConfigError

HELP = """
usage: pneumonia evaluate run=DIR [split=test] [data=folder data.root=DIR] [data.on_bad_image=skip]

Metrics with 95% intervals by patient, confusion and calibration, into DIR/evaluation. Without data= the run's own data
are used, divided as they were in training. Other data are divided by their folders: split=test takes the folder `test`,
or everything where there are no such folders; the folder names NORMAL and PNEUMONIA and the file names are the labels.

  run=DIR                        a run folder, as `pneumonia train` names it at its end
  split=train|val|test
  data=folder data.root=DIR      other X-rays
  data.on_bad_image=error|skip
  cache_dir=cache
"""
KEYS = ("run", "split", "data", "data.root", "data.on_bad_image", "cache_dir")


def run(arguments: list[str]) -> int:
    """Reads the words and evaluates.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    if wants_help(arguments, HELP):
        return 0
    words = key_values(arguments, KEYS)
    part = words.get("split", "test")
    if part not in {"train", "val", "test"}:
        raise ConfigError(f"split={part} is not a part; choose train, val or test.")
    if not words.get("run"):
        raise ConfigError("run has no value. Say run=DIR, the folder that `pneumonia train` named at its end.")
    source = words.get("data", "folder" if "data.root" in words else "")
    if source not in {"", "folder"}:
        raise ConfigError(f"data={source} can't be evaluated; leave it out for the run's own data, or say data=folder.")
    if source and not words.get("data.root"):
        raise ConfigError("data.root has no value, and data=folder needs one. Say data.root=DIR.")
    skip = words.get("data.on_bad_image", "error")
    if skip not in {"error", "skip"}:
        raise ConfigError(f"data.on_bad_image={skip} is not known; choose error or skip.")
    cache_dir = Path(words.get("cache_dir") or os.environ.get("PNEUMONIA_CACHE") or "cache")
    from pneumonia.config import DataConfig, check_root
    from pneumonia.runs import open_run

    open_run(Path(words["run"]))  # a wrong folder is found before torch is imported
    if source:
        check_root(Path(words["data.root"]).expanduser())
    announce_loading()
    from pneumonia.evaluate import Request, evaluate
    from pneumonia.train import quiet

    quiet()
    data = DataConfig("folder", words["data.root"], on_bad_image=skip) if source else None
    evaluate(Request(Path(words["run"]), part, data, cache_dir))
    return 0
