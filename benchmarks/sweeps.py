"""What a sweep costs beyond its training, as JSON.

Usage: .venv/bin/python benchmarks/sweeps.py [CHEST_XRAY] [--rounds 5]

- wandb: a small job with ``logger=wandb`` (offline) against ``logger=csv``, taken in turns in one process. Guard: equal metrics.
- recognised: a finished sweep of 50 jobs called again, start of the program included. Guard: no result was written anew.

The time to a job's first step is a row of `make bench`. Without a folder on drawn phantoms, which says nothing of large data.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pneumonia.config.compose import compose
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.system.console import say
from pneumonia.training.train import train


def main() -> None:
    """Reads the words, runs the rounds, prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        words = {"cache_dir": os.environ.get("PNEUMONIA_CACHE", f"{scratch}/cache"), "runs_dir": f"{scratch}/runs"}
        if options.folder is not None:
            words |= {"data": "folder", "data.root": str(options.folder)}
        answer = {
            "images": "real" if options.folder else "phantoms",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "wandb": _wandb(words, options.rounds),
            "recognised": _recognised(scratch, words, options.rounds),
        }
    print(json.dumps(answer, indent=2))


def _wandb(words: dict[str, str], rounds: int) -> dict[str, Any]:
    os.environ.pop("WANDB_API_KEY", None)
    data_cache, plain, followed = RunDataCache(), [], []
    base = [f"{key}={value}" for key, value in words.items()]
    base += ["model=mlp", "image_size=64", "max_epochs=3", "trainer.limit_train_batches=5"]
    for number in range(rounds + 1):
        seconds, metrics = {}, []
        for logger in ("csv", "wandb"):
            config = compose(*base, f"seed={number}", f"logger={logger}", f"name={logger}")
            begun = time.perf_counter()
            metrics.append(train(config, data_cache=data_cache).metrics)
            seconds[logger] = time.perf_counter() - begun
        assert metrics[0] == metrics[1]
        if number:
            plain.append(seconds["csv"])
            followed.append(seconds["wandb"])
        say(f"wandb {number}: {seconds['csv']:.2f} s without, {seconds['wandb']:.2f} s with")
    extra = [b - a for a, b in zip(plain, followed, strict=True)]
    return {"seconds": {"csv": plain, "wandb": followed}, "median_extra": statistics.median(extra)}


def _recognised(scratch: str, words: dict[str, str], rounds: int) -> dict[str, Any]:
    jobs = ["seeds", "experiment=article/mlp_4", "seed=range(0,50)", "max_epochs=1", "image_size=16", "dry_run=false"]
    said = [f"{key}={value}" for key, value in words.items()]
    command = [sys.executable, "-m", "pneumonia", "sweep", *jobs, *said]
    subprocess.run(command, check=True, capture_output=True)
    results = sorted(Path(scratch).glob("runs/seeds/*/result.json"))
    stamps = [path.stat().st_mtime_ns for path in results]
    assert len(results) == 50
    seconds = [_seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(rounds)]
    assert [path.stat().st_mtime_ns for path in results] == stamps
    return {"jobs": 50, "seconds": seconds, "median": statistics.median(seconds)}


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
