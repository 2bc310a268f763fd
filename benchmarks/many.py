"""Row 6: a sweep of 48 small runs, against a process a run, one after another, each as one would write it by hand.

- ours: `pneumonia sweep` in a process of its own, from its start to its end, with dry run, checkpoints and results.csv.
- baseline: `benchmarks/by_hand.py` in a process a run; a few of them, since all take minutes.
- limit: as many images, forward, backward and step on one fixed batch.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from typing import Final

from benchmarks.fits import Loop, ready
from benchmarks.harness import Arm, Differs, Goal, Row
from benchmarks.world import World, classifier

JOBS: Final = 48
BY_HAND: Final = 2  # of them
LIMIT: Final = 6  # of them
SIDE: Final = 25
BATCH: Final = 50
BATCHES: Final = 20
ALIKE: Final = 0.2  # of the losses that differ by their order of images alone
NETWORK: Final = {"_target_": "pneumonia.models.simple_cnn.SimpleCNN"}


def rows(world: World) -> list[Row]:
    """The arms over 48 seeds."""
    data = world.subset(BATCHES * BATCH, 50, SIDE, BATCH)
    images = BATCHES * BATCH
    batches, _ = ready(data, classifier(SIDE, NETWORK))

    def limit() -> float:
        loop = Loop(classifier(SIDE, NETWORK))
        image, label = batches[0]
        start = time.perf_counter()
        for _ in range(LIMIT * BATCHES):
            loss = loop.step(image, label)
        loss.item()
        return time.perf_counter() - start

    found = Row(
        key="sweep",
        what=f"{JOBS} runs of a simple CNN on {images} images at {SIDE} px",
        items=JOBS,
        unit="runs",
        arms={
            "ours": Arm(lambda: ours(world)),
            "baseline": Arm(lambda: by_hand(world, BY_HAND), share=BY_HAND / JOBS),
            "limit": Arm(limit, share=LIMIT / JOBS, timed=True),
        },
        goals=(Goal("baseline", "faster", 4), Goal("limit", "faster", 0.25)),
        guard=lambda: guard(world),
        rounds=world.rounds,
        note=f"baseline: {BY_HAND} of the {JOBS} processes, times {JOBS // BY_HAND}",
    )
    return [found]


def ours(world: World) -> list[float]:
    """The training loss of each run."""
    folder = world.scratch / "runs" / "many"
    shutil.rmtree(folder, ignore_errors=True)
    settings = {
        **world.words,
        "experiment": "article/simple_cnn",
        "optimizer": "adam",
        "scheduler": "none",
        "augmentation": "none",
        "split": "random",
        "split.leaky": "true",
        "seed": f"range(0,{JOBS})",
        "image_size": SIDE,
        "batch_size": BATCH,
        "max_epochs": 1,
        "trainer.limit_train_batches": BATCHES,
        "name": "many",
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    run = [sys.executable, "-m", "pneumonia", "sweep", "seeds", *words]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Differs(f"the sweep failed: {done.stderr[-2000:]}")
    results = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    if len(results) != JOBS:
        raise Differs(f"the sweep finished {len(results)} of {JOBS} runs")
    return [result["metrics"]["train"]["loss"] for result in results]


def by_hand(world: World, count: int) -> list[float]:
    """The training loss of each of so many runs."""
    settings = [str(world.by_class), str(SIDE), str(BATCH), str(BATCHES)]
    losses = []
    for seed in range(count):
        run = [sys.executable, "-m", "benchmarks.by_hand", *settings, str(seed)]
        losses.append(float(subprocess.run(run, capture_output=True, text=True, check=True).stdout))
    return losses


def guard(world: World) -> str:
    """Both train as many steps on as many images; orders differ, and so the losses a little."""
    mine, theirs = statistics.mean(ours(world)), statistics.mean(by_hand(world, BY_HAND))
    if abs(mine - theirs) > ALIKE * theirs:
        raise Differs(f"the mean training loss is {mine:.4f} in the sweep and {theirs:.4f} by hand")
    return f"mean training loss {mine:.4f} in the sweep, {theirs:.4f} by hand, other orders of the same images"
