"""Row 7: from a job's begin to its first step: the second and later jobs of a process, against a process of its own.

- ours: `train` in a process that has trained another run before: config in, checks, data, split, model, trainer, first batch.
- process: the same `train` in a fresh process, with all its imports.
- limit: one step.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Final

from benchmarks.fits import FirstBatch, Loop, ready
from benchmarks.harness import Arm, Differs, Goal, Row, unheard
from benchmarks.world import World, classifier
from pneumonia.config.compose import compose
from pneumonia.config.convert import to_plain
from pneumonia.config.schema import TrainConfig
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.training.train import train

FRESH: Final = """
import json, sys
from pneumonia.config.convert import from_plain
from pneumonia.training.train import train
from benchmarks.fits import FirstBatch
first = FirstBatch()
train(from_plain(json.loads(sys.argv[1])), callbacks=[first])
print(json.dumps([first.at, first.loss]))
"""


def rows(world: World) -> list[Row]:
    """The arms over the study's network."""
    data_cache, seeds = RunDataCache(), count()
    batches, _ = ready(world.subset(100, 50), classifier())
    loop = Loop(classifier())

    def limit() -> None:
        loop.step(*batches[0]).item()

    def guard() -> str:
        config = settings(world, seeds, "guard")
        mine, theirs = inside(config, data_cache)[1], outside(replace(config, name="guard_fresh"))[1]
        if mine != theirs:
            raise Differs(f"the first step has a loss of {mine} in this process and of {theirs} in a fresh one")
        return f"the first step has the same loss in both, {mine:.5f}"

    found = Row(
        key="first_step",
        what="from a job's begin to its first step, job 2 and later of a process",
        items=1,
        unit="jobs",
        arms={
            "ours": Arm(lambda: inside(settings(world, seeds, "inside"), data_cache)[0], timed=True),
            "process": Arm(lambda: outside(settings(world, seeds, "outside"))[0], timed=True),
            "limit": Arm(limit),
        },
        goals=(Goal("process", "faster", 100),),
        guard=guard,
        rounds=world.rounds,
    )
    return [found]


def settings(world: World, seeds: Iterator[int], name: str) -> TrainConfig:
    """A config that no run had before."""
    few = {"trainer.limit_train_batches": "2", "trainer.limit_val_batches": "1", "max_epochs": "1"}
    words = {**world.words, **few, "split": "random", "split.leaky": "true", "seed": str(next(seeds)), "name": name}
    return compose(*(f"{key}={value}" for key, value in words.items()))


def inside(config: TrainConfig, data_cache: RunDataCache) -> tuple[float, float]:
    """Seconds to the first step, and its loss."""
    first, begun = FirstBatch(), time.perf_counter()
    with unheard():
        train(config, data_cache=data_cache, callbacks=[first])
    return first.at - begun, first.loss


def outside(config: TrainConfig) -> tuple[float, float]:
    """The same in a process of its own; `perf_counter` is one clock for all processes of a Linux."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", FRESH, json.dumps(to_plain(config))]
    at, loss = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    return at - begun, loss
