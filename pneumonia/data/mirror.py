"""The containers of a study as a local folder that every release reader takes."""

from pathlib import Path

from pneumonia.config import AzureConfig
from pneumonia.console import say
from pneumonia.errors import ConfigError
from pneumonia.storage.azure import Place, connect
from pneumonia.storage.local import digest
from pneumonia.storage.pull import pull, warn_of_strangers


def load_mirror(azure: AzureConfig, cache_dir: Path) -> Path:
    """Pulls the places of train, validation and test, and returns the folder that holds ``train``, ``val`` and ``test``.

    Args:
        azure: Account and places; a place that is ``None`` is left out.
        cache_dir: The mirror lies in it, in a folder of its own for each account and set of places.

    Raises:
        ConfigError: No place, or no account.
        AccessError, BlobError, TransferError, StorageError: See :func:`pneumonia.storage.pull.pull`.
    """
    named = {"train": azure.train, "val": azure.validation, "test": azure.test}
    places = {part: Place.parse(text) for part, text in named.items() if text is not None}
    if not places:
        raise ConfigError(
            "data.azure names no container: train, validation and test are all null. Name at least train."
        )
    service = connect(azure.account_url, azure.workers)
    key = digest([service.primary_hostname, {part: str(place) for part, place in places.items()}])[:16]
    root = cache_dir / "azure" / key
    for part, place in places.items():
        done = pull(service, place, root / part, azure.workers)
        say(f"{place}: {done}" if done.moved or done.deleted else f"{place}: {done.listed} files, all unchanged")
        warn_of_strangers(root / part)
    return root
