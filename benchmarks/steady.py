"""Row 5: one run in steady state, against what one would write by hand, and against nothing but steps on one batch in memory.

- ours: the training split of an epoch of `Trainer.fit`, as `result.json` counts it.
- baseline: ImageFolder, PIL's RGB, DataLoader with a worker a core, a plain loop in single precision.
- limit: forward, backward and step on one fixed batch.
"""

import time
from typing import Final

from benchmarks.fits import Loop, fit, plain, ready
from benchmarks.harness import Arm, Differs, Goal, Row
from benchmarks.world import World, by_hand, classifier
from pneumonia.system.console import quiet

CLOSE: Final = 1e-5  # of losses
BY_HAND: Final = 400  # images
SETTINGS: Final = ((75, 50, 800), (75, 400, 800), (25, 50, 3000))  # pixels a side, images a batch, images


def rows(world: World) -> list[Row]:
    """One for each setting."""
    quiet()
    return [row(world, *setting) for setting in SETTINGS]


def row(world: World, side: int, batch_size: int, images: int) -> Row:
    """The arms over a part of the images."""
    data = world.subset(images, 50, side, batch_size)
    count = len(data.positions("train"))
    batches, _ = ready(data, classifier(side))
    loader = by_hand(world.by_class, side, batch_size, min(count, BY_HAND))

    def baseline() -> float:
        loop = Loop(classifier(side))
        start = time.perf_counter()
        for image, label in loader:
            loss = loop.step(image, label)
        loss.item()
        return time.perf_counter() - start

    def limit() -> float:
        loop = Loop(classifier(side))
        image, label = batches[0]
        start = time.perf_counter()
        for _ in range(count // batch_size):
            loss = loop.step(image, label)
        loss.item()
        return time.perf_counter() - start

    def guard() -> str:
        ours, theirs = fit(data).loss, plain(batches, [], classifier(side)).loss
        if abs(ours - theirs) > CLOSE:
            raise Differs(f"ours ends at a training loss of {ours} and the loop on the same batches at {theirs}")
        return f"training losses within {abs(ours - theirs):.1g} ({ours:.5f}) of the plain loop on the same batches"

    return Row(
        key=f"steady_{side}_{batch_size}",
        what=f"training on {count} images at {side} px in batches of {batch_size}",
        items=count,
        unit="images",
        arms={
            "ours": Arm(lambda: fit(data).train_s, timed=True),
            "baseline": Arm(baseline, share=min(count, BY_HAND) / count, timed=True),
            "limit": Arm(limit, share=(count // batch_size) * batch_size / count, timed=True),
        },
        goals=(Goal("limit", "faster", 0.95), Goal("baseline", "faster", 1.0)),
        guard=guard,
        rounds=world.rounds,
    )
