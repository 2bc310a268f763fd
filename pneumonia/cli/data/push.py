"""`pneumonia data push`: a local folder into a container."""

from pathlib import Path

from pneumonia.cli.data import Words


def run(arguments: list[str]) -> int:
    """Pushes, and says what was new.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    parser = Words(
        "pneumonia data push",
        description="Uploads the files of FOLDER (X-rays, a run folder, a bundle) to a container of Azure Blob Storage: only "
        "what is new or changed, with MD5, and never over a change of someone else's. Blobs without a file here are left alone.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("place", metavar="CONTAINER[/PREFIX]")
    parser.add_azure_options()
    options = parser.parse_args(arguments)
    parser.check(1 <= options.workers <= 256, f"--workers {options.workers} is out of range: it must be from 1 to 256")
    from rich.markup import escape

    from pneumonia.storage.client import Place, connect
    from pneumonia.storage.push import push
    from pneumonia.system.console import say

    place = Place.parse(options.place)
    done = push(connect(options.account_url, options.workers), options.folder, place, options.workers)
    say(f"Pushed to {escape(str(place))}: {done}")
    return 0
