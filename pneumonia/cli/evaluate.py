"""`pneumonia evaluate`: scores finished runs on one subset."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia.cli import key_values, wants_help
from pneumonia.errors import ConfigError, PneumoniaError, RunError, nearest, some
from pneumonia.report.formatting import count
from pneumonia.system.console import announce_loading, say, warn

if TYPE_CHECKING:
    from pneumonia.runs.load import FinishedRun

HELP = """
usage: pneumonia evaluate run=DIR [split=test] [tta=flip] [data=folder data.root=DIR]
       pneumonia evaluate RUNS... [split=test]
       pneumonia evaluate ensemble=DIR,DIR,... [split=test]

Metrics with 95% intervals by patient, confusion, calibration before and after temperature scaling, thresholds for a sensitivity
of 0.95 (temperature and thresholds are chosen on the validation split), what abstaining gains, and what file metadata and
thumbnails alone would give; into DIR/evaluation/own-<split>.json. Without data= the run's own data are used, divided as they
were in training. Other data have files of their own, DIR/evaluation/<folder>-<hash>-<split>.json, and so have other views.
Other data are divided by their folders: split=test takes the folder `test`, or everything where there are no such folders; the
folder names NORMAL and PNEUMONIA and the file names are the labels.

  run=DIR                        a run folder, as `pneumonia train` names it at its end
  RUNS                           run folders, or folders of them such as runs/final: each run that is not evaluated yet
  ensemble=DIR,DIR,...           the mean of several runs' probabilities, into runs/ensembles; a folder stands for its runs
  split=train|val|test
  tta=none|flip|shift            averages over views of each image, whatever the run was trained with
  cases=true|false               the error gallery: most confident errors, least certain images and examples, with Grad-CAM or
                                 the model looked at (on for one run, off for several)
  data=folder data.root=DIR      other X-rays
  data.on_bad_image=error|skip
  cache_dir=cache
  force=true                     evaluates again what is evaluated
"""
KEYS = ("run", "ensemble", "split", "tta", "cases", "data", "data.root", "data.on_bad_image", "cache_dir", "force")
EXAMPLES = {"run": "run=DIR", "ensemble": "ensemble=DIR,DIR", "data.root": "data.root=DIR", "split": "split=test"}
VIEWS = ("none", "flip", "shift")  # those of pneumonia.models.components.test_time_augmentation, which imports torch


def run(arguments: list[str]) -> int:
    """Reads the words and evaluates.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    if wants_help(arguments, HELP):
        return 0
    places = [Path(word) for word in arguments if _is_place(word)]
    words = key_values([word for word in arguments if not _is_place(word)], KEYS)
    for key, value in words.items():
        if not value.strip(","):
            raise ConfigError(f"{key} has no value. Say {EXAMPLES.get(key, f'{key}=...')}, or leave it out.")
    subset = _word(words, "split", "test", ("train", "val", "test"))
    tta = _word(words, "tta", "", VIEWS)
    source = words.get("data", "folder" if "data.root" in words else "")
    if source not in {"", "folder"}:
        raise ConfigError(f"data={source} can't be evaluated; leave it out for the run's own data, or say data=folder.")
    if source and not words.get("data.root"):
        raise ConfigError("data.root has no value, and data=folder needs one. Say data.root=DIR.")
    skip = _word(words, "data.on_bad_image", "error", ("error", "skip"))
    if not source and "data.on_bad_image" in words:
        raise ConfigError(
            "data.on_bad_image goes with other data: of a run's own images nothing can be left out now. Say data.root=DIR as "
            "well, or leave it out."
        )
    force = _word(words, "force", "false", ("true", "false")) == "true"
    cases = _word(words, "cases", "", ("true", "false"))
    cache_dir = Path(words.get("cache_dir") or os.environ.get("PNEUMONIA_CACHE") or "cache")
    asked = ["run" in words, "ensemble" in words, bool(places)]
    if sum(asked) != 1:
        raise ConfigError(
            "Say what to evaluate: run=DIR, the folder that `pneumonia train` named at its end; or RUNS, folders of runs; or "
            "ensemble=DIR,DIR. One of the three."
        )
    from pneumonia.config.schema import DataConfig
    from pneumonia.config.validation import check_root
    from pneumonia.runs.identity import is_evaluated
    from pneumonia.runs.load import load_finished_run

    if source:
        check_root(Path(words["data.root"]).expanduser())
    failed = 0
    if "run" in words:  # a wrong folder is found before torch is imported, here and below
        todo = [load_finished_run(Path(words["run"]))]
    elif "ensemble" in words:
        todo = _members([Path(place) for place in words["ensemble"].split(",") if place])
    else:
        todo, failed = _finished(places)
    if places and not force and not source:
        done = [one for one in todo if is_evaluated(one.folder, one.result, subset, tta or None)]
        todo = [one for one in todo if one not in done]
        if done:
            say(
                f"{len(done)} of {len(done) + len(todo)} runs are evaluated on {subset} already; force=true does them again."
            )
        if not todo:
            return _ended(failed)
    announce_loading()
    from pneumonia.evaluation.evaluate import evaluate, evaluate_ensemble
    from pneumonia.evaluation.run_predictions import EvaluateOptions, EvaluationCache
    from pneumonia.report.evaluation_page import write_evaluation_page
    from pneumonia.system.console import quiet

    quiet()
    data = DataConfig("folder", words["data.root"], on_bad_image=skip) if source else None
    if not places:
        gallery = (cases or "true") == "true"
        options = EvaluateOptions(subset, data, cache_dir, tta or None, gallery)
        members = [one.folder.path for one in todo]
        found = evaluate_ensemble(members, options) if words.get("ensemble") else evaluate(members[0], options)
        page = write_evaluation_page(found.path) if gallery else None
        say(f"Written: [bold]{found.path}[/]" + (f"; error gallery: [bold]{page}[/]" if page else ""))
        return 0
    cache = EvaluationCache()
    options = EvaluateOptions(subset, data, cache_dir, tta or None, cases == "true", brief=True)
    for number, one in enumerate(todo, 1):
        say(f"{number}/{len(todo)} {one.folder.path}")
        try:
            found = evaluate(one.folder.path, options, cache)
            if options.error_gallery:
                write_evaluation_page(found.path)
        except PneumoniaError as error:
            failed += 1
            warn(f"{type(error).__name__}: {error}")
    return _ended(failed)


