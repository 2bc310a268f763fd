"""`pneumonia data pull`: download a container, or a prefix of one."""

from pathlib import Path

import click

from pneumonia.cli.data import azure_options
from pneumonia.cli.parsing import FOLDER, Verb


@click.command(cls=Verb, examples=["pneumonia data pull train mirror/train"])
@click.argument("place", metavar="CONTAINER[/PREFIX]")
@click.argument("folder", metavar="FOLDER", type=FOLDER)
@azure_options
def command(place: str, folder: Path, account_url: str | None, workers: int) -> None:
    """Mirror a container of Azure Blob Storage in FOLDER.

    Only what is new is downloaded, and verified by MD5. What is gone from the container is removed from FOLDER, your own files
    never. Safe to interrupt: rerun the command to resume.

    Credentials are read from the environment: AZURE_STORAGE_CONNECTION_STRING; or AZURE_STORAGE_ACCOUNT with
    AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN; or those that DefaultAzureCredential finds.
    """
    from rich.markup import escape

    from pneumonia.storage.client import Place, connect
    from pneumonia.storage.pull import pull, warn_of_foreign_files
    from pneumonia.system.console import say

    source = Place.parse(place)
    transfer = pull(connect(account_url, workers), source, folder, workers)
    say(f"Pulled {escape(str(source))}: {transfer}")
    warn_of_foreign_files(folder)
