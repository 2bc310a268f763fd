"""Linear families against what one would otherwise call, side by side in one run, as JSON.

Usage: .venv/bin/python benchmarks/linear.py CHEST_XRAY [--size 256] [--rounds 3]

- logistic regression: ours through ``Trainer.fit`` (with checkpoints, metrics and validation) and scikit-learn's ``lbfgs``, same
  objective, C and tolerance, on the training split of the study's split. Guard: losses within a thousandth of each other.
- the perceptron: 30 epochs of a plain numpy loop of the online rule, and ours with metrics, checkpoints and pictures. Guard: the
  same weights.
- the MLP with 4 hidden neurons, 60 epochs: seconds of ``Trainer.fit`` alone, there being no baseline to agree with.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from pneumonia.config.compose import compose
from pneumonia.config.schema import SplitConfig
from pneumonia.data.decoded_images import DecodedImages, load_images
from pneumonia.data.splits.assign import make_split
from pneumonia.models.checkpoints import load_classifier
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.result import RunResult
from pneumonia.system.console import say
from pneumonia.training.train import train


def main() -> None:
    """Reads the words, runs the rounds, prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--size", type=int, default=256, help="of logistic regression's images (256)")
    parser.add_argument("--penalty", type=float, default=3e-4, metavar="C", help="C of logistic regression (3e-4)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = {
        "logistic_regression": _logistic_regression(options.root, options.size, options.penalty, options.rounds),
        "perceptron": _perceptron(options.root, options.rounds),
        "mlp_4": _mlp(options.root),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "lightning", "scikit-learn", "numpy")},
    }
    json.dump(found, sys.stdout, indent=2)
    print()


def _run(root: Path, *words: str) -> tuple[RunResult, RunFolder, float]:
    """A whole run into a new folder; its result, its folder and the seconds that its ``Trainer.fit`` took."""
    folder = tempfile.mkdtemp()
    common = ("data=folder", f"data.root={root}", "split=random", f"runs_dir={folder}", "trainer.accelerator=cpu")
    config = compose(*words, *common)
    result = train(config)
    return result, RunFolder(Path(folder) / result.name / result.run_id), result.cost.fit_s


def _subset(root: Path, size: int) -> tuple[DecodedImages, np.ndarray, np.ndarray]:
    config = compose("data=folder", f"data.root={root}", f"image_size={size}")
    images = load_images(config.data, size, Path(config.cache_dir))
    subset = make_split(images.manifest, SplitConfig("random", leaky=True))["subset"].to_numpy()
    label = images.manifest["label"].map({"NORMAL": 0, "VIRUS": 1, "BACTERIA": 2}).to_numpy()
    return images, np.flatnonzero(subset == "train"), label


def _logistic_regression(root: Path, size: int, strength: float, rounds: int) -> dict[str, Any]:
    images, rows, label = _subset(root, size)
    ours, theirs, losses = [], [], []
    for number in range(rounds):
        say(f"Logistic regression, round {number + 1} of {rounds}")
        words = ["experiment=article/logistic_regression", f"image_size={size}", f"model.C={strength}"]
        result, _, seconds = _run(root, *words)
        ours.append(seconds)
        flat = images.pixels[images.rows[rows]].reshape(len(rows), -1)
        start = time.perf_counter()
        inputs = (flat.astype(np.float32) - 127.5) / 127.5
        reference = LogisticRegression(C=strength, tol=1e-4, max_iter=1000).fit(inputs, label[rows])
        theirs.append(time.perf_counter() - start)
        losses.append((result.metrics["train"]["loss"], float(log_loss(label[rows], reference.predict_proba(inputs)))))
    for mine, other in losses:
        assert abs(mine - other) < 1e-3 * other, losses
    return {
        "images": len(rows),
        "size": size,
        "C": strength,
        "seconds": {"ours": ours, "scikit-learn": theirs},
        "times_scikit_learn": statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
        "train_loss": {"ours": losses[0][0], "scikit-learn": losses[0][1]},
    }


def _perceptron(root: Path, rounds: int) -> dict[str, Any]:
    images, rows, label = _subset(root, 64)
    low, high = int(images.pixels[images.rows[rows]].min()), int(images.pixels[images.rows[rows]].max())
    inputs = (images.pixels[images.rows[rows]].reshape(len(rows), -1).astype(np.float32) - low) / (high - low)
    wanted = (label[rows] > 0).astype(int).tolist()
    ours, plain = [], []
    for number in range(rounds):
        say(f"Perceptron, round {number + 1} of {rounds}")
        _, folder, seconds = _run(root, "experiment=article/perceptron_exponential")
        ours.append(seconds)
        start = time.perf_counter()
        weight, bias = np.zeros(inputs.shape[1], dtype=np.float32), np.float32(0)
        for epoch in range(30):
            rate = np.float32(0.175 * np.exp(-0.22 * epoch))
            for place in np.random.default_rng([0, epoch]).permutation(len(rows)):
                if error := wanted[place] - (inputs[place] @ weight + bias > 0):
                    weight += rate * error * inputs[place]
                    bias += rate * error
        plain.append(time.perf_counter() - start)
        learnt = load_classifier(folder.last).unit.weight.detach().numpy()
        assert np.linalg.norm(learnt - weight) < 1e-2 * np.linalg.norm(weight), np.linalg.norm(learnt - weight)
    return {"seconds": {"ours": ours, "plain loop": plain}, "epochs": 30, "images": len(rows)}


def _mlp(root: Path) -> dict[str, Any]:
    result, _, seconds = _run(root, "experiment=article/mlp_4")
    return {"seconds": seconds, "epochs": result.epochs, "val_accuracy": result.metrics["val"]["accuracy"]}


if __name__ == "__main__":
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    main()
