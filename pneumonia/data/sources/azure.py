"""Mirror the containers of a study into a local folder that every release reader accepts."""

from pathlib import Path

from rich.markup import escape

from pneumonia.config.schema import AzureConfig
from pneumonia.errors import ConfigError
from pneumonia.storage.client import Place, connect
from pneumonia.storage.pull import pull, warn_of_foreign_files
from pneumonia.system.console import say
from pneumonia.system.files import digest


def load_mirror(azure: AzureConfig, cache_dir: Path) -> Path:
    """Pull the places of train, validation and test; return the folder that holds ``train``, ``val`` and ``test``.

    Args:
        azure: Account and places; a place that is ``None`` is left out.
        cache_dir: Holds a mirror for each account and set of places.

    Raises:
        ConfigError: No place, no account, or one place inside another, so that subsets would share images.
        AccessError, BlobError, TransferError, StorageError: See :func:`pneumonia.storage.pull.pull`.
    """
    named = {"train": azure.train, "val": azure.validation, "test": azure.test}
    places = {subset: Place.parse(text) for subset, text in named.items() if text is not None}
    if not places:
        raise ConfigError("data.azure names no container: train, validation and test are all null. Name at least train.")
    for subset, place in places.items():
        for other, wider in places.items():
            if subset != other and place.container == wider.container and place.prefix.startswith(wider.prefix):
                raise ConfigError(
                    f"data.azure: the blobs of {subset} ({place}) lie inside those of {other} ({wider}), so images would be in "
                    "both subsets, and scores optimistic. Name places that do not overlap."
                )
    service = connect(azure.account_url, azure.workers)
    key = digest([service.primary_hostname, {subset: str(place) for subset, place in places.items()}])[:16]
    root = cache_dir / "azure" / key
    for subset, place in places.items():
        done = pull(service, place, root / subset, azure.workers)
        news = str(done) if done.moved or done.deleted else f"{done.listed} files, all unchanged"
        say(f"{escape(str(place))}: {news}")
        warn_of_foreign_files(root / subset)
    return root