def _ended(failed: int) -> int:
    """The exit code."""
    if failed:
        say(f"{count(failed, 'run')} could not be evaluated; the lines above say why.")
    return 1 if failed else 0


def _is_place(word: str) -> bool:
    """Whether a word names runs: it is a folder, or can't be anything else."""
    return Path(word).is_dir() or ("=" not in word and not word.startswith("-"))


def _finished(places: list[Path]) -> tuple[list["FinishedRun"], int]:
    """The finished runs, and how many are damaged; what is wrong with one costs that one alone."""
    from pneumonia.runs.listing import find_runs
    from pneumonia.runs.load import FinishedRun
    from pneumonia.runs.result import read_result

    finished: list[FinishedRun] = []
    unfinished: list[Path] = []
    debug: list[Path] = []
    damaged = 0
    for folder in find_runs(places):
        try:
            result = read_result(folder)
        except RunError as error:
            damaged += 1
            warn(f"Left out: {error}")
            continue
        if result is not None and result.completed:
            finished.append(FinishedRun(folder, result))
        else:
            (unfinished if result is None else debug).append(folder.path)
    if debug:
        warn(f"Left out, since shortened for debugging: {some(debug, 3)}")
    if unfinished:
        verb = "is" if len(unfinished) == 1 else "are"
        warn(f"{count(len(unfinished), 'run')} did not finish and {verb} left out: {some(unfinished, 3)}")
    if not finished:
        raise RunError(f"There is no finished run in {some(places)}. `pneumonia train` makes one.")
    return finished, damaged


def _members(places: list[Path]) -> list["FinishedRun"]:
    """The runs of an ensemble: all of them are sound, or there is none.

    Raises:
        RunError: A run that is named did not finish, or any is damaged; or they have no common answer.
    """
    from pneumonia.runs.ensembles import check_members
    from pneumonia.runs.listing import find_runs
    from pneumonia.runs.load import FinishedRun, load_finished_run
    from pneumonia.runs.result import read_result

    for place in places:
        if (place / "config.yaml").is_file():
            load_finished_run(place)  # named by itself, so it must be whole; of a folder's runs only the finished count
    opened = [(folder, read_result(folder)) for folder in find_runs(places)]
    members = [FinishedRun(folder, result) for folder, result in opened if result is not None and result.completed]
    unfinished = [folder.path for folder, result in opened if result is None or not result.completed]
    if unfinished:
        verb = "is" if len(unfinished) == 1 else "are"
        warn(f"{count(len(unfinished), 'run')} did not finish and {verb} no member: {some(unfinished, 3)}")
    check_members(members)
    return members


def _word(words: dict[str, str], key: str, default: str, allowed: tuple[str, ...]) -> str:
    value = words.get(key, default)
    if key in words and value not in allowed:
        raise ConfigError(f"{key}={value} is not known; choose one of {', '.join(allowed)}.{nearest(value, allowed)}")
    return value
