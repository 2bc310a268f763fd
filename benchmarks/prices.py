"""What each sweep costs: from images a second measured here, and on a T4 as the study measured its own.

    .venv/bin/python -m benchmarks.prices --xrays DIR [--out docs/results/prices.json]

Here: every distinct (network, image size, batch size) of the sweeps trains a few hundred images; a sweep's hours are its training
images over that rate. Families that learn by rules of their own train one whole job of each setting. A T4 is estimated twice: as
the study's own code did on its T4 (:func:`as_the_study`), and from the card's arithmetic (:func:`by_arithmetic`).
"""

import argparse
import json
import math
import os
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import conditions, unheard
from pneumonia.config.convert import to_plain
from pneumonia.config.schema import TrainConfig
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.models.factory import family_of
from pneumonia.sweep.plan import make_plan
from pneumonia.sweep.sweep_files import sweep_names
from pneumonia.system.console import say
from pneumonia.system.files import digest
from pneumonia.training.prepare import prepare_run
from pneumonia.training.train import train

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "infra"))
from vm_caller import STUDY
from vm_prices import MACHINES, price

TRIED: Final = 400  # images
# The study's pseudo-ResNet on its T4: images a second by image size (batches of 50), and by batch size (75 px).
BY_SIZE: Final = {25: 1183.5, 50: 495.0, 75: 219.0, 100: 120.0}
BY_BATCH: Final = {10: 152.5, 25: 193.75, 50: 219.0, 100: 225.0, 200: 238.0, 400: 572.0}
FASTEST: Final = max(BY_SIZE.values())
T4_FLOPS: Final = 8.1e12  # float32, of the data sheet
REACHED: Final = 0.25  # of that, in small convolutions: a guess
LAUNCHES_S: Final = 0.003  # that a step takes at least, to launch its kernels: a guess
T4: Final = json.loads(STUDY.read_text())  # the study's machine
HERE: Final = "e2-standard-2"  # a machine of Google's with two cores, as this one
PSEUDO_RESNET: Final = "PseudoResNet"


@dataclass
class Bill:
    """A sweep's jobs, training images and hours."""

    jobs: int = 0
    images: int = 0
    here_h: float = 0.0
    t4_study_h: float = 0.0
    t4_h: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Measures, adds up, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xrays", type=Path, default=os.environ.get("PNEUMONIA_XRAYS") or None)
    parser.add_argument("--out", type=Path, default=Path("docs/results/prices.json"))
    parser.add_argument("--rates", type=Path, help="an earlier file, whose measured rates are taken in place of new ones")
    parser.add_argument("--only", help="sweeps, with commas between them")
    options = parser.parse_args()
    if options.xrays is None or not Path(options.xrays).is_dir():
        parser.error("--xrays names the folder of X-rays; prices of drawn ones would say nothing")
    names = options.only.split(",") if options.only else [name for name in sweep_names() if name != "search"]
    bills: dict[str, Bill] = {}
    with tempfile.TemporaryDirectory(prefix="prices-") as scratch:
        meter = Meter(Path(scratch), _rates_of(options.rates))
        for name in names:
            words = [
                "data=folder",
                f"data.root={options.xrays}",
                f"cache_dir={scratch}/cache",
                f"runs_dir={scratch}/runs",
            ]
            bills[name] = Bill()
            for job in make_plan(name, words).jobs:
                meter.add(job.config, bills[name])
            say(f"{name}: {bills[name]}")
    spot, demand = (price({**T4, "spot": spot}).running or math.nan for spot in (True, False))
    results = {**conditions(), "usd_per_hour": {"here": MACHINES[HERE][0], "t4": demand, "t4_spot": spot}}
    results["sweeps"] = {
        name: {
            "jobs": bill.jobs,
            "images": bill.images,
            "here_h": round(bill.here_h, 3),
            "here_usd": round(bill.here_h * MACHINES[HERE][0], 3),
            "t4_study_h": round(bill.t4_study_h, 3),
            "t4_study_usd": round(bill.t4_study_h * demand, 3),
            "t4_h": round(bill.t4_h, 3),
            "t4_usd": round(bill.t4_h * demand, 3),
            "t4_spot_usd": round(bill.t4_h * spot, 3),
            "images_per_s_here": {what: round(rate, 1) for what, rate in bill.rates.items()},
        }
        for name, bill in bills.items()
    }
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    say(f"Written: {options.out}")


def _rates_of(path: Path | None) -> dict[str, float]:
    """What an earlier call has measured."""
    if path is None:
        return {}
    sweeps = json.loads(path.read_text(encoding="utf-8"))["sweeps"].values()
    return {what: rate for sweep in sweeps for what, rate in sweep["images_per_s_here"].items()}


