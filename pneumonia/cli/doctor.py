"""`pneumonia doctor`: checks what a run needs, and says what to do about each thing that is missing."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pneumonia.cli import key_values, wants_help
from pneumonia.errors import PneumoniaError

HELP = """
usage: pneumonia doctor [data.root=DIR] [runs_dir=runs] [cache_dir=cache]

Checks Python, torch and its device, memory, disk, and the data folder if one is named. Exit code 1 where something is
wrong; each such line says what to do.
"""
KEYS = ("data.root", "runs_dir", "cache_dir")
GIB = 2**30
NEEDED_GIB = 1.0
Finding = tuple[bool, str]


def run(arguments: list[str]) -> int:
    """Prints one line for each check; 0 if all is well, 1 otherwise."""
    if wants_help(arguments, HELP):
        return 0
    words = {"runs_dir": "runs", "cache_dir": os.environ.get("PNEUMONIA_CACHE", "cache")}
    words |= key_values(arguments, KEYS)
    checks: dict[str, Callable[[], Finding]] = {
        "python": _python,
        "device": _device,
        "memory": _memory,
        "runs_dir": lambda: _folder(Path(words["runs_dir"])),
        "cache_dir": lambda: _folder(Path(words["cache_dir"])),
    }
    if "data.root" in words:
        checks["data"] = lambda: _data(Path(words["data.root"]))
    healthy = True
    for name, check in checks.items():
        good, text = check()
        healthy = healthy and good
        print(f"{'ok     ' if good else 'PROBLEM'}  {name:<10} {text}", flush=True)
    if "data.root" not in words:
        print("-        data       not checked; say data.root=DIR to check a folder of X-rays")
    return 0 if healthy else 1


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return False, f"{found}: Hydra 1.3 runs on 3.11 to 3.13. Make the environment with one of these."
    return True, found


def _device() -> Finding:
    try:
        import torch
    except ImportError as error:
        return False, f"torch can't be imported ({error}). Run `make setup`."
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return True, f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, torch {torch.__version__}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    if threads > cores:
        return (
            False,
            f"torch uses {threads} threads on {cores} cores, which can be very slow. Set OMP_NUM_THREADS={cores}.",
        )
    return True, f"no GPU; CPU with {cores} cores, {threads} threads, torch {torch.__version__}"


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


def _data(root: Path) -> Finding:
    from collections import Counter

    from pneumonia.data.releases import check_classes, find
    from pneumonia.labels import LABELS

    try:
        found = find(root.expanduser())
        labels = Counter(item.label for item in found)
        check_classes(labels, LABELS, str(root))
    except PneumoniaError as error:
        return False, f"{type(error).__name__}: {error}"
    counts = ", ".join(f"{label} {count}" for label, count in sorted(labels.items()))
    return True, f"{root}: {len(found)} images of {len({item.patient_id for item in found})} patients ({counts})"
