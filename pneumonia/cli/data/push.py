"""`pneumonia data push`: upload a folder to a container."""

from pathlib import Path

import click

from pneumonia.cli.data import azure_options
from pneumonia.cli.parsing import PATH, Verb


@click.command(cls=Verb, examples=["pneumonia data push chest_xray/train train"])
@click.argument("folder", metavar="FOLDER", type=PATH)
@click.argument("place", metavar="CONTAINER[/PREFIX]")
@azure_options
def command(folder: Path, place: str, account_url: str | None, workers: int) -> None:
    """Upload the files of FOLDER (X-rays, a run folder, a bundle) to a container of Azure Blob Storage.

    Only what is new or changed is uploaded, with its MD5. Changes of somebody else are never overwritten, and blobs without a
    file in FOLDER are left alone.

    Credentials are read from the environment: AZURE_STORAGE_CONNECTION_STRING; or AZURE_STORAGE_ACCOUNT with
    AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN; or those that DefaultAzureCredential finds.
    """
    from rich.markup import escape

    from pneumonia.storage.client import Place, connect
    from pneumonia.storage.push import push
    from pneumonia.system.console import say

    target = Place.parse(place)
    transfer = push(connect(account_url, workers), folder, target, workers)
    say(f"Pushed to {escape(str(target))}: {transfer}")
