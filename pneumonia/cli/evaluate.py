"""`pneumonia evaluate`: evaluate finished runs on one split."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.parsing import PATH, Verb, cache_dir
from pneumonia.config.names import ON_BAD_IMAGE, TTA
from pneumonia.errors import ConfigError, PneumoniaError, RunError, some
from pneumonia.report.formatting import count
from pneumonia.system.console import announce_loading, say, warn
from pneumonia.tasks import SUBSETS

if TYPE_CHECKING:
    from pneumonia.runs.load import FinishedRun


@click.command(
    cls=Verb,
    examples=[
        "pneumonia evaluate runs/final/RUN_ID --split test",
        "pneumonia evaluate runs/final runs/optimizer --split test",
        "pneumonia evaluate runs/final --ensemble --split test",
    ],
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option("--split", type=click.Choice(SUBSETS), default="test", help="Split to evaluate on.")
@click.option("--ensemble", is_flag=True, help="Evaluate the mean probabilities of the runs, into runs/ensembles.")
@click.option("--tta", type=click.Choice(TTA), help="Test-time augmentation.  [default: that of the training]")
@click.option("--data", metavar="DIR", type=PATH, help="Other X-rays than the run's own.")
@click.option("--on-bad-image", type=click.Choice(ON_BAD_IMAGE), help="With --data: stop, or leave out.  [default: error]")
@click.option("--gallery/--no-gallery", default=None, help="Error gallery.  [default: for one run or ensemble]")
@click.option("--force", is_flag=True, help="Evaluate runs again that are evaluated.")
@cache_dir
def command(
    runs: tuple[Path, ...],
    split: str,
    ensemble: bool,
    tta: str | None,
    data: Path | None,
    on_bad_image: str | None,
    gallery: bool | None,
    force: bool,
    cache_dir: Path,
) -> int:
    """Evaluate finished runs: metrics with 95% intervals by patient, calibration, thresholds, baselines, an error gallery.

    RUN is a run folder, or a folder of runs such as runs/final. One run folder is evaluated at once; of several runs those that
    are not evaluated yet. Results are in RUN/evaluation/own-<split>.json; temperature and thresholds are fitted on the
    validation split.

    --data evaluates other X-rays, into RUN/evaluation/<folder>-<hash>-<split>.json. They are divided by their folders: --split
    test takes the folder `test`, or everything if there are no such folders. The folders NORMAL and PNEUMONIA and the names of
    the files are the labels.
    """
    if on_bad_image and data is None:
        raise ConfigError(
            "--on-bad-image goes with other data: no image of a run's own data can be left out now. Use --data DIR as well, or "
            "leave it out."
        )
    from pneumonia.config.schema import DataConfig
    from pneumonia.config.validation import check_root
    from pneumonia.runs.identity import is_evaluated
    from pneumonia.runs.load import load_finished_run

    if data is not None:
        check_root(data)
    single = len(runs) == 1 and not ensemble and (runs[0] / "config.yaml").is_file()
    failed = 0
    if single:  # a wrong folder is reported before torch is imported, here and below
        todo = [load_finished_run(runs[0])]
    elif ensemble:
        todo = _members(list(runs))
    else:
        todo, failed = _finished(list(runs))
        done = [one for one in todo if is_evaluated(one.folder, one.result, split, tta)]
        if done and not force and data is None:
            say(f"{len(done)} of {len(todo)} runs are evaluated on {split} already; --force evaluates them again.")
            todo = [one for one in todo if one not in done]
        if not todo:
            return _ended(failed)
    announce_loading()
    from pneumonia.evaluation.evaluate import evaluate, evaluate_ensemble
    from pneumonia.evaluation.run_predictions import EvaluateOptions, EvaluationCache
    from pneumonia.evaluation.tracking import send_evaluation
    from pneumonia.report.evaluation_page import write_evaluation_page
    from pneumonia.system.console import quiet

    quiet()
    other = None if data is None else DataConfig("folder", str(data), on_bad_image=on_bad_image or "error")
    paths = [one.folder.path for one in todo]
    if single or ensemble:
        options = EvaluateOptions(split, other, cache_dir, tta, gallery is not False)
        found = evaluate_ensemble(paths, options) if ensemble else evaluate(paths[0], options)
        page = write_evaluation_page(found.path) if options.error_gallery else None
        say(f"Written: [bold]{found.path}[/]" + (f"; error gallery: [bold]{page}[/]" if page else ""))
        send_evaluation(found.path)
        return 0
    cache = EvaluationCache()
    options = EvaluateOptions(split, other, cache_dir, tta, bool(gallery), brief=True)
    for number, path in enumerate(paths, 1):
        say(f"{number}/{len(paths)} {path}")
        try:
            found = evaluate(path, options, cache)
            if options.error_gallery:
                write_evaluation_page(found.path)
            send_evaluation(found.path)
        except PneumoniaError as error:
            failed += 1
            warn(f"{type(error).__name__}: {error}")
    return _ended(failed)


def _ended(failed: int) -> int:
    """Return the exit code."""
    if failed:
        say(f"{count(failed, 'run')} could not be evaluated; the lines above say why.")
    return 1 if failed else 0


def _finished(places: list[Path]) -> tuple[list["FinishedRun"], int]:
    """Return the finished runs and the number of damaged ones, which are left out."""
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
    _warn_of_unfinished(unfinished, "left out")
    if not finished:
        raise RunError(f"There is no finished run in {some(places)}. `pneumonia train` makes one.")
    return finished, damaged


def _members(places: list[Path]) -> list["FinishedRun"]:
    """Return the runs of an ensemble.

    Raises:
        RunError: A named run did not finish, any is damaged, or the runs do not fit together.
    """
    from pneumonia.runs.ensembles import check_members
    from pneumonia.runs.listing import find_runs
    from pneumonia.runs.load import FinishedRun, load_finished_run
    from pneumonia.runs.result import read_result

    for place in places:
        if (place / "config.yaml").is_file():
            load_finished_run(place)  # a named run must be finished; of a folder the finished runs are used
    opened = [(folder, read_result(folder)) for folder in find_runs(places)]
    members = [FinishedRun(folder, result) for folder, result in opened if result is not None and result.completed]
    _warn_of_unfinished([folder.path for folder, result in opened if result is None or not result.completed], "no member")
    check_members(members)
    return members


def _warn_of_unfinished(runs: list[Path], what: str) -> None:
    if runs:
        verb = "is" if len(runs) == 1 else "are"
        warn(f"{count(len(runs), 'run')} did not finish and {verb} {what}: {some(runs, 3)}")
