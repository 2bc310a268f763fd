"""`pneumonia doctor`: check what a run needs, and say how to fix what is missing."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pneumonia.cli.parsing import PATH, Verb, cache_dir, task
from pneumonia.errors import PneumoniaError, printable, some
from pneumonia.system import nvidia

if TYPE_CHECKING:
    from pneumonia.tasks import Task

GIB: Final = 2**30
NEEDED_GIB: Final = 1.0
SKEW_S: Final = 86_400  # copying files to a machine in another time zone can date them in its future
SHORTEST_KEY: Final = 40
Finding = tuple[bool, str]


@click.command(
    cls=Verb,
    examples=[
        "pneumonia doctor --data chest_xray",
        "pneumonia doctor --azure --backup-place runs/mine",
    ],
)
@click.option("--data", metavar="DIR|FILE", type=PATH, help="Check X-rays: a folder, an archive or a manifest.")
@task
@click.option("--runs-dir", metavar="DIR", type=PATH, default=Path("runs"), help="Run folders.")
@cache_dir
@click.option("--azure", is_flag=True, help="Check that the containers of data=azure can be listed.")
@click.option("--azure-train", metavar="PLACE", default="train", help="CONTAINER[/PREFIX] or null.")
@click.option("--azure-validation", metavar="PLACE", default="validation")
@click.option("--azure-test", metavar="PLACE", default="test")
@click.option("--azure-account-url", metavar="URL", help="https://ACCOUNT.blob.core.windows.net")
@click.option("--backup-place", metavar="PLACE", help="Check that CONTAINER/PREFIX can be written.")
@click.option("--backup-account-url", metavar="URL", help="Account of the backup.  [default: --azure-account-url]")
def command(
    data: Path | None,
    task: "Task | None",
    runs_dir: Path,
    cache_dir: Path,
    azure: bool,
    azure_train: str,
    azure_validation: str,
    azure_test: str,
    azure_account_url: str | None,
    backup_place: str | None,
    backup_account_url: str | None,
) -> int:
    """Check Python, the NVIDIA driver, the device of torch, memory, disk, the clock, the key of W&B, and data.

    Prints one line per check; a line with PROBLEM says how to fix it. Exit code 1 on a problem.
    """
    checks: dict[str, Callable[[], Finding]] = {
        "python": _python,
        "driver": nvidia.driver,
        "device": nvidia.device,
        "memory": _memory,
        "runs_dir": lambda: _folder(runs_dir),
        "cache_dir": lambda: _folder(cache_dir),
        "clock": _clock,
        "wandb": _wandb,
    }
    if data is not None:
        checks["data"] = lambda: _data(data, cache_dir, task)
    if azure:
        places = {"train": azure_train, "validation": azure_validation, "test": azure_test}
        checks["azure"] = lambda: _azure(azure_account_url, places)
    if backup_place:
        checks["backup"] = lambda: _backup(backup_account_url or azure_account_url, backup_place)
    healthy = True
    for name, check in checks.items():
        good, text = check()
        healthy = healthy and good
        print(f"{'ok     ' if good else 'PROBLEM'}  {name:<10} {printable(text, lines=True)}", flush=True)
    if not {"data", "azure"} & set(checks):
        print("-        data       not checked; use --data DIR|FILE to check X-rays, or --azure to check the containers")
    return 0 if healthy else 1


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return False, f"{found}: Hydra 1.3 runs on 3.11 to 3.13. Create the environment with one of these."
    return True, found


def _memory() -> Finding:
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return True, "the free memory of this system is unknown"
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    if free < NEEDED_GIB:
        return (
            False,
            f"{free:.1f} GiB free; training needs about {NEEDED_GIB:.0f}. Close something, or lower batch_size.",
        )
    return True, f"{free:.1f} GiB free"


def _folder(path: Path) -> Finding:
    existing = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            pass
    except OSError as error:
        return False, f"{path} can't be written ({error.strerror}). Choose another folder with runs_dir or cache_dir."
    free = shutil.disk_usage(existing).free / GIB
    if free < NEEDED_GIB:
        return False, f"{path}: {free:.1f} GiB free. Free some space, or choose another disk."
    return True, f"{path} can be written, {free:.1f} GiB free"


def _clock() -> Finding:
    """Compare the clock with the newest file of this program, which can't be from the future."""
    now = time.time()
    newest = max(path.stat().st_mtime for path in Path(__file__).parent.rglob("*.py"))
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < newest - SKEW_S:
        return False, (
            f"{shown}, which is before this program was installed. Azure and W&B refuse requests from a wrong clock. Set it: "
            "`sudo timedatectl set-ntp true`."
        )
    return True, shown


