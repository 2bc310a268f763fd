"""How time and memory grow with images, their size, the jobs of a sweep and worker processes.

    .venv/bin/python -m benchmarks.growth [--xrays DIR] [--base 1300]

Every point is a process of its own, so that peaks of memory do not mix: resident memory without files that are mapped (RssAnon),
looked at fifty times a second, less what it was before the work. Images are repeated by links under other names.
Written to docs/results/growth.json and docs/images/growth.svg.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import conditions, unheard
from benchmarks.ingest import files_of
from pneumonia.config.compose import compose
from pneumonia.config.schema import TrainConfig
from pneumonia.data.sources.phantom import load_phantoms
from pneumonia.system.console import say

TIMES: Final = (1, 4, 16)
SIDES: Final = (25, 50, 75, 150, 224)
JOBS: Final = (1, 4, 16, 48)
WORKERS: Final = (0, 1, 2, 4)
TRAINED: Final = 1000  # images an epoch
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito


@dataclass(frozen=True)
class Panel:
    """A picture of the four: which points, against what, how fast, and the memory that they take."""

    key: str
    x: str
    label: str
    speed: str
    text: str
    memory: dict[str, str]


PANELS: Final = (
    Panel(
        "by_images",
        "images",
        "images",
        "ingest_s",
        "ingest, seconds",
        {"ingest_mib": "ingest", "train_mib": "training"},
    ),
    Panel("by_size", "side", "pixels a side", "images_per_s", "training, images/s", {"train_mib": "training"}),
    Panel("by_jobs", "jobs", "jobs of a sweep", "sweep_s", "seconds", {"sweep_mib": "all jobs"}),
    Panel("by_workers", "workers", "worker processes", "images_per_s", "augmented images/s", {}),
)


def main() -> None:
    """Measures all points, or with ``--point`` one of them, which is printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xrays", type=Path, default=os.environ.get("PNEUMONIA_XRAYS") or None)
    parser.add_argument("--base", type=int, default=1300, help="images that are repeated")
    parser.add_argument("--only", default="images,size,jobs,workers", help="measure these, and keep the file's other figures")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(_point(json.loads(options.point))))
        return
    if options.xrays is not None and not options.xrays.is_dir():
        parser.error(f"--xrays {options.xrays}: there is no such folder")
    with tempfile.TemporaryDirectory(prefix="growth-") as scratch:
        found = _all_points(Path(scratch), options.xrays, options.base, options.only.split(","))
    results = {"images": "phantoms" if options.xrays is None else "real X-rays", **conditions(), **found}
    out = Path("docs/results/growth.json")
    if out.exists():
        results = {**json.loads(out.read_text()), **results}
    out.write_text(json.dumps(results, indent=1) + "\n")
    _draw(results, Path("docs/images/growth.svg"))
    say("Written: docs/results/growth.json, docs/images/growth.svg")