class Meter:
    """Measures each distinct training once."""

    def __init__(self, scratch: Path, rates: dict[str, float]) -> None:
        self.scratch = scratch
        self.rates = rates
        self.data_cache = RunDataCache()
        self.known: dict[str, tuple[float, float]] = {}  # images a second, and FLOP of an image's way forward

    def add(self, config: TrainConfig, bill: Bill) -> None:
        """Adds a job to a sweep's bill."""
        with unheard():
            prepared = prepare_run(config, self.data_cache)
        images = len(prepared.data.positions("train")) * config.max_epochs
        family = family_of(to_plain(config.model))
        name = family.__name__ + (f" {config.model.name}" if hasattr(config.model, "name") else "")
        what = f"{name}, {config.image_size} px, {config.batch_size}"
        own = bool(family.training_rule)
        if own:
            what += f", settings {digest([to_plain(config.model), to_plain(config.scheduler), config.max_epochs])[:6]}"
        if what not in self.known:
            rate = self.rates.get(what) or (self._whole(config) if own else self._measured(config))
            self.known[what] = (rate, 0.0 if own else _flop(prepared.classifier, config.image_size))
            say(f"  {what}: {self.known[what][0]:.1f} images/s")
        rate, flop = self.known[what]
        bill.jobs += 1
        bill.images += images
        bill.rates[what] = rate
        bill.here_h += images / rate / 3600
        if own:  # a card has no part in it
            study = card = rate
        else:
            relative = flop / self._flop_of_the_studys()
            study = as_the_study(name == PSEUDO_RESNET, config.image_size, config.batch_size, relative)
            card = by_arithmetic(config.batch_size, flop)
        bill.t4_study_h += images / study / 3600
        bill.t4_h += images / card / 3600

    def _flop_of_the_studys(self) -> float:
        if "study" not in self.known:
            from benchmarks.world import NETWORK, classifier

            self.known["study"] = (math.nan, _flop(classifier(75, NETWORK), 75))
        return self.known["study"][1]

    def _measured(self, config: TrainConfig) -> float:
        batches = max(2, -(-TRIED // config.batch_size))
        trainer = replace(config.trainer, limit_train_batches=batches, limit_val_batches=1, enable_progress_bar=False)
        short = replace(config, trainer=trainer, max_epochs=1, force=True, name="tried", swa=None)
        with unheard():
            return float(train(short, data_cache=self.data_cache).cost.images_per_s)

    def _whole(self, config: TrainConfig) -> float:
        with unheard():
            result = train(replace(config, force=True, name="tried"), data_cache=self.data_cache)
        return float(result.data.train * config.max_epochs / result.cost.fit_s)


def as_the_study(pseudo_resnet: bool, side: int, batch: int, flop_ratio: float) -> float:
    """Training images a second on a T4, as the study's own code did them: from files, in float32.

    Args:
        pseudo_resnet: Whether the network is the one that the study measured; its figures are interpolated by size and batch.
        side: Pixels a side.
        batch: Images a batch.
        flop_ratio: FLOP of the way forward over those of the pseudo-ResNet at 75 px; other networks are taken to need time in
            proportion, and never to be faster than the fastest that the study saw.
    """
    if pseudo_resnet:
        return _between(BY_SIZE, side) * _between(BY_BATCH, batch) / BY_BATCH[50]
    return min(FASTEST, BY_SIZE[75] / flop_ratio)


def by_arithmetic(batch: int, flop: float) -> float:
    """Training images a second that a T4's arithmetic allows; the way back costs twice the way forward.

    Args:
        batch: Images a batch.
        flop: Of one image's way forward.
    """
    return min(REACHED * T4_FLOPS / (3 * flop), batch / LAUNCHES_S)


def _between(points: dict[int, float], at: float) -> float:
    """Interpolated on logarithmic scales; beyond the ends in proportion to the area."""
    keys = sorted(points)
    if at <= keys[0]:
        return points[keys[0]]
    if at >= keys[-1]:
        return points[keys[-1]] * ((keys[-1] / at) ** 2 if points is BY_SIZE else 1)
    high = next(key for key in keys if key >= at)
    low = keys[keys.index(high) - 1]
    share = math.log(at / low) / math.log(high / low)
    return math.exp((1 - share) * math.log(points[low]) + share * math.log(points[high]))


def _flop(classifier: Any, side: int) -> float:
    """FLOP of one image's way forward."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        classifier.eval()(torch.zeros(1, 1, side, side, dtype=torch.uint8))
    classifier.train()
    return float(counter.get_total_flops())


if __name__ == "__main__":
    main()
