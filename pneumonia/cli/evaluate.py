"""`pneumonia evaluate`: scores finished runs on one part."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia.cli import key_values, wants_help
from pneumonia.console import announce_loading, say, warn
from pneumonia.errors import ConfigError, PneumoniaError, RunError, some

if TYPE_CHECKING:
    from pneumonia.runs import RunFolder

HELP = """
usage: pneumonia evaluate run=DIR [split=test] [tta=flip] [data=folder data.root=DIR]
       pneumonia evaluate RUNS... [split=test]
       pneumonia evaluate ensemble=DIR,DIR,... [split=test]

Metrics with 95% intervals by patient, confusion, calibration before and after temperature scaling, thresholds for a sensitivity
of 0.95 (temperature and thresholds are chosen on the validation part), what abstaining gains, and what file metadata and
thumbnails alone would give; into DIR/evaluation. Without data= the run's own data are used, divided as they were in training.
Other data are divided by their folders: split=test takes the folder `test`, or everything where there are no such folders; the
folder names NORMAL and PNEUMONIA and the file names are the labels.

  run=DIR                        a run folder, as `pneumonia train` names it at its end
  RUNS                           run folders, or folders of them such as runs/final: each run that is not evaluated yet
  ensemble=DIR,DIR,...           the mean of several runs' probabilities, into runs/ensembles; a folder stands for its runs
  split=train|val|test
  tta=none|flip|shift            averages over views of each image, whatever the run was trained with
  cases=true|false               a page of the surest mistakes, the least certain images and examples of each kind, with what
                                 the model looked at (on for one run, off for several)
  data=folder data.root=DIR      other X-rays
  data.on_bad_image=error|skip
  cache_dir=cache
  force=true                     evaluates again what is evaluated
"""
KEYS = ("run", "ensemble", "split", "tta", "cases", "data", "data.root", "data.on_bad_image", "cache_dir", "force")
VIEWS = ("none", "flip", "shift")  # those of pneumonia.models.views, which imports torch


def run(arguments: list[str]) -> int:
    """Reads the words and evaluates.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    if wants_help(arguments, HELP):
        return 0
    places = [Path(word) for word in arguments if "=" not in word or Path(word).is_dir()]
    words = key_values([word for word in arguments if Path(word) not in places], KEYS)
    part = _word(words, "split", "test", ("train", "val", "test"))
    tta = _word(words, "tta", "", VIEWS)
    source = words.get("data", "folder" if "data.root" in words else "")
    if source not in {"", "folder"}:
        raise ConfigError(f"data={source} can't be evaluated; leave it out for the run's own data, or say data=folder.")
    if source and not words.get("data.root"):
        raise ConfigError("data.root has no value, and data=folder needs one. Say data.root=DIR.")
    skip = _word(words, "data.on_bad_image", "error", ("error", "skip"))
    force = _word(words, "force", "false", ("true", "false")) == "true"
    cases = _word(words, "cases", "", ("true", "false"))
    cache_dir = Path(words.get("cache_dir") or os.environ.get("PNEUMONIA_CACHE") or "cache")
    asked = [bool(words.get("run")), bool(words.get("ensemble")), bool(places)]
    if sum(asked) != 1:
        raise ConfigError(
            "Say what to evaluate: run=DIR, the folder that `pneumonia train` named at its end; or RUNS, folders of runs; or "
            "ensemble=DIR,DIR. One of the three."
        )
    from pneumonia.config import DataConfig, check_root
    from pneumonia.runs import is_evaluated, open_run

    if source:
        check_root(Path(words["data.root"]).expanduser())
    if words.get("run"):
        todo = [open_run(Path(words["run"]))[0]]  # a wrong folder is found before torch is imported
    else:
        todo = _finished(places or [Path(place) for place in words["ensemble"].split(",") if place])
    if places and not force and not source:
        done = [one for one in todo if is_evaluated(one, one.finished() or {}, part, tta or None)]
        todo = [one for one in todo if one not in done]
        if done:
            say(
                f"{len(done)} of {len(done) + len(todo)} runs are evaluated on {part} already; force=true does them again."
            )
        if not todo:
            return 0
    announce_loading()
    from pneumonia.evaluate import Desk, Request, evaluate, evaluate_ensemble
    from pneumonia.train import quiet

    quiet()
    data = DataConfig("folder", words["data.root"], on_bad_image=skip) if source else None
    request = Request(todo[0].path, part, data, cache_dir, tta or None, cases=(cases or "true") == "true")
    if words.get("ensemble"):
        evaluate_ensemble([one.path for one in todo], request)
        return 0
    if words.get("run"):
        evaluate(request)
        return 0
    desk, failed = Desk(), 0
    for number, one in enumerate(todo, 1):
        wanted = Request(one.path, part, data, cache_dir, tta or None, cases=cases == "true", brief=True)
        say(f"{number}/{len(todo)} {one.path}")
        try:
            evaluate(wanted, desk)
        except PneumoniaError as error:
            failed += 1
            warn(f"{type(error).__name__}: {error}")
    if failed:
        say(f"{failed} of {len(todo)} runs could not be evaluated; the lines above say why.")
    return 1 if failed else 0


def _finished(places: list[Path]) -> list["RunFolder"]:
    from pneumonia.runs import find_runs

    found = find_runs(places)
    finished = [folder for folder in found if folder.finished() is not None]
    unfinished = [folder.path for folder in found if folder not in finished]
    if unfinished:
        warn(f"{len(unfinished)} runs did not finish and are left out: {some(unfinished, 3)}")
    if not finished:
        raise RunError(f"There is no finished run in {some(places)}. `pneumonia train` makes one.")
    return finished


def _word(words: dict[str, str], key: str, default: str, allowed: tuple[str, ...]) -> str:
    value = words.get(key, default)
    if key in words and value not in allowed:
        raise ConfigError(f"{key}={value} is not known; choose one of {', '.join(allowed)}.")
    return value