def _all_points(scratch: Path, xrays: Path | None, base: int, only: list[str]) -> dict[str, list[dict[str, float]]]:
    source = load_phantoms(base, 0, scratch) if xrays is None else xrays
    trees = {times: _repeated(source, scratch / f"times_{times}", base, times) for times in TIMES}
    caches = scratch / "caches"
    common = {"cache_dir": str(caches), "runs_dir": str(scratch / "runs"), "data": "folder", "split": "random"}
    few = {**common, "data.root": str(trees[1]), "max_epochs": "1", "trainer.limit_train_batches": str(TRAINED // 50)}
    few |= {"split.leaky": "true", "experiment": "article/simple_cnn", "optimizer": "adam"}
    images, sizes, jobs, workers = [], [], [], []
    for times, tree in trees.items() if "images" in only else ():
        words = {**few, "data.root": str(tree), "image_size": "75", "name": f"images_{times}"}
        images.append({"images": base * times, **_ask(kind="ingest", words=words), **_ask(kind="train", words=words)})
        say(f"images: {images[-1]}")
    for side in SIDES if "size" in only else ():
        words = {**few, "image_size": str(side), "name": f"size_{side}"}
        _ask(kind="ingest", words=words)
        sizes.append({"side": side, **_ask(kind="train", words=words)})
        say(f"size: {sizes[-1]}")
    for count in JOBS if "jobs" in only else ():
        jobs.append(
            {
                "jobs": count,
                **_ask(kind="sweep", words={**few, "image_size": "25", "name": f"jobs_{count}"}, jobs=count),
            }
        )
        say(f"jobs: {jobs[-1]}")
    for count in WORKERS if "workers" in only else ():
        words = {**few, "image_size": "75", "num_workers": str(count), "augmentation": "clinical"}
        workers.append({"workers": count, **_ask(kind="batches", words=words)})
        say(f"workers: {workers[-1]}")
    found = {"by_images": images, "by_size": sizes, "by_jobs": jobs, "by_workers": workers}
    return {key: points for key, points in found.items() if points}


def _repeated(source: Path, tree: Path, count: int, times: int) -> Path:
    """Links to so many images, each so often, one name each."""
    files = [path for path in files_of(source) if path.parent.name in {"NORMAL", "PNEUMONIA"}]
    for number, path in enumerate(files[:: max(1, len(files) // count)][:count]):
        folder = tree / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for copy in range(times):
            # A person of its own for each copy, or all copies would be one patient's.
            who = f"person{100_000 * copy + number}" if "person" in path.name else f"IM-{100_000 * copy + number:07d}-0001"
            kind = next((word for word in ("bacteria", "virus") if word in path.name), "")
            name = f"{who}_{kind}_{number}{path.suffix}" if kind else f"{who}{path.suffix}"
            (folder / name).symlink_to(path.resolve())
    return tree


def _ask(**point: Any) -> dict[str, float]:
    """The figures of a point, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--point", json.dumps(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a point failed: {point}\n{done.stderr[-3000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _point(point: dict[str, Any]) -> dict[str, float]:
    import torch

    from pneumonia.cli.sweep import run
    from pneumonia.data.decoded_images import load_images
    from pneumonia.training.train import train

    work: Callable[[], Any]
    words = point["words"]
    overrides = [f"{key}={value}" for key, value in words.items()]
    with unheard():
        if point["kind"] == "ingest":
            config = compose(*overrides)
            shutil.rmtree(config.cache_dir, ignore_errors=True)

            def work() -> None:
                load_images(config.data, config.image_size, Path(config.cache_dir))
        elif point["kind"] == "train":
            config = compose(*overrides)

            def work() -> Any:
                return train(config).cost.images_per_s
        elif point["kind"] == "sweep":
            sweep = ["seeds", f"seed=range(0,{point['jobs']})", *(f"{key}={value}" for key, value in words.items())]

            def work() -> None:
                assert run(sweep) == 0
        else:
            loader = _data(compose(*overrides)).loader("train", 0)
            list(loader)  # starts the workers

            def work() -> None:
                for _ in loader:
                    pass

        torch.set_num_threads(torch.get_num_threads())
        with _peak() as peak:
            begun = time.perf_counter()
            said = work()
            spent = time.perf_counter() - begun
    results = {f"{point['kind']}_s": round(spent, 3), f"{point['kind']}_mib": round(peak[0], 1)}
    if said is not None:
        results["images_per_s"] = said
    if point["kind"] == "batches":
        results["images_per_s"] = round(len(loader.dataset) / spent, 1)  # type: ignore[arg-type]
    return results


def _data(config: TrainConfig) -> Any:
    from pneumonia.data.run_data_cache import RunDataCache
    from pneumonia.training.prepare import prepare_run

    return prepare_run(config, RunDataCache()).data


@contextlib.contextmanager
def _peak() -> Iterator[list[float]]:
    """The largest growth of anonymous memory within it, in MiB."""
    before, found, done = _anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            found[0] = max(found[0], _anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def _anonymous() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this machine does not say how much memory a process has of its own: use Linux")


def _draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7))
    for axis, panel in zip(axes.flat, PANELS, strict=True):
        points = results[panel.key]
        x = [point[panel.x] for point in points]
        axis.plot(x, [point[panel.speed] for point in points], "o-", color=BLUE)
        axis.set(xlabel=panel.label, ylim=(0, None), xticks=x)
        axis.set_ylabel(panel.text, color=BLUE)
        axis.spines[["top", "right"]].set_visible(False)
        if not panel.memory:
            continue
        other = axis.twinx()
        for (name, text), style in zip(panel.memory.items(), ("s--", "^:"), strict=False):
            other.plot(x, [point[name] for point in points], style, color=ORANGE, label=text)
        other.set_ylim(0, max(1.3 * max(point[name] for name in panel.memory for point in points), 1))
        other.set_ylabel("own memory, MiB", color=ORANGE)
        other.legend(frameon=False, loc="upper center")
        other.spines[["top"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
