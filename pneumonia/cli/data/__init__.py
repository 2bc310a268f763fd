"""`pneumonia data VERB`: everything about data that needs no training; one thin file a verb."""

import argparse
import importlib
import os
import re
from pathlib import Path
from typing import Final, NoReturn

from pneumonia.errors import ConfigError, nearest

VERBS: Final = {
    "import": "recognises a release and writes its manifest: SOURCE [--out FILE] [--from kaggle|huggingface|medmnist]",
    "audit": "finds leaks, copies and shortcuts; writes audit.json and a page: SOURCE [--out DIR]; exit code 1 on a leak",
    "split": "divides a manifest into subsets and folds, and keeps the split: SOURCE [split=METHOD] [--out DIR]",
    "push": "uploads a folder to Azure Blob Storage: FOLDER CONTAINER[/PREFIX]",
    "pull": "downloads blobs, only what is new, verified: CONTAINER[/PREFIX] FOLDER",
    "show": "draws contact sheets by class and subset, and of augmented images: SOURCE [--out DIR]",
}
USAGE: Final = """usage: pneumonia data VERB ...

{verbs}

SOURCE is a folder of X-rays, a MedMNIST .npz, a .zip or .tar.gz of either, or a manifest.parquet.
`pneumonia data VERB --help` says more.
"""


AZURE_CREDENTIALS: Final = (
    "Credentials come from the environment: AZURE_STORAGE_CONNECTION_STRING; or AZURE_STORAGE_ACCOUNT (or "
    "AZURE_STORAGE_ACCOUNT_URL) with AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN; or what DefaultAzureCredential finds."
)


class Words(argparse.ArgumentParser):
    """The words of a verb; what is wrong with them is a named error like any other."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"(?i)((?:sig|AccountKey)=)[^&;\s]+", r"\1***", message)  # a token in the wrong place
        raise ConfigError(f"{self.prog}: {message}. `{self.prog} --help` says what there is.")

    def add_image_options(self) -> None:
        """What to do with images that can't be read, and where decoded ones are kept."""
        self.add_argument(
            "--on-bad-image",
            choices=("error", "skip"),
            default="error",
            help="list images that can't be read and stop, or leave them out and say so (error)",
        )
        self.add_argument(
            "--cache-dir",
            metavar="DIR",
            type=Path,
            default=Path(os.environ.get("PNEUMONIA_CACHE") or "cache"),
            help="where decoded images are kept (cache, or the environment variable PNEUMONIA_CACHE)",
        )

    def add_azure_options(self) -> None:
        """Which account, and how many transfers at once."""
        self.epilog = AZURE_CREDENTIALS
        self.add_argument("--account-url", metavar="URL", help="https://ACCOUNT.blob.core.windows.net")
        self.add_argument("--workers", type=int, default=16, metavar="N", help="transfers at once (16)")

    def check(self, good: bool, message: str) -> None:
        """Refuses a value that argparse takes."""
        if not good:
            self.error(message)


def run(arguments: list[str]) -> int:
    """Hands the words on to the file of the verb.

    Raises:
        ConfigError: There is no such verb.
    """
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(USAGE.format(verbs="\n".join(f"  {verb:<8}{text}" for verb, text in VERBS.items())))
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        raise ConfigError(
            f"pneumonia data: there is no verb '{verb}'; choose one of {', '.join(VERBS)}.{nearest(verb, VERBS)}"
        )
    name = "import_" if verb == "import" else verb  # a word of Python's own
    code: int = importlib.import_module(f"pneumonia.cli.data.{name}").run(arguments[1:])
    return code
