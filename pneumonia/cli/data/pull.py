"""`pneumonia data pull`: a container, or a part of one, into a local folder."""

from pathlib import Path

from pneumonia.cli.data import Words


def run(arguments: list[str]) -> int:
    """Pulls, and says what was new.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    parser = Words(
        "pneumonia data pull",
        description="Makes FOLDER hold what a container of Azure Blob Storage holds: only what is new is fetched, verified by "
        "MD5; what is gone there goes here too, your own files never. Run it again after a break: it goes on.",
    )
    parser.add_argument("place", metavar="CONTAINER[/PREFIX]")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_azure_options()
    options = parser.parse_args(arguments)
    parser.check(1 <= options.workers <= 256, f"--workers {options.workers} is out of range: it must be from 1 to 256")
    from rich.markup import escape

    from pneumonia.storage.client import Place, connect
    from pneumonia.storage.pull import pull, warn_of_foreign_files
    from pneumonia.system.console import say

    place = Place.parse(options.place)
    done = pull(connect(options.account_url, options.workers), place, options.folder, options.workers)
    say(f"Pulled {escape(str(place))}: {done}")
    warn_of_foreign_files(options.folder)
    return 0
