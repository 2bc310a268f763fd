"""Whether a card trains what a CPU trains: short real trainings on both, losses epoch by epoch, speed and memory.

    make gpu-check                         on drawn phantoms, or on PNEUMONIA_XRAYS where that names X-rays; needs an NVIDIA card
    make gpu-check ARGS="--dry-run"       the check itself on a CPU, whose bfloat16 stands for the card's: nothing is kept

Ends with 0 where all losses are within their tolerance, 1 where some are not, 2 without a card. Figures go to
docs/results/gpu-check-DEVICE.json, as `result.json` of each run has them.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pneumonia.system.console import announce_loading, say, table

# Seen on a CPU in these steps, real X-rays: float32 against float64 1e-7 (simple CNN) and 0.0044 (pseudo-ResNet, whose batch
# normalisation multiplies small differences); bfloat16 against float32 0.003. A card adds up in yet another order.
EXACT: Final = 0.02
MIXED: Final = 0.05
COMMON: Final = ("image_size=75", "batch_size=50", "max_epochs=3", "trainer.limit_train_batches=12", "scheduler=none")
SGD: Final = ("optimizer=sgd", "optimizer.lr=0.003", "trainer.enable_progress_bar=false")


@dataclass(frozen=True)
class Case:
    """What is trained on both.

    Attributes:
        name: In the table.
        words: Of `pneumonia train`.
    """

    name: str
    words: tuple[str, ...]


CASES: Final = (
    Case("simple CNN", ("model=simple_cnn", "model.dropout=0")),
    Case("pseudo-ResNet", ("model=pseudo_resnet", "model.dropout=0")),
    Case("augmented", ("model=simple_cnn", "model.dropout=0", "augmentation=normal")),
)


def main() -> int:
    """Trains each case on the CPU, on the card in float32, and on the card in mixed precision."""
    options = _options()
    announce_loading()
    import torch

    if not (options.dry_run or torch.cuda.is_available()):
        print(
            "gpu-check: torch sees no NVIDIA card here. `pneumonia doctor` says why; --dry-run tries the check itself on the "
            "CPU.",
            file=sys.stderr,
        )
        return 2
    from benchmarks.harness import conditions, slug

    card = ("trainer.accelerator=cpu",) if options.dry_run else ("trainer=gpu",)
    ways = {
        "exact": (*card, "trainer.precision=32-true"),
        "mixed": (*card, f"trainer.precision={'bf16-mixed' if options.dry_run else 'mixed'}"),
    }
    results: dict[str, Any] = {
        "images": "phantoms" if options.xrays is None else "real X-rays",
        **conditions(),
        "cases": {},
    }
    lines, wrong = [], 0
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        place = (f"runs_dir={scratch}/runs", f"cache_dir={scratch}/cache", "name=check", *_data(options.xrays))
        for case in CASES:
            cpu = _train((*case.words, *place, "trainer.accelerator=cpu"))
            found = {"cpu": cpu}
            for way, words in ways.items():
                found[way] = _train((*case.words, *place, *words, "force=true"))
                off = max(abs(a - b) / abs(b) for a, b in zip(found[way]["losses"], cpu["losses"], strict=True))
                allowed = EXACT if way == "exact" else MIXED
                found[way] |= {"off": round(off, 6), "allowed": allowed, "good": off <= allowed}
                wrong += off > allowed
                cost = found[way]["cost"]
                lines.append(
                    (
                        f"{case.name}, {cost['precision']}",
                        f"{found[way]['losses'][-1]:.4f}",
                        f"{cpu['losses'][-1]:.4f}",
                        f"{off:.2g} of {allowed:g}",
                        "yes" if off <= allowed else "NO",
                        f"{cost['images_per_s']:.0f}",
                        f"{cost['peak_memory_mib']:.0f}",
                    )
                )
            results["cases"][case.name] = found
    device = "The CPU itself" if options.dry_run else results["device"]
    title = f"{device}, {results['images']}: training losses, and the largest relative difference to the CPU's"
    columns = ("case", "last", "CPU's", "off", "good", "images/s", "MiB")
    table(title, columns, lines)
    if options.dry_run:
        say("Nothing was written: this was the check itself, on the CPU.")
    else:
        out = options.out or Path(f"docs/results/gpu-check-{slug(results['device'])}.json")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        say(f"Written: {out}")
    return 1 if wrong else 0


def _train(words: tuple[str, ...]) -> dict[str, Any]:
    """The training losses of a run, and what it cost."""
    from benchmarks.harness import unheard
    from pneumonia.config.compose import compose
    from pneumonia.runs.folder import RunFolder, read_metrics
    from pneumonia.training.train import train

    config = compose(*COMMON, *SGD, *words)
    with unheard():
        result = train(config)
    folder = RunFolder(Path(config.runs_dir) / config.name / result.run_id)
    losses = [float(row["train/loss"]) for row in read_metrics(folder)]
    cost, name = result.cost, result.family
    say(f"  {name} on {cost.device}, {cost.precision}: {cost.images_per_s:.0f} images/s")
    return {"losses": losses, "val_loss": result.metrics["val"]["loss"], "cost": asdict(cost)}


def _data(xrays: Path | None) -> tuple[str, ...]:
    return ("data.phantom.patients=360",) if xrays is None else ("data=folder", f"data.root={xrays}")


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xrays", type=Path, default=os.environ.get("PNEUMONIA_XRAYS") or None, help="a folder of X-rays")
    parser.add_argument("--out", type=Path, help="where to write the figures; docs/results/gpu-check-DEVICE.json")
    parser.add_argument("--dry-run", action="store_true", help="try the check itself on the CPU")
    options = parser.parse_args()
    if options.xrays is not None and not Path(options.xrays).is_dir():
        parser.error(f"--xrays {options.xrays}: there is no such folder")
    return options


if __name__ == "__main__":
    sys.exit(main())
