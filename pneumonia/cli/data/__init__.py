"""`pneumonia data VERB`: work on data without training; one module per verb."""

from typing import Final

import click

from pneumonia.cli.parsing import VerbGroup, options

VERBS: Final = {
    "import": "Recognise a release and write its manifest: SOURCE [--out FILE], or --from HOST",
    "audit": "Find leakage, duplicates and shortcuts; exit code 1 on leakage: SOURCE [--out DIR]",
    "split": "Divide images into subsets and folds, as a file: SOURCE [--method kfold --k 5]",
    "show": "Draw contact sheets by class, subset and augmentation: SOURCE [--out DIR]",
    "push": "Upload a folder to Azure Blob Storage: FOLDER CONTAINER[/PREFIX]",
    "pull": "Download what is new, verified: CONTAINER[/PREFIX] FOLDER",
}
HELP: Final = """Import, audit, split, show, push or pull data.

SOURCE is a folder of X-rays, a MedMNIST .npz, a .zip or .tar.gz of either, or a manifest.parquet."""
command: Final = VerbGroup("data", __name__, VERBS, HELP)
azure_options: Final = options(
    click.option(
        "--account-url",
        metavar="URL",
        help="https://ACCOUNT.blob.core.windows.net; default: AZURE_STORAGE_ACCOUNT_URL or AZURE_STORAGE_ACCOUNT.",
    ),
    click.option("--workers", type=click.IntRange(1, 256), default=16, help="Simultaneous transfers."),
)
