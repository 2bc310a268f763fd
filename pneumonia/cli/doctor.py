"""`pneumonia doctor`: checks what a run needs, and says what to do about each thing that is missing."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pneumonia.cli import key_values, wants_help
from pneumonia.errors import ConfigError, PneumoniaError, printable, some
from pneumonia.system import nvidia as card

HELP = """
usage: pneumonia doctor [data.root=DIR] [data=azure] [backup.place=CONTAINER/PREFIX] [runs_dir=runs] [cache_dir=cache]

Checks Python, the driver of an NVIDIA card, what torch trains on, memory, disk, the clock, the key of W&B, the data if they
are named (a folder, an archive), with data=azure whether the containers can be listed, with backup.place whether it can be
written. Exit code 1 where something is wrong; each such line says what to do.
"""
KEYS = (
    "data",
    "data.root",
    "data.azure.account_url",
    "data.azure.train",
    "data.azure.validation",
    "data.azure.test",
    "backup.place",
    "backup.account_url",
    "runs_dir",
    "cache_dir",
)
GIB = 2**30
NEEDED_GIB = 1.0
SKEW_S = 86_400  # a machine's zone may have been set wrongly when files were copied
SHORTEST_KEY = 40
Finding = tuple[bool, str]


def run(arguments: list[str]) -> int:
    """Prints one line for each check; 0 if all is well, 1 otherwise."""
    if wants_help(arguments, HELP):
        return 0
    words = {"runs_dir": "runs", "cache_dir": os.environ.get("PNEUMONIA_CACHE", "cache")}
    words |= key_values(arguments, KEYS)
    checks: dict[str, Callable[[], Finding]] = {
        "python": _python,
        "driver": card.driver,
        "device": card.device,
        "memory": _memory,
        "runs_dir": lambda: _folder(Path(words["runs_dir"])),
        "cache_dir": lambda: _folder(Path(words["cache_dir"])),
        "clock": _clock,
        "wandb": _wandb,
    }
    if "data.root" in words:
        checks["data"] = lambda: _data(Path(words["data.root"]), Path(words["cache_dir"]))
    if words.get("data") not in {None, "azure", "folder"}:
        raise ConfigError(f"data={words['data']} is nothing to check; say data=azure, or data.root=DIR.")
    if words.get("data") == "azure":
        checks["azure"] = lambda: _azure(words)
    if "backup.place" in words:
        checks["backup"] = lambda: _backup(words)
    healthy = True
    for name, check in checks.items():
        good, text = check()
        healthy = healthy and good
        print(f"{'ok     ' if good else 'PROBLEM'}  {name:<10} {printable(text, lines=True)}", flush=True)
    if not {"data", "azure"} & set(checks):
        print(
            "-        data       not checked; say data.root=DIR to check X-rays, or data=azure to check the containers"
        )
    return 0 if healthy else 1


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return False, f"{found}: Hydra 1.3 runs on 3.11 to 3.13. Make the environment with one of these."
    return True, found


def _memory() -> Finding:
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return True, "free memory is not known on this system"
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
        return False, f"{path} can't be written ({error.strerror}). Choose another folder with runs_dir= or cache_dir=."
    free = shutil.disk_usage(existing).free / GIB
    if free < NEEDED_GIB:
        return False, f"{path}: {free:.1f} GiB free. Free some space, or choose another disk."
    return True, f"{path} can be written, {free:.1f} GiB free"


def _clock() -> Finding:
    """A clock that is before the newest file of this program can't be right."""
    now = time.time()
    newest = max(path.stat().st_mtime for path in Path(__file__).parent.rglob("*.py"))
    told = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < newest - SKEW_S:
        return False, (
            f"{told}, which is before this program was installed. Azure and W&B refuse requests from a wrong clock. Set it: "
            "`sudo timedatectl set-ntp true`."
        )
    return True, told


def _wandb() -> Finding:
    """Whether a key is there and looks like one; it is neither shown nor sent."""
    from pneumonia.training.loggers.wandb_account import MODES, has_key, server

    key = os.environ.get("WANDB_API_KEY", "")
    if key and (key != key.strip() or len(key) < SHORTEST_KEY):
        return False, (
            f"WANDB_API_KEY has {len(key)} characters, and keys have {SHORTEST_KEY} or more, without blanks: it was cut in "
            f"copying. Copy it anew from {server().replace('//api.', '//')}/authorize."
        )
    said = os.environ.get("WANDB_MODE", "")
    if said and said not in MODES:
        return False, f"WANDB_MODE={said} is no mode of W&B: choose one of {', '.join(MODES)}, or unset it."
    if MODES.get(said, "online") != "online":
        return (
            True,
            f"WANDB_MODE={said}: logger=wandb {'sends nothing' if said == 'disabled' else 'writes runs offline'}",
        )
    if has_key():
        return True, f"a key for {server()} is there; logger=wandb sends runs at once"
    return True, "no key; logger=wandb writes runs offline, and `pneumonia track push` sends them later"


def _data(root: Path, cache_dir: Path) -> Finding:
    from collections import Counter

    from pneumonia.data.sources.releases import check_classes, recognise
    from pneumonia.system.parallel import in_threads
    from pneumonia.tasks import PNEUMONIA, SUBTYPE, UNKNOWN_KIND, in_class_order

    try:
        found = recognise(root.expanduser().resolve(), cache_dir).images
        labels = Counter(item.label for item in found)
        task = PNEUMONIA if labels[UNKNOWN_KIND] else SUBTYPE
        check_classes(Counter(task.groups[item.label] for item in found), task.classes, str(root))
    except PneumoniaError as error:
        return False, f"{type(error).__name__}: {error}"
    broken = [name for name in in_threads(_unreadable, [item.path for item in found]) if name]
    if broken:
        return (
            False,
            f"{len(broken)} files are no images: {some(broken, 3)}. `pneumonia data import {root}` lists all with reasons.",
        )
    counts = ", ".join(
        f"{label} {labels[label]}" for label in in_class_order(label for label, count in labels.items() if count)
    )
    return True, f"{root}: {len(found)} images of {len({item.patient_id for item in found})} patients ({counts})"


def _azure(words: dict[str, str]) -> Finding:
    from pneumonia.config.schema import AzureConfig
    from pneumonia.storage.client import check_access

    usual = AzureConfig()
    places = {name: words.get(f"data.azure.{name}", getattr(usual, name)) for name in ("train", "validation", "test")}
    kept = {name: place for name, place in places.items() if place not in {None, "", "null"}}
    return check_access(words.get("data.azure.account_url"), kept)


def _backup(words: dict[str, str]) -> Finding:
    from pneumonia.storage.client import check_writing

    return check_writing(words.get("backup.account_url") or words.get("data.azure.account_url"), words["backup.place"])


def _unreadable(path: Path) -> str:
    """The name of a file whose first bytes are no image's; empty where they are."""
    from pneumonia.data.images.decode import read_header
    from pneumonia.data.images.limits import UnreadableImageError, read_image_file

    try:
        read_header(read_image_file(path))
    except UnreadableImageError:
        return path.name
    return ""
