"""`pneumonia track`: sends run folders to Weights & Biases, and makes the dashboard of a sweep."""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

DESCRIPTION = (
    "Sends finished or cut run folders to Weights & Biases, whatever logger they had; makes dashboards of sweeps."
)


def run(arguments: list[str]) -> int:
    """Pushes runs, or builds a dashboard.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    parser = argparse.ArgumentParser("pneumonia track", description=DESCRIPTION)
    verbs = parser.add_subparsers(dest="verb", metavar="push|dashboard", required=True)
    push = verbs.add_parser(
        "push", help="run folders, or folders of runs: what was not sent yet", description=DESCRIPTION
    )
    push.add_argument("runs", metavar="RUNS", nargs="+", type=Path, help="a run folder, or a folder with runs below it")
    push.add_argument("--offline", action="store_true", help="write W&B's files into the run folders, for `wandb sync`")
    board = verbs.add_parser(
        "dashboard", help="the workspace of a sweep", description="The workspace of a sweep, as code."
    )
    board.add_argument("sweep", metavar="SWEEP", help="a name in sweeps/, or the path of a file")
    board.add_argument("overrides", metavar="OVERRIDES", nargs="*", help="those of the sweep, such as name=...")
    board.add_argument("--json", metavar="FILE", type=Path, help="write it to a file, which needs no login")
    for one in (push, board):
        one.add_argument("--project", default="pneumonia")
        one.add_argument("--entity", default=None, help="a team or a user; your own where it is left out")
    options = parser.parse_args(arguments)
    return _push(options) if options.verb == "push" else _dashboard(options)


def _push(options: argparse.Namespace) -> int:
    from rich.markup import escape

    from pneumonia.errors import AccessError, RunError
    from pneumonia.runs.listing import find_runs
    from pneumonia.system.console import announce_loading, say
    from pneumonia.training.loggers.wandb_account import MODES, has_key

    folders = find_runs(options.runs)
    if not folders:
        raise RunError(f"There is no run in {', '.join(map(str, options.runs))}: a run folder holds a config.yaml.")
    said = os.environ.get("WANDB_MODE", "")
    if MODES.get(said, "online") == "disabled" or (not options.offline and MODES.get(said, "online") != "online"):
        raise AccessError(
            f"WANDB_MODE={said} in the environment, so nothing was sent. Unset it, or say --offline with offline."
        )
    if not options.offline and not has_key():
        raise AccessError(
            "No key of W&B is known, so nothing was sent. Set WANDB_API_KEY or call `wandb login`; --offline writes W&B's files "
            "only."
        )
    announce_loading()
    from pneumonia.training.loggers.wandb_push import push_run

    logger: dict[str, Any] = {
        "project": options.project,
        "entity": options.entity,
        "mode": "offline" if options.offline else "online",
    }
    made = [files for folder in folders if (files := push_run(folder, logger)) is not None]
    rest = f"{len(folders) - len(made)} had nothing new."
    if not options.offline:
        say(f"Sent {len(made)} of {len(folders)} runs; {rest}")
        return 0
    say(f"Written for {len(made)} of {len(folders)} runs, and nothing was sent; {rest}")
    for files in made:
        say(f"  {escape(str(files))}")
    if made:
        say(
            f"`wandb sync {escape(shlex.join(map(str, made)))}` sends them; so does `pneumonia track push` without --offline."
        )
    return 0


def _dashboard(options: argparse.Namespace) -> int:
    from pneumonia.config.error_translation import translated
    from pneumonia.errors import AccessError
    from pneumonia.sweep.plan import make_plan
    from pneumonia.sweep.wandb_dashboard import as_json, build, save
    from pneumonia.system.files import replacing

    with translated():
        plan = make_plan(options.sweep, options.overrides)
    workspace = build(plan, options.project, options.entity or "")
    if options.json is not None:
        with replacing(options.json) as part:
            part.write_text(as_json(workspace) + "\n", encoding="utf-8")
        print(options.json)
        return 0
    from pneumonia.training.loggers.wandb_account import has_key

    if not has_key() or options.entity is None:
        raise AccessError(
            "Saving a dashboard needs a key of W&B and --entity NAME. Set WANDB_API_KEY or call `wandb login`; --json FILE needs "
            "neither."
        )
    print(save(workspace))
    return 0