def _wandb() -> Finding:
    """Check the shape of the key of W&B, which is neither shown nor sent."""
    from pneumonia.training.loggers.wandb_account import MODES, has_key, server

    key = os.environ.get("WANDB_API_KEY", "")
    if key and (key != key.strip() or len(key) < SHORTEST_KEY):
        return False, (
            f"WANDB_API_KEY has {len(key)} characters, and keys have {SHORTEST_KEY} or more, without blanks: it was "
            f"truncated. Copy it again from {server().replace('//api.', '//')}/authorize."
        )
    mode = os.environ.get("WANDB_MODE", "")
    if mode and mode not in MODES:
        return False, f"WANDB_MODE={mode} is not a mode of W&B: choose one of {', '.join(MODES)}, or unset it."
    if MODES.get(mode, "online") != "online":
        return (
            True,
            f"WANDB_MODE={mode}: logger=wandb {'sends nothing' if mode == 'disabled' else 'writes runs offline'}",
        )
    if has_key():
        return True, f"a key for {server()} is set; logger=wandb sends runs at once"
    return True, "no key; logger=wandb writes runs offline, and `pneumonia track push` sends them later"


def _data(root: Path, cache_dir: Path, task: "Task | None") -> Finding:
    from collections import Counter

    from pneumonia.data.manifest import read_manifest
    from pneumonia.data.sources.releases import check_classes, recognise
    from pneumonia.system.parallel import in_threads
    from pneumonia.tasks import PNEUMONIA, SUBTYPE, UNKNOWN_KIND, in_class_order

    try:
        place = root.expanduser().resolve()
        if place.suffix == ".parquet":
            rows = read_manifest(place)[["path", "label", "patient_id"]].itertuples(index=False, name=None)
            images = [(Path(path), label, patient) for path, label, patient in rows]
        else:
            found = recognise(place, cache_dir, task=task or SUBTYPE).images
            images = [(item.path, item.label, item.patient_id) for item in found]
        labels = Counter(label for _, label, _ in images)
        task = task or (PNEUMONIA if labels[UNKNOWN_KIND] else SUBTYPE)
        check_classes(task.counts(label for _, label, _ in images), task.classes, str(root))
    except PneumoniaError as error:
        return False, f"{type(error).__name__}: {error}"
    broken = [name for name in in_threads(_unreadable, [path for path, _, _ in images]) if name]
    if broken:
        return (
            False,
            f"{len(broken)} files are not images: {some(broken, 3)}. `pneumonia data audit {root}` lists them with reasons.",
        )
    counts = ", ".join(f"{label} {labels[label]}" for label in in_class_order(label for label, count in labels.items() if count))
    return True, f"{root}: {len(images)} images of {len({patient for _, _, patient in images})} patients ({counts})"


def _azure(account_url: str | None, places: Mapping[str, str]) -> Finding:
    from pneumonia.storage.client import check_access

    return check_access(account_url, {name: place for name, place in places.items() if place not in {"", "null"}})


def _backup(account_url: str | None, place: str) -> Finding:
    from pneumonia.storage.client import check_writing

    return check_writing(account_url, place)


def _unreadable(path: Path) -> str:
    """Return the name of a file whose header is not that of an image, or an empty string."""
    from pneumonia.data.images.decode import read_header
    from pneumonia.data.images.limits import UnreadableImageError, read_image_file

    try:
        read_header(read_image_file(path))
    except UnreadableImageError:
        return path.name
    return ""
