"""What a second device gives a training step: foretold from its measured parts, and held against two processes that train.

    .venv/bin/python -m benchmarks.processes [--xrays DIR] [--out docs/results/processes.json]

With the global batch B as it is, each of n devices takes B/n images and then all of them add their gradients up, so a step takes
s(B/n) + r(p, n) instead of s(B): s is the measured step of one process with one thread, r the measured all-reduce of p gradients.
Overlap of the two, which DistributedDataParallel does, makes it better than that; shared memory bandwidth makes it worse.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from benchmarks.fits import Loop, ready
from benchmarks.harness import conditions
from benchmarks.world import World, classifier
from pneumonia.system.console import say

PROCESSES: Final = 2
CASES: Final = (
    ("SimpleCNN", {"_target_": "pneumonia.models.simple_cnn.SimpleCNN"}, 400),
    ("PseudoResNet", {"_target_": "pneumonia.models.pseudo_resnet.PseudoResNet"}, 50),
    ("PseudoResNet", {"_target_": "pneumonia.models.pseudo_resnet.PseudoResNet"}, 400),
)
STEPS: Final = 6
ROUNDS: Final = 5


def main() -> None:
    """Measures every case and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xrays", type=Path, default=os.environ.get("PNEUMONIA_XRAYS") or None)
    parser.add_argument("--out", type=Path, default=Path("docs/results/processes.json"))
    options = parser.parse_args()
    if options.xrays is not None and not Path(options.xrays).is_dir():
        parser.error(f"--xrays {options.xrays}: there is no such folder")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="processes-") as scratch:
        xrays = None if options.xrays is None else Path(options.xrays)
        world = World(xrays, None, Path(scratch), ROUNDS, 360)
        found = [_case(world, Path(scratch), *case) for case in CASES]
    results = {"images": "phantoms" if xrays is None else "real X-rays", **conditions(), "cases": found}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    say(f"Written: {options.out}")


def _case(world: World, scratch: Path, name: str, network: dict[str, str], batch: int) -> dict[str, Any]:
    """One network at one batch size."""
    image, label = ready(world.data(batch_size=batch), classifier(network=network))[0][0]
    torch.save((image, label, network), scratch / "batch.pt")
    share = batch // PROCESSES
    alone, half, reduce, together = [], [], [], []
    for _ in range(ROUNDS):  # in turns
        alone.append(_steps(network, image, label))
        half.append(_steps(network, image[:share], label[:share]))
        reduce.append(_in_processes(scratch, "reduce"))
        together.append(_in_processes(scratch, "train"))
    pairs = zip(alone, half, reduce, together, strict=True)
    foretold = [one / (less + add) for one, less, add, _ in pairs]
    measured = [one / two for one, two in zip(alone, together, strict=True)]
    found = {
        "network": name,
        "parameters": sum(weights.numel() for weights in classifier(network=network).parameters()),
        "batch": batch,
        "step_s": _middle(alone),
        "half_step_s": _middle(half),
        "all_reduce_s": _middle(reduce),
        "two_processes_s": _middle(together),
        "foretold": _middle(foretold),
        "measured": _middle(measured),
        "measured_range": [round(min(measured), 3), round(max(measured), 3)],
    }
    say(str(found))
    return found


def _middle(values: list[float]) -> float:
    return round(statistics.median(values), 6)


def _steps(network: dict[str, str], image: torch.Tensor, label: torch.Tensor) -> float:
    """Seconds of a step."""
    loop = Loop(classifier(network=network))
    loop.step(image, label)
    start = time.perf_counter()
    for _ in range(STEPS):
        loop.step(image, label)
    return (time.perf_counter() - start) / STEPS


def _in_processes(scratch: Path, work: str) -> float:
    """Seconds of a step, or of an all-reduce, of processes with one thread each: of the slowest."""
    rendezvous = scratch / f"rendezvous-{time.monotonic_ns()}"
    spawn(_process, (str(scratch), str(rendezvous), work), PROCESSES)
    spent = [float((scratch / f"spent-{rank}").read_text()) for rank in range(PROCESSES)]
    return max(spent)


def _process(rank: int, scratch: str, rendezvous: str, work: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=PROCESSES)
    image, label, network = torch.load(Path(scratch, "batch.pt"), weights_only=True)
    model = classifier(network=network)
    if work == "reduce":
        gradients = torch.zeros(sum(weights.numel() for weights in model.parameters()))

        def step() -> None:
            distributed.all_reduce(gradients)
    else:
        loop = Loop(model)
        loop.network = nn.parallel.DistributedDataParallel(loop.network)
        share = slice(rank * len(label) // PROCESSES, (rank + 1) * len(label) // PROCESSES)

        def step() -> None:
            loop.step(image[share], label[share])

    step()
    distributed.barrier()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    Path(scratch, f"spent-{rank}").write_text(str((time.perf_counter() - start) / STEPS))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
